-- GCRA, in its form as a leaky bucket (ITU-T I.371, annex A): what was taken drains away.
-- The state is two integers: the level, and when it was that. A request raises the level by
-- `period`, a tick lowers it by `count`: nothing is rounded. The bucket holds `burst` requests.
local size, level = burst * period, 0
local stored = redis.call('GET', key)
if stored and #stored == 16 then
  local stored_level, since = struct.unpack('>dd', stored)
  if since > now and since - now <= period then  -- the clock was set back: it stands still
    now = since
  end
  if since <= now and stored_level <= size then
    level = math.max(0, stored_level - (now - since) * count)
  end
end

if action == 'refund' and level > 0 and charged_at <= now then
  -- As much as cannot have drained since. Without the charge, the bucket would have been
  -- empty from when `level_before` was gone, and nothing drains from an empty one.
  local drained = math.max(0, (now - charged_at) * count - level_before)
  level = math.max(0, level - math.max(0, cost * period - drained))
  if level > 0 then
    redis.call('SET', key, struct.pack('>dd', level, now), 'KEEPTTL')
  else
    redis.call('DEL', key)
  end
end

local before = level
local allowed = count > 0 and level + cost * period <= size
if action == 'hit' and allowed and cost > 0 then
  level = level + cost * period
  local expiry = string.format('%.0f', (now + math.ceil(level / count)) * tick / 1000)
  redis.call('SET', key, struct.pack('>dd', level, now), 'PXAT', expiry)
end

local reset, retry = 0, 0
if level > 0 then
  reset = math.ceil(level / count)
end
if not allowed then
  if count == 0 or cost > burst then
    retry = -1
  else
    retry = math.ceil((level + cost * period - size) / count)
  end
end
return struct.pack('>dddddd', allowed and 1 or 0, math.ceil(level / period), reset, retry, now, before)
