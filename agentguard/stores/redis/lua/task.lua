#!lua flags=allow-oom
-- 1 id
local id = ARGV[FIRST + 1]
local fields = redis.call('HGETALL', P .. 'task:' .. id)
if #fields == 0 then return seen() end
local lineage = texts(redis.call('HGET', P .. 'task:' .. id, 'lineage'))
return seen(fields, redis.call('HGET', P .. 'labels:' .. (lineage[#lineage] or id), 'n') or '0')
