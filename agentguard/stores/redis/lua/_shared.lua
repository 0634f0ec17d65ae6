-- What stands before each script but `open`. KEYS[1] is the hash of the store itself; each other key has the
-- same prefix and hash tag, so that all keys are in one slot of a cluster. ARGV begins with the schema, the
-- identity of the store, the time, and how long ended things and keys are kept, in seconds.
--
-- A script writes nothing before it has decided, since nothing that it has written is taken back. A number is
-- a text wherever it has to stay exact: a number of Lua is a double, and its text has 14 digits.
local P = string.sub(KEYS[1], 1, -6)
local NOW, now = ARGV[3], tonumber(ARGV[3])
local KEEP, KEEP_KEYS = tonumber(ARGV[4]), tonumber(ARGV[5])
local FIRST = 5

local head = redis.call('HMGET', KEYS[1], 'schema', 'id', 'n')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then
    return {'foreign', '0'}
end

local function seen(...)
    return {'seen', head[3], ...}
end

local function refused(...)
    return {'refused', head[3], ...}
end

local function done(...)
    return {'done', string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'n', 1)), ...}
end

-- A list of texts is one text: the length of each in bytes, a colon, and the text.
local function packed(text)
    return #text .. ':' .. text
end

local function texts(list)
    local result, at = {}, 1
    while at <= #list do
        local colon = string.find(list, ':', at, true)
        local size = tonumber(string.sub(list, at, colon - 1))
        result[#result + 1] = string.sub(list, colon + 1, colon + size)
        at = colon + size + 1
    end
    return result
end

-- Milliseconds from now until a time in seconds, which Redis takes as an expiry: from 1 to 3,000 years.
local function span(time)
    return string.format('%.0f', math.max(1, math.min((time - now) * 1000, 1e14)))
end

-- Have a key live at least until that time; one that has no expiry yet is new.
local function lengthen(key, time)
    if redis.call('PTTL', key) < math.min((time - now) * 1000, 1e14) then
        redis.call('PEXPIRE', key, span(time))
    end
end

-- Whether a count has reached a limit, both as texts. '' is no limit.
local function reached(count, limit)
    if limit == '' then return false end
    if string.sub(limit, 1, 1) == '-' then return true end
    if #count ~= #limit then return #count > #limit end
    return count >= limit
end

-- The facts of a task by which a call is judged; `Facts` in rows.py has the same order. The first is false
-- if there is no such task.
local function facts(id)
    return redis.call(
        'HMGET', P .. 'task:' .. id, 'status', 'deadline', 'calls', 'writes', 'questions',
        'calls_limit', 'writes_limit', 'questions_limit', 'choice_bits', 'choice_bits_limit', 'lineage', 'keep'
    )
end

local LINEAGE, KEPT = 11, 12

local function is_active(task)
    return task[1] == 'active' and now < tonumber(task[2])
end

-- The ids of a task and its ancestors, the facts of each, and whether each of them is active.
local function family(id)
    local task = facts(id)
    local ids, tasks, active = {id}, {task}, is_active(task)
    for _, ancestor in ipairs(task[1] and texts(task[LINEAGE]) or {}) do
        local other = facts(ancestor)
        ids[#ids + 1], tasks[#tasks + 1] = ancestor, other
        active = active and is_active(other)
    end
    return ids, tasks, active
end

-- The same for the caller, who says in words why a task can make no call.
local function rows_of(ids, tasks)
    local rows = {}
    for i, id in ipairs(ids) do
        local row = {id}
        for j = 1, tasks[i][1] and LINEAGE - 1 or 0 do row[j + 1] = tasks[i][j] or '' end
        rows[i] = row
    end
    return rows
end

local function track(call_id, task_id, broker, handle, expires_at, owner)
    local keep, owes = tonumber(expires_at) + KEEP, P .. 'owes:' .. task_id
    local key, until_ = P .. 'credentials:' .. call_id, string.format('%.17g', keep)
    redis.call(
        'HSET', key, packed(broker) .. packed(handle), packed(task_id) .. packed(expires_at) .. packed(owner)
    )
    lengthen(key, keep)
    redis.call('ZADD', P .. 'live', 'GT', until_, call_id)
    redis.call('ZADD', owes, 'GT', until_, call_id)
    lengthen(owes, keep)
    -- a task with something to revoke stays
    local task = facts(task_id)
    if task[1] and keep > tonumber(task[KEPT]) then
        redis.call('HSET', P .. 'task:' .. task_id, 'keep', until_)
        lengthen(P .. 'task:' .. task_id, keep)
        for _, ancestor in ipairs(texts(task[LINEAGE])) do
            redis.call('ZADD', P .. 'descendants:' .. ancestor, 'GT', until_, task_id)
            lengthen(P .. 'descendants:' .. ancestor, keep)
        end
    end
end

local function forget(call_id)
    local key = P .. 'credentials:' .. call_id
    for _, row in ipairs(redis.call('HVALS', key)) do
        redis.call('ZREM', P .. 'owes:' .. texts(row)[1], call_id)
    end
    redis.call('DEL', key)
    redis.call('ZREM', P .. 'live', call_id)
end

-- Record a key or the later time of a recorded one; return whether it was over, or new.
local function remember(name, time)
    local key = P .. 'key:' .. name
    local present = redis.call('GET', key)
    local new = not present or tonumber(present) <= now
    if present and tonumber(present) > tonumber(time) then time = present end
    redis.call('SET', key, time, 'PX', span(tonumber(time) + KEEP_KEYS))
    return new
end

-- The approval whose id stands at a key, as the list of its fields; empty if there is none.
local function approval_at(key)
    local id = redis.call('GET', key)
    return id and redis.call('HGETALL', P .. 'approval:' .. id) or {}
end
