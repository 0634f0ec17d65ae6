"""The PostgreSQL store against a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from agentguard.stores.postgres import PostgresStore
from agentguard.testing import StoreContract

SCHEMA = "contract"
TABLES = ("tasks", "lineage", "labels", "calls", "credentials", "keys", "approvals")


@pytest.fixture
def database(postgres: str) -> Iterator[psycopg.Connection[psycopg.rows.TupleRow]]:
    """Return a connection of the superuser, beside the store's own."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


class TestPostgresStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, postgres: str, database: psycopg.Connection[psycopg.rows.TupleRow]) -> None:
        self.url, self.database = postgres, database

    def make(self, clock: Callable[[], float]) -> PostgresStore:
        store = PostgresStore(self.url, schema=SCHEMA, clock=clock, durability="lossy")
        self.database.execute("; ".join(f"DELETE FROM {SCHEMA}.{table}" for table in TABLES).encode())  # noqa: S608  names of our own
        return store
