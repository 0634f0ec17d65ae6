#!lua flags=allow-oom
-- 1 id of a call
forget(ARGV[FIRST + 1])
return done()
