#!lua
-- 1 id, 2 the part that calls do not change, as it was read, 3 the same as it becomes
local id, before, after = ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3]
local key = P .. 'task:' .. id
if redis.call('HGET', key, 'fixed') ~= before or not is_active(facts(id)) then return seen() end
redis.call('HSET', key, 'fixed', after)
return done('1')
