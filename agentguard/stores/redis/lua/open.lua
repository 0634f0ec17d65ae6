#!lua flags=allow-oom
-- Make the store if it is not there: the schema, and a random identity by which its loss is noticed.
local head = redis.call('HMGET', KEYS[1], 'schema', 'id', 'n')
if not head[1] then
    redis.call('HSET', KEYS[1], 'schema', ARGV[1], 'id', ARGV[2], 'n', '0')
    return {ARGV[1], ARGV[2], '0'}
end
return head
