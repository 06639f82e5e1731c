-- Two counters: of this window, and of the one before, which weighs as much as is left of
-- this one. The state is the number of the window and the two. Windows begin at the multiples
-- of the period since 1970.
-- https://blog.cloudflare.com/counting-things-a-lot-of-different-things/
local window, current, previous = math.floor(now / period), 0, 0
local stored_window, first, second =
  string.match(redis.call('GET', key) or '', '^(%d+) (%d+) (%d+)$')
if stored_window then
  stored_window = tonumber(stored_window)
  if stored_window == window + 1 then  -- the clock was set back: it stands still until then
    window = stored_window
    now = window * period
  end
  if stored_window == window then
    current, previous = tonumber(first), tonumber(second)
  elseif stored_window == window - 1 then
    previous = tonumber(first)
  end
end
local left = (window + 1) * period - now

local function store(...)
  redis.call('SET', key, string.format('%.0f %.0f %.0f', window, current, previous), ...)
end

if action == 'refund' and current + previous > 0 then
  if charged_at == window then
    current = math.max(0, current - cost)
  elseif charged_at == window - 1 then
    previous = math.max(0, previous - cost)
  end
  if current + previous > 0 then
    store('KEEPTTL')
  else
    redis.call('DEL', key)
  end
end

local weighted = math.ceil(previous * left / period)
local allowed = count > 0 and current + weighted + cost <= count
if allowed and action == 'hit' and cost > 0 then
  current = current + cost
  store('PXAT', string.format('%.0f', (now + left + period) * tick / 1000))
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
return {allowed and 1 or 0, current + weighted, reset, retry, window, 0}
