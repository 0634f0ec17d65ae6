"""The store of several machines, in Redis 7 or Valkey. It needs the extra ``redis``.

    store        `RedisStore`: its operations, for threads and for event loops
    requests     what each operation asks the server, and what the answer means
    basis        begins a call if what it was judged by is still so
    scripts      the Lua scripts of the folder ``lua``, which decide and write
    session      which store the server holds, and whether it has lost anything
    connections  pools, for threads and for each event loop
    wire         one exchange on a connection, and the errors of redis-py in our words
    durability   what a server must be configured like, and what it may lose all the same
    address      where a server is
    rows, packing
                 model objects as hashes, and lists as texts

The keys of a store, each with ``{PREFIX}:`` before it, whose braces are a hash tag:

    store              the schema, the identity, and the number of writes
    task:ID            a task; ``tool:NAME`` in it is the number of calls before the first of that tool
    descendants:ID     the tasks that descend from it, by the time until which they are kept
    active:INDEX       the active tasks of a subject, an address or a login, by their deadlines
    labels:ROOT        the labels of a family of tasks, by digest, and their number
    call:ID            a call that runs
    suspended:CALL     the approval that a suspended call has used
    credentials:CALL   the credentials of a call; ``live`` and ``owes:TASK`` list such calls
    approval:ID        an approval; ``newest:KEY`` and ``rejection:CALL`` name one
    key:KEY            until when a key is recorded

But for `store`, each has an expiry, which is later than anything can come of it.
"""

from __future__ import annotations

from agentguard.stores.redis.durability import Durability, Level
from agentguard.stores.redis.store import RedisStore

__all__ = ["Durability", "Level", "RedisStore"]
