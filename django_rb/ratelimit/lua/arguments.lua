-- What every algorithm is told. Times are in ticks: the length of a tick is chosen so that
-- every number in the scripts is an integer below 2^53.
local key = KEYS[1]
local count, period, tick, burst =
  tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local action, cost = ARGV[5], tonumber(ARGV[6])  -- 'hit', 'peek' or 'refund'
local charged_at, level_before = tonumber(ARGV[7]), tonumber(ARGV[8])  -- what is given back

now = math.floor(now / tick)
