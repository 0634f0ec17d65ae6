#!lua
-- 1 id, 2 task, 3 tool, 4 digest that is shown, 5 status, 6 expiry, 7 call key, then the fields of the hash and
-- their values
local id, task_id, status = ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 5]
local key = P .. 'approval:' .. id
local recorded = redis.call('HGETALL', key)
if #recorded > 0 then return seen(recorded) end
local ids, tasks, allowed = family(task_id)
local root = ids[#ids]
local before = approval_at(P .. 'rejection:' .. packed(root) .. packed(ARGV[FIRST + 3]) .. packed(ARGV[FIRST + 4]))
allowed = allowed and status == 'pending' and #before == 0
for _, task in ipairs(allowed and tasks or {}) do
    if reached(task[5], task[8]) then allowed = false end
end
if not allowed then return refused(rows_of(ids, tasks), before) end
local keep = tonumber(ARGV[FIRST + 6]) + KEEP
redis.call('HSET', key, 'family', root)
for i = FIRST + 8, #ARGV, 2 do
    redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
lengthen(key, keep)
redis.call('SET', P .. 'newest:' .. ARGV[FIRST + 7], id, 'PX', span(keep))
for _, one in ipairs(ids) do redis.call('HINCRBY', P .. 'task:' .. one, 'questions', 1) end
return done()
