#!lua flags=allow-oom
-- Make the store if it is not there, or bring that of schema 1 to 2: what schema 1 keeps is kept so by 2 too.
local head = redis.call('HMGET', KEYS[1], 'schema', 'id', 'n')
if not head[1] then
    redis.call('HSET', KEYS[1], 'schema', ARGV[1], 'id', ARGV[2], 'n', '0')
    return {ARGV[1], ARGV[2], '0', ''}
end
if head[1] == '1' and ARGV[1] == '2' then
    redis.call('HSET', KEYS[1], 'schema', ARGV[1])
    return {ARGV[1], head[2], head[3], head[1]}
end
return {head[1], head[2], head[3], head[1]}
