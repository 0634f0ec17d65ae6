"""A task's life.

task    a task begins, is narrowed, is delegated, and is left
family  what a task that begins in another one has of it
ending  a task ends, whoever ends it, and what is alive of it is revoked
handle  how a run's config names a task
"""
