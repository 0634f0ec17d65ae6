#!lua flags=allow-oom
-- 1 what a suspended call has in common with the one that resumes it, or '', then owner, name and first bucket of
-- each number
local before = texts(redis.call('GET', P .. 'added:' .. ARGV[FIRST + 1]) or '')
local result = {}
for i = FIRST + 2, #ARGV, 3 do
    local owner, name, since = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
    result[#result + 1] = whole(number_of(owner, name, since) - added_by(before, owner, name, since))
end
return seen(result)
