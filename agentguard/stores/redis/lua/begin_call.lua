#!lua
-- 1 id, 2 task, 3 tool, 4 '1' for a call that writes, 5 what a resumed call has in common with its suspended
-- one, 6 call key, 7 '=' and the id of an approval or '-', 8 choice bits, then the credential if there is one
local id, task_id, tool, writes = ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3], ARGV[FIRST + 4] == '1'
local same, call_key, claim = ARGV[FIRST + 5], ARGV[FIRST + 6], ARGV[FIRST + 7]
local bits = tonumber(ARGV[FIRST + 8])
local call, prior = P .. 'call:' .. id, redis.call('GET', P .. 'suspended:' .. same)
local ids, tasks, allowed = family(task_id)
local begun = redis.call('EXISTS', call)
allowed = allowed and begun == 0
for _, task in ipairs(not prior and allowed and tasks or {}) do
    if reached(task[3], task[6]) or writes and reached(task[4], task[7]) then allowed = false end
    -- a task of an older version has neither this count nor its limit; no task says 2^53 bits
    local most = task[10] and task[10] ~= '' and tonumber(task[10])
    if bits > 0 and most and tonumber(task[9] or '0') + bits > most then allowed = false end
end
local approval
if claim ~= '-' then
    approval = P .. 'approval:' .. string.sub(claim, 2)
    local a = redis.call('HMGET', approval, 'call_key', 'task_id', 'tool', 'status', 'expires_at')
    local is_for_it = a[1] == call_key and a[2] == task_id and a[3] == tool
    local again = a[4] == 'used' and prior == claim
    if not (is_for_it and (again or a[4] == 'approved' and now < tonumber(a[5]))) then allowed = false end
end
if not allowed then
    local recorded = approval and redis.call('HGETALL', approval) or {}
    return refused(prior or '', begun, rows_of(ids, tasks), recorded)
end
redis.call('SET', call, packed(task_id) .. packed(same) .. packed(claim), 'PX', span(tonumber(tasks[1][KEPT])))
if prior then
    redis.call('DEL', P .. 'suspended:' .. same)
else
    for i, one in ipairs(ids) do
        local key = P .. 'task:' .. one
        redis.call('HINCRBY', key, 'calls', 1)
        if writes then redis.call('HINCRBY', key, 'writes', 1) end
        if bits > 0 then redis.call('HINCRBY', key, 'choice_bits', bits) end
        -- the tools in the order of their first calls: the number of calls before it
        redis.call('HSETNX', key, 'tool:' .. tool, tasks[i][3])
    end
end
if approval then redis.call('HSET', approval, 'status', 'used') end
if #ARGV > FIRST + 8 then track(unpack(ARGV, FIRST + 9, FIRST + 14)) end
return done()
