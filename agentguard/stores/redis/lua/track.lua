#!lua flags=allow-oom
-- the credential; it is recorded although its task has ended, since somebody must revoke it
local ids, tasks, active = family(ARGV[FIRST + 2])
track(unpack(ARGV, FIRST + 1, FIRST + 6))
if active then return done() end
return done(rows_of(ids, tasks))
