#!lua flags=allow-oom
-- 1 id, 2 the status in which it ends, then of each notice: call id, broker, handle, expiry, owner
local ids = redis.call('ZRANGE', P .. 'descendants:' .. ARGV[FIRST + 1], 0, -1)
local ended = {}
table.insert(ids, 1, ARGV[FIRST + 1])
for _, id in ipairs(ids) do
    local key = P .. 'task:' .. id
    local task = redis.call('HMGET', key, 'status', 'deadline', 'indexes')
    if task[1] == 'active' then
        ended[#ended + 1] = id
        local deadline = tonumber(task[2])
        local keep = math.min(now, deadline) + KEEP
        redis.call('HSET', key, 'status', now >= deadline and 'expired' or ARGV[FIRST + 2])
        for _, name in ipairs(texts(task[3])) do redis.call('ZREM', P .. 'active:' .. name, id) end
        -- it stays as long as what it owes: the last of that has the highest score
        local last = redis.call('ZRANGE', P .. 'owes:' .. id, -1, -1, 'WITHSCORES')
        if last[2] then keep = math.max(keep, tonumber(last[2])) end
        redis.call('HSET', key, 'keep', string.format('%.17g', keep))
        redis.call('PEXPIRE', key, span(keep))
        for i = FIRST + 3, #ARGV, 5 do
            track(ARGV[i] .. id, id, ARGV[i + 1], ARGV[i + 2] .. id, ARGV[i + 3], ARGV[i + 4])
        end
    end
end
return done(ended)
