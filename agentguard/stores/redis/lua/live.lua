#!lua flags=allow-oom
-- 1 a task, with all its descendants; or nothing for all
local calls, tasks, rows = {}, {}, {}
local task_id = ARGV[FIRST + 1]
if not task_id then
    calls = redis.call('ZRANGE', P .. 'live', 0, -1)
else
    local listed = {}
    local ids = redis.call('ZRANGE', P .. 'descendants:' .. task_id, 0, -1)
    ids[#ids + 1] = task_id
    for _, id in ipairs(ids) do
        tasks[id] = true
        for _, call_id in ipairs(redis.call('ZRANGE', P .. 'owes:' .. id, 0, -1)) do
            if not listed[call_id] then calls[#calls + 1] = call_id end
            listed[call_id] = true
        end
    end
end
for _, call_id in ipairs(calls) do
    local fields = redis.call('HGETALL', P .. 'credentials:' .. call_id)
    for i = 1, #fields, 2 do
        local row = texts(fields[i + 1])
        if not task_id or tasks[row[1]] then
            local name = texts(fields[i])
            rows[#rows + 1] = {call_id, row[1], name[1], name[2], row[2], row[3]}
        end
    end
end
return seen(rows)
