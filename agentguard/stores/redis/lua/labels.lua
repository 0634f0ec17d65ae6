#!lua flags=allow-oom
-- 1 family, then digests
local rows = {}
for i = FIRST + 2, #ARGV do
    local label = redis.call('HGET', P .. 'labels:' .. ARGV[FIRST + 1], 'of:' .. ARGV[i])
    if label then rows[#rows + 1] = {ARGV[i], label} end
end
return seen(rows)
