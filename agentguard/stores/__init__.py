"""Stores: they keep tasks, budgets, approvals, replay ids and the handles of live credentials.

    memory       `MemoryStore`, for one process
    sqlite       `SqliteStore`, for all processes of one machine
    redis        `RedisStore`, for many machines; it needs the extra ``redis``, so it is not imported here
    postgres     `PostgresStore`, for many machines; it needs the extra ``postgres``
    _rules       the decisions that all stores make: budgets, approvals, the end of a task
    _database    connections and transactions of one SQLite file
    _sql, _sql_tasks, _sql_approvals
                 the tables and statements of the SQLite store
    _migrations  what brings its file from one schema version to the next
    _rows        how its rows become model objects
    upkeep, sqlite_upkeep, server_upkeep
                 what `agentguard store` does: the newest schema, the check, and the smaller file
    _memory_approvals
                 the approvals of the store in memory

The stores delete what can no longer matter: expired keys two hours after their time; ended tasks, expired
approvals and lapsed credentials a day after their end, or after the time of `Retention`. A store never holds
a secret, and it does not revoke credentials: the guard does.

Which store for what (`[store] kind` in agentguard.toml; agentguard.config.store has the other keys):

    memory     tests and notebooks. It ends with its process.
    sqlite     the default: the processes of one machine, which share a local disk. After a power failure the
               last transactions may be lost. Not for a network file system, and not for containers that
               share no disk.
    postgres   processes on several machines, where nothing that was acknowledged may be lost: a revocation,
               a used approval, a counted call. Each operation is one transaction, and waits for the disk. A
               server with ``fsync = off`` is refused.
    redis      processes on several machines, where a Redis or Valkey is there and PostgreSQL is not. Each
               operation is one script. Redis writes its log to the disk once a second unless told otherwise,
               and a replica lags: `redis.durability` says what may be lost. A server that evicts keys or
               keeps no log is refused. Redis Sentinel is not supported: `url` has to lead to the primary.

    [store]
    kind = "postgres"
    url = "postgresql://agentguard@db.example/agents"
    password = "env:STORE_PASSWORD"        # or file:, keyring:, aws:, gcp:, azure:; read again when refused
    schema = "agentguard"                  # so it can live in a database that has other tables
    pool_size = 20                         # for the threads of a process, and for each of its event loops
    timeout = 2                            # seconds for an operation with all its waiting
    keep = "7d"                            # how long what is over can be read

What an operator has to know of `postgres`:

- Rights: `agentguard.stores.postgres` lists the grants of the role that guards use, and who may make the
  schema. ``agentguard store migrate`` makes it or brings it to the newest version, and ``agentguard store
  check`` looks at the server.
- Connections: a process opens at most `pool_size` for its threads and as many for each event loop, when they
  are needed. Keep the sum of all processes below the server's ``max_connections``.
- TLS: another host has to prove its name (``sslmode=verify-full``); `ca` is a file of authorities.
- Outages: while the server is away, each call is denied, with the cause in the record. A lost connection is
  opened anew. If the answer to a begin was lost, the call is denied, and it counts if the server did it.
- Clocks: keep NTP running. A host whose clock differs from the server's by a minute is logged. A clock that
  is ahead makes nobody forget a revocation.
- Round trips: a call costs two, its beginning and its end. It is judged by what the process has last seen of
  the task and its labels, and the server begins it only if that is still so (`ports.ConditionalStore`). A
  call of a task that another process has changed costs one more, as does the first call that this process
  makes in the task of another one.
- Load: calls of one family of tasks wait for each other, those of different families do not. Of many calls of
  one task at the same moment, most are begun twice or three times, since the one before has changed the task.
  On one machine of 2 cores with other load, 4 processes made 865 to 1578 calls a second, p99 61 to 75 ms for
  a begin and an end, while the server crashed once. SQLite made 878 to 2093, p99 139 to 172 ms. Neither
  waited for the disk (``fsync = off``); with ``fsync = on`` PostgreSQL made 782, p99 45 ms.
- Failover: name the standby in ``synchronous_standby_names``, or the last acknowledged writes may be lost
  with the primary. `url` may name several hosts; the one that can write is used.

For a new store: write a class with the methods of `agentguard.ports.Store` in a module of this package,
let it call `_rules` for each decision, and export it here. Test it with a subclass of
`agentguard.testing.StoreContract`. A store on another machine saves a round trip for each call if it has
`begin_if_unchanged` too; then the suite is `agentguard.testing.ConditionalStoreContract`. To let
agentguard.toml name it, add its kind to `agentguard.config.store`.
"""

from __future__ import annotations

from agentguard.stores._rules import Retention
from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "Retention", "SqliteStore"]
