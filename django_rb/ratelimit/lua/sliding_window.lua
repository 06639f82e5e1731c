-- Two counters: of this window, and of the one before, which weighs as much as is left of
-- this one. The state is the number of the window and the two. Windows begin at the multiples
-- of the period since 1970.
-- https://blog.cloudflare.com/counting-things-a-lot-of-different-things/
local passed = now % period
local window, current, previous, left = (now - passed) / period, 0, 0, period - passed
local stored = redis.call('GET', key)
if stored and #stored == 24 then
  local stored_window, first, second = struct.unpack('>ddd', stored)
  if stored_window == window + 1 then  -- the clock was set back: it stands still until then
    window, left = stored_window, period
  end
  if stored_window == window then
    current, previous = first, second
  elseif stored_window == window - 1 then
    previous = first
  end
end

local before, is_new = current + previous, current == 0
if action == 'refund' then
  if charged_at == window then
    current = math.max(0, current - cost)
  elseif charged_at == window - 1 then
    previous = math.max(0, previous - cost)
  end
end
local weighted = math.ceil(previous * left / period)
local allowed = count > 0 and current + weighted + cost <= count
if action == 'hit' and allowed then
  current = current + cost
end

if current + previous ~= before then
  local state = struct.pack('>ddd', window, current, previous)
  if action == 'hit' and is_new then
    local expiry = string.format('%.0f', (window + 2) * period * tick / 1000)
    redis.call('SET', key, state, 'PXAT', expiry)
  elseif current + previous > 0 then
    redis.call('SET', key, state, 'KEEPTTL')
  else
    redis.call('DEL', key)
  end
end

local reset, retry = 0, 0
if current > 0 then
  reset = left + period
elseif previous > 0 then
  reset = left
end
if not allowed then
  if count == 0 or cost > count then
    retry = -1
  elseif current + cost <= count then  -- once the window before weighs less
    retry = left - math.floor((count - cost - current) * period / previous)
  else  -- once this one does
    retry = left + period - math.floor((count - cost) * period / current)
  end
end
return struct.pack('>dddddd', allowed and 1 or 0, current + weighted, reset, retry, window, 0)
