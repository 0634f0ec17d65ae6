"""The store in PostgreSQL, for the processes of many machines. It needs the extra ``postgres``."""

from __future__ import annotations

from agentguard.stores.postgres._address import holds_password
from agentguard.stores.postgres._demands import Durability
from agentguard.stores.postgres.store import PostgresStore

__all__ = ["Durability", "PostgresStore", "holds_password"]
