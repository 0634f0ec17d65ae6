#!lua
-- 1 id, 2 deadline, 3 lineage, 4 keys of its indexes, 5 labels, then the fields of the hash and their values
local id, deadline, lineage = ARGV[FIRST + 1], ARGV[FIRST + 2], texts(ARGV[FIRST + 3])
local key = P .. 'task:' .. id
if redis.call('EXISTS', key) == 1 then return refused() end
local keep = tonumber(deadline) + KEEP
local until_ = string.format('%.17g', keep)
-- labels are counted once for the whole family; each task holds how many it had more at its beginning
local root = lineage[#lineage] or id
local count = redis.call('HGET', P .. 'labels:' .. root, 'n') or '0'
redis.call('HSET', key, 'keep', until_, 'labels', ARGV[FIRST + 5], 'labels_before', count)
for i = FIRST + 6, #ARGV, 2 do
    redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
lengthen(key, keep)
for _, ancestor in ipairs(lineage) do
    local descendants = P .. 'descendants:' .. ancestor
    redis.call('ZREMRANGEBYSCORE', descendants, '-inf', NOW)
    redis.call('ZADD', descendants, 'GT', until_, id)
    lengthen(descendants, keep)
end
for _, name in ipairs(texts(ARGV[FIRST + 4])) do
    local index = P .. 'active:' .. name
    redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('%.17g', now - KEEP))
    redis.call('ZADD', index, deadline, id)
    lengthen(index, keep)
end
redis.call('ZREMRANGEBYSCORE', P .. 'live', '-inf', NOW)
return done()
