#!lua flags=allow-oom
-- 1 id
return seen(redis.call('HGETALL', P .. 'approval:' .. ARGV[FIRST + 1]))
