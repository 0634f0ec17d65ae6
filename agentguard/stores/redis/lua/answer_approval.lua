#!lua
-- 1 id, 2 status, 3 '=' and the approver or '-', 4 reason, 5 expiry, 6 tool, 7 digest that is shown, then the
-- fields that the answer must not change and their values
local key, status, expires_at = P .. 'approval:' .. ARGV[FIRST + 1], ARGV[FIRST + 2], tonumber(ARGV[FIRST + 5])
local recorded = redis.call('HMGET', key, 'status', 'family')
local family_id = recorded[2] or ''
local name = packed(family_id) .. packed(ARGV[FIRST + 6]) .. packed(ARGV[FIRST + 7])
local before = approval_at(P .. 'rejection:' .. name)
local allowed = recorded[1] == 'pending' and (status == 'denied' or status == 'approved')
for i = FIRST + 8, #ARGV, 2 do
    if redis.call('HGET', key, ARGV[i]) ~= ARGV[i + 1] then allowed = false end
end
if status ~= 'denied' and (now >= expires_at or #before > 0) then allowed = false end
if not allowed then return refused(redis.call('HGETALL', key), before) end
redis.call('HSET', key, 'status', status, 'reason', ARGV[FIRST + 4])
if ARGV[FIRST + 3] == '-' then
    redis.call('HDEL', key, 'approver')
else
    redis.call('HSET', key, 'approver', string.sub(ARGV[FIRST + 3], 2))
end
if status == 'denied' then
    -- a rejection holds as long as the oldest task of its family
    local keep = math.max(expires_at + KEEP, tonumber(facts(family_id)[KEPT] or '0'))
    lengthen(key, keep)
    if #before == 0 then redis.call('SET', P .. 'rejection:' .. name, ARGV[FIRST + 1]) end
    lengthen(P .. 'rejection:' .. name, keep)
end
return done()
