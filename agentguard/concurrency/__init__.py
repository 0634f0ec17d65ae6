"""One implementation for the synchronous and the asynchronous path, and one fetch for several callers.

drive          runs a coroutine without an event loop, and makes both forms of a port's method
deadline       until when a blocking operation may wait
abandonable    threads for functions that may never return, with a bound for each party and for all
threads        threads that run one function after the other
party          for whom an operation is
worker         runs several blocking operations of an event loop in one thread
answer         what one thread or coroutine finds out, and others wait for
owned_lock     a lock with a time-out, which is taken from an owner that was interrupted
waiting        how threads and processes wait, so that nobody is passed by for long
places         a bounded number of places, none of which is lost with an owner that was interrupted
fork           what objects do when the process forks: locks, gates, hooks
running        who still runs, and whom an exception such as that of Ctrl-C has ended
hiding         hides this process from the other processes of its user
stream         steps a synchronous generator from an event loop, in one context
together       several coroutines side by side, on either path
single_flight  when several callers need the same value at once, one of them fetches it for all
"""
