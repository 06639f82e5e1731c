-- What every algorithm is told. All numbers travel, and are kept, as doubles, which is what
-- numbers of Lua are: to write and read them as text takes longer than all else in a script.
-- Times are in ticks, whose length is chosen so that every number is an integer below 2^53.
local key, action = KEYS[1], ARGV[1]  -- 'hit', 'peek' or 'refund'
local count, period, tick, burst, cost,
  charged_at, level_before = struct.unpack('>ddddddd', ARGV[2])  -- the last two: of a refund

now = (now - now % tick) / tick
