"""Where tasks, budgets, approvals, replay ids and live credentials are kept.

`MemoryStore` serves one process; `SqliteStore` all processes of one machine. Both decide by the same
rules (`_rules`), pass `agentguard.testing.StoreContract`, and forget what can no longer matter: expired
keys at once, ended tasks and expired approvals after a day. They hold handles and never a secret.
"""

from __future__ import annotations

from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore"]
