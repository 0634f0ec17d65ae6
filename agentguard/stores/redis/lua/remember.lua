#!lua
-- 1 key, 2 its time
local new = remember(ARGV[FIRST + 1], ARGV[FIRST + 2])
return done(new and '1' or '0')
