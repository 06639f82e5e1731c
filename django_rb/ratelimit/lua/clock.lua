-- The time in microseconds, on the clock of the server that has the key. A number of Lua
-- is a double, which holds such integers exactly until the year 2255.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
