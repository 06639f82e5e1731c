-- Windows that begin at the multiples of the period since 1970. The state is two integers:
-- the number of a window, and what was charged in it.
local window, used = math.floor(now / period), 0
local stored_window, stored_used =
  string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
if stored_window then
  stored_window = tonumber(stored_window)
  if stored_window == window + 1 then  -- the clock was set back: it stands still until then
    window = stored_window
    now = window * period
  end
  if stored_window == window then
    used = tonumber(stored_used)
  end
end
local left = (window + 1) * period - now

local function store(...)
  redis.call('SET', key, string.format('%.0f %.0f', window, used), ...)
end

if action == 'refund' and charged_at == window and used > 0 then
  used = math.max(0, used - cost)
  if used > 0 then
    store('KEEPTTL')
  else
    redis.call('DEL', key)
  end
end

local allowed = count > 0 and used + cost <= count
if allowed and action == 'hit' and cost > 0 then
  used = used + cost
  store('PXAT', string.format('%.0f', (now + left) * tick / 1000))
end

local retry = 0
if not allowed then
  retry = cost <= count and count > 0 and left or -1
end
return {allowed and 1 or 0, used, used > 0 and left or 0, retry, window, 0}
