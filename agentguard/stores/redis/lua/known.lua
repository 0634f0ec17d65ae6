#!lua flags=allow-oom
-- 1 key
local time = redis.call('GET', P .. 'key:' .. ARGV[FIRST + 1])
return seen(time and tonumber(time) > now and '1' or '0')
