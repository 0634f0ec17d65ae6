"""A task's life.

task    a task begins, is narrowed, is delegated, and is left
ending  a task ends, whoever ends it, and what is alive of it is revoked
"""
