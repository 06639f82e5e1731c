-- Windows that begin at the multiples of the period since 1970. The state is two integers:
-- the number of a window, and what was charged in it.
local passed = now % period
local window, used, left = (now - passed) / period, 0, period - passed
local stored = redis.call('GET', key)
if stored and #stored == 16 then
  local stored_window, stored_used = struct.unpack('>dd', stored)
  if stored_window == window + 1 then  -- the clock was set back: it stands still until then
    window, left = stored_window, period
  end
  if stored_window == window then
    used = stored_used
  end
end

local before = used
if action == 'refund' and charged_at == window then
  used = math.max(0, used - cost)
end
local allowed = count > 0 and used + cost <= count
if action == 'hit' and allowed then
  used = used + cost
end

if used ~= before then
  local state = struct.pack('>dd', window, used)
  if before == 0 then
    local expiry = string.format('%.0f', (window + 1) * period * tick / 1000)
    redis.call('SET', key, state, 'PXAT', expiry)
  elseif used > 0 then
    redis.call('SET', key, state, 'KEEPTTL')
  else
    redis.call('DEL', key)
  end
end

local retry = 0
if not allowed then
  retry = cost <= count and count > 0 and left or -1
end
return struct.pack('>dddddd', allowed and 1 or 0, used, used > 0 and left or 0, retry, window, 0)
