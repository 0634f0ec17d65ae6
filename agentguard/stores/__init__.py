"""Stores: they keep tasks, budgets, approvals, replay ids and the handles of live credentials.

    memory       `MemoryStore`, for one process
    sqlite       `SqliteStore`, for all processes of one machine
    redis        `RedisStore`, for many machines; it needs the extra ``redis``, so it is not imported here
    _rules       the decisions that both stores make: budgets, approvals, the end of a task
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

For a new store: write a class with the methods of `agentguard.ports.Store` in a module of this package,
let it call `_rules` for each decision, and export it here. Test it with a subclass of
`agentguard.testing.StoreContract`. To let agentguard.toml name it, add its kind to `agentguard.config.store`.
"""

from __future__ import annotations

from agentguard.stores._rules import Retention
from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "Retention", "SqliteStore"]
