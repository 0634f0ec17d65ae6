#!lua flags=allow-oom
-- 1 family, 2 tool, 3 digest that is shown, as one packed name
return seen(approval_at(P .. 'rejection:' .. ARGV[FIRST + 1]))
