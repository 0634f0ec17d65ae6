"""The store in PostgreSQL, for the processes of many machines. It needs the extra ``postgres``."""

from __future__ import annotations

from agentguard.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
