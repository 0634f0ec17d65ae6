"""The PostgreSQL store against a real server: the contract, and the same answers as the store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from agentguard.concurrency.drive import drive
from agentguard.stores import MemoryStore, _rules
from agentguard.stores.postgres import PostgresStore, _statements
from agentguard.testing import StoreContract
from agentguard.testing.scenarios import AwaitedPort
from tests.conftest import Mode
from tests.real.store_steps import Step, Watch, answers, steps
from tests.tiers import examples

Database = psycopg.Connection[psycopg.rows.TupleRow]
SCHEMA = "contract"
TABLES = ("tasks", "lineage", "labels", "calls", "credentials", "keys", "approvals")


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[Database]:
    """Return a connection of the superuser, beside the store's own."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(b"DROP SCHEMA IF EXISTS contract CASCADE")
        PostgresStore(postgres, schema=SCHEMA, durability="lossy", timeout=30.0).check()
        yield connection
        connection.execute(b"DROP SCHEMA contract CASCADE")


def clear(database: Database) -> None:
    """Empty the store."""
    database.execute("; ".join(f"DELETE FROM {SCHEMA}.{table}" for table in TABLES).encode())  # noqa: S608  names of our own


class TestPostgresStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, postgres: str, database: Database) -> None:
        self.url, self.database = postgres, database

    def make(self, clock: Callable[[], float]) -> PostgresStore:
        clear(self.database)
        return PostgresStore(self.url, schema=SCHEMA, clock=clock, durability="lossy")


@pytest.fixture
def few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_rules, _statements):
        monkeypatch.setattr(module, "LABELS", 3)
        monkeypatch.setattr(module, "TRUSTED_LABELS", 2)


@pytest.mark.usefixtures("few_labels")
@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sequence=steps)
def test_each_operation_has_the_answer_and_the_error_that_the_store_in_memory_gives(
    postgres: str, database: Database, mode: Mode, sequence: list[Step]
) -> None:
    def run(make: Callable[[Watch], Any]) -> list[Any]:
        watch = Watch()
        store = make(watch)
        port = AwaitedPort(store, asynchronous=mode.asynchronous)
        results: list[Any] = (asyncio.run if mode.asynchronous else drive)(answers(port, watch, sequence))
        getattr(store, "close", lambda: None)()
        return results

    clear(database)
    expected = run(MemoryStore)
    assert run(lambda w: PostgresStore(postgres, schema=SCHEMA, clock=w, durability="lossy")) == expected
