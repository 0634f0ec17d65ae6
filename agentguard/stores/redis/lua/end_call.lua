#!lua flags=allow-oom
-- 1 id, 2 '1' if it is suspended, 3 '1' if its credentials are revoked, 4 and 5 a key to remember and its time
-- or '', 6 '1' if it has read something, 7 '1' if that is untrusted, 8 its sensitivity, 9 and 10 the most labels
-- of a family and the most with trusted ones, 11 '1' to take back what it has added to numbers, then digest,
-- source, '1' if trusted, sensitivity of each label
local id, suspended, has_read = ARGV[FIRST + 1], ARGV[FIRST + 2] == '1', ARGV[FIRST + 6] == '1'
local call = P .. 'call:' .. id
local row = redis.call('GET', call)
if ARGV[FIRST + 3] == '1' then forget(id) end
if ARGV[FIRST + 5] ~= '' then remember(ARGV[FIRST + 4], ARGV[FIRST + 5]) end
if not row then return done() end
local task_id, same, claim, added = unpack(texts(row))
redis.call('DEL', call)
if added and ARGV[FIRST + 11] == '1' then
    take_back(texts(added))
    added = nil
end
local task = facts(task_id)
if not task[1] then return done() end
if suspended then
    redis.call('SET', P .. 'suspended:' .. same, claim, 'PX', span(tonumber(task[KEPT])))
    if added then redis.call('SET', P .. 'added:' .. same, added, 'PX', span(tonumber(task[KEPT]))) end
end
if not has_read then return done() end

local lineage = texts(task[LINEAGE])
local untrusted, sensitivity = ARGV[FIRST + 7] == '1', tonumber(ARGV[FIRST + 8])
for _, one in ipairs({task_id, unpack(lineage)}) do
    local key = P .. 'task:' .. one
    local before = redis.call('HMGET', key, 'untrusted', 'sensitivity')
    if before[1] and untrusted then redis.call('HSET', key, 'untrusted', '1') end
    if before[2] and sensitivity > tonumber(before[2]) then
        redis.call('HSET', key, 'sensitivity', ARGV[FIRST + 8])
    end
end

local root = lineage[#lineage] or task_id
local labels, most, most_trusted = P .. 'labels:' .. root, tonumber(ARGV[FIRST + 9]), tonumber(ARGV[FIRST + 10])
local own = redis.call('HMGET', P .. 'task:' .. task_id, 'labels', 'labels_before')
local count = tonumber(own[1]) - tonumber(own[2]) + tonumber(redis.call('HGET', labels, 'n') or '0')
local new = 0
for i = FIRST + 12, #ARGV, 4 do
    local digest, source, trusted = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if count < (trusted == '1' and most_trusted or most) then
        count = count + 1
        local present, known = redis.call('HGET', labels, 'of:' .. digest) or '', false
        for j, other in ipairs(texts(present)) do
            known = known or j % 3 == 1 and other == source
        end
        if not known then
            new = new + 1
            local label = packed(source) .. packed(trusted) .. packed(ARGV[i + 3])
            redis.call('HSET', labels, 'of:' .. digest, present .. label)
        end
    end
end
if new > 0 then
    redis.call('HINCRBY', labels, 'n', new)
    lengthen(labels, tonumber(facts(root)[KEPT] or task[KEPT]))
end
return done()
