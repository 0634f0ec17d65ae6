#!lua flags=allow-oom
-- 1 call key
return seen(approval_at(P .. 'newest:' .. ARGV[FIRST + 1]))
