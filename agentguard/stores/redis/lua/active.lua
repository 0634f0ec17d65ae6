#!lua flags=allow-oom
-- 1 name of an index, 2 the place in a login that must be empty or '0', then the names that a login must have
-- ('' for any): issuer, subject, session, jti
-- A task is over when the caller's clock and the server's say so: on another host it may still run.
local time = redis.call('TIME')
local least = now < tonumber(time[1]) and NOW or time[1]
local ids = redis.call('ZRANGEBYSCORE', P .. 'active:' .. ARGV[FIRST + 1], '(' .. least, '+inf')
local without, result = tonumber(ARGV[FIRST + 2]), {}
if without == 0 and #ARGV == FIRST + 2 then return seen(ids) end
for _, id in ipairs(ids) do
    local login = texts(redis.call('HGET', P .. 'task:' .. id, 'login') or '')
    local matches = without == 0 or (login[without] or '') == ''
    for place = 1, #ARGV - FIRST - 2 do
        local name = ARGV[FIRST + 2 + place]
        matches = matches and (name == '' or login[place] == name)
    end
    if matches then result[#result + 1] = id end
end
return seen(result)
