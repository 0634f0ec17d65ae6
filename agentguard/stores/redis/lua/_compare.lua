-- What stands before `begin_call` where the call begins only if what it was judged by is still so. The first
-- argument is the tasks, the root of their family, and the labels; those of `begin_call` follow it.
local basis = texts(ARGV[FIRST + 1])
FIRST = FIRST + 1
local judged, vouched, family_labels = texts(basis[1]), texts(basis[3]), P .. 'labels:' .. basis[2]
local number_of_labels = redis.call('HGET', family_labels, 'n') or '0'
local changed, rows = false, {}
-- how many tools the task has called
local function number_of_tools(key)
    local number = 0
    for _, field in ipairs(redis.call('HKEYS', key)) do
        if string.sub(field, 1, 5) == 'tool:' then number = number + 1 end
    end
    return tostring(number)
end
-- id, fixed, calls, writes, choice bits, questions, untrusted, sensitivity, labels and tools of each task
for i = 1, #judged, 10 do
    local key = P .. 'task:' .. judged[i]
    local row = redis.call(
        'HMGET', key, 'fixed', 'calls', 'writes', 'choice_bits', 'questions', 'untrusted', 'sensitivity',
        'labels', 'labels_before'
    )
    if row[1] then
        row[4] = row[4] or '0'
        row[8] = string.format('%.0f', tonumber(row[8]) - tonumber(row[9]) + tonumber(number_of_labels))
        row[9] = number_of_tools(key)
        for j = 1, 9 do changed = changed or row[j] ~= judged[i + j] end
    end
end
-- the labels of a digest in any order: each is a source, whether it is trusted, and a sensitivity
local function is_same(present, expected)
    if present == expected then return true end
    if #present ~= #expected then return false end
    local had, parts = {}, texts(expected)
    for i = 1, #parts, 3 do had[packed(parts[i]) .. packed(parts[i + 1]) .. packed(parts[i + 2])] = true end
    parts = texts(present)
    for i = 1, #parts, 3 do
        if not had[packed(parts[i]) .. packed(parts[i + 1]) .. packed(parts[i + 2])] then return false end
    end
    return true
end
for i = 1, #vouched, 2 do
    local present = redis.call('HGET', family_labels, 'of:' .. vouched[i]) or ''
    changed = changed or not is_same(present, vouched[i + 1])
end
for i = 1, changed and #judged or 0, 10 do
    rows[#rows + 1] = redis.call('HGETALL', P .. 'task:' .. judged[i])
    -- no call begins in a task that is unknown
    changed = changed and #rows[#rows] > 0
end
if changed then return seen(rows, number_of_labels) end
