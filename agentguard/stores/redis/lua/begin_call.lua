#!lua
-- 1 id, 2 task, 3 tool, 4 '1' for a call that writes, 5 what a resumed call has in common with its suspended
-- one, 6 call key, 7 '=' and the id of an approval or '-', 8 choice bits, 9 the numbers by which it was judged,
-- 10 what it adds to numbers, 11 and 12 the most of a number and of the values of an argument, then the
-- credential if there is one
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
local looked_at, additions = texts(ARGV[FIRST + 9]), texts(ARGV[FIRST + 10])
local before = prior and texts(redis.call('GET', P .. 'added:' .. same) or '') or {}
local problem
if allowed and #looked_at + #additions > 0 then
    local most, values = tonumber(ARGV[FIRST + 11]), tonumber(ARGV[FIRST + 12])
    problem = number_problem(looked_at, additions, before, most, values)
end
if not allowed or problem then
    local recorded = approval and redis.call('HGETALL', approval) or {}
    return refused(prior or '', begun, rows_of(ids, tasks), recorded, problem or {})
end
local row = packed(task_id) .. packed(same) .. packed(claim)
if #additions > 0 then row = row .. packed(ARGV[FIRST + 10]) end
redis.call('SET', call, row, 'PX', span(tonumber(tasks[1][KEPT])))
if prior then
    redis.call('DEL', P .. 'suspended:' .. same, P .. 'added:' .. same)
    take_back(before)
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
if #additions > 0 then add_numbers(additions, tonumber(tasks[#tasks][KEPT])) end
if #ARGV > FIRST + 12 then track(unpack(ARGV, FIRST + 13, FIRST + 18)) end
return done()
