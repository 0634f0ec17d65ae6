"""The PostgreSQL store against a real server: the contract, and the same answers as the store in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from agentguard.concurrency.drive import drive
from agentguard.errors import ConfigurationError, TaskNotActive
from agentguard.model import Addition, Cell, Label, Outcome, ReadEffects
from agentguard.stores import MemoryStore, _rules
from agentguard.stores.postgres import PostgresStore, _statements
from agentguard.testing import ConditionalStoreContract, sample_task
from agentguard.testing.scenarios import AwaitedPort
from agentguard.testing.scenes import call, live_credential, pending_approval
from tests.conftest import Mode
from tests.real.store_steps import Step, Watch, answers, require_ended_by_another_host, steps
from tests.stores.counter_reference import Step as CounterStep
from tests.stores.counter_reference import compare
from tests.stores.counter_reference import steps as counter_steps
from tests.tiers import examples

Database = psycopg.Connection[psycopg.rows.TupleRow]
SCHEMA = "contract"
TABLES = ("tasks", "lineage", "labels", "calls", "credentials", "keys", "approvals", "counters")


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


class TestPostgresStore(ConditionalStoreContract):
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


@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sequence=counter_steps)
@pytest.mark.promise("done-is-counted")
def test_the_numbers_of_calls_are_those_of_the_reference(
    postgres: str, database: Database, mode: Mode, sequence: list[CounterStep]
) -> None:
    clear(database)
    store = PostgresStore(postgres, schema=SCHEMA, clock=lambda: 1000.0, durability="lossy")
    port = AwaitedPort(store, asynchronous=mode.asynchronous)
    (asyncio.run if mode.asynchronous else drive)(compare(port, sequence))
    store.close()


def test_a_store_of_version_3_is_refused_until_it_is_migrated(postgres: str, database: Database) -> None:
    database.execute(b"DROP SCHEMA IF EXISTS older CASCADE")
    store = PostgresStore(postgres, schema="older", durability="lossy")
    store.create_task(sample_task("child", deadline=1e12))
    store.close()
    database.execute(b"DROP TABLE older.counters")
    database.execute(b"ALTER TABLE older.calls DROP COLUMN counted")
    database.execute(b"UPDATE older.version SET number = 3")
    with pytest.raises(ConfigurationError, match="agentguard store migrate"):
        PostgresStore(postgres, schema="older", durability="lossy").task("child")
    store = PostgresStore(postgres, schema="older", durability="lossy")
    assert store.migrate() == 3
    cell = Cell("task child", "pay")
    store.begin_call(call("1", numbers=((cell, 0),), additions=(Addition(*cell, 1),)), None)
    assert store.counted([cell]) == (1,)
    store.close()
    database.execute(b"DROP SCHEMA older CASCADE")


@pytest.fixture
def make(postgres: str, database: Database) -> Iterator[Callable[[Callable[[], float]], PostgresStore]]:
    clear(database)
    stores: list[PostgresStore] = []

    def make(clock: Callable[[], float]) -> PostgresStore:
        stores.append(PostgresStore(postgres, schema=SCHEMA, clock=clock, durability="lossy"))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.mark.promise("revoked-stays-revoked")
def test_a_host_whose_clock_is_ahead_by_years_has_nobody_forget_a_revocation_a_task_or_an_approval(
    make: Callable[[Callable[[], float]], PostgresStore],
) -> None:
    now = time.time()
    store, ahead = make(time.time), make(lambda: now + 1e9)
    store.create_task(sample_task("child", deadline=now + 3600.0))
    store.begin_call(call("1"), live_credential("1"))
    store.save_approval(replace(pending_approval(), expires_at=now + 300.0))
    assert store.remember("jti", now + 60.0)
    assert not ahead.remember("jti", now + 60.0)
    assert ahead.known("jti")
    for _ in range(3):
        ahead._operations.run(ahead._statements.prune)
    assert store.known("jti")
    assert store.task("child") is not None
    assert store.approval("a") is not None
    with pytest.raises(TaskNotActive):  # the wrong clock refuses, and does no more
        ahead.begin_call(call("2"), None)


@pytest.mark.promise("logout-ends-tasks")
def test_a_host_whose_clock_is_ahead_ends_what_still_runs_on_another_host(
    make: Callable[[Callable[[], float]], PostgresStore],
) -> None:
    now = time.time()
    store, ahead = make(time.time), make(lambda: now + 1e6)
    require_ended_by_another_host(store, ahead, now)


def test_nothing_grows_without_bound(
    make: Callable[[Callable[[], float]], PostgresStore], database: Database
) -> None:
    now = 1000.0
    store = make(lambda: now)
    for number in range(20):
        name = f"task-{number}"
        store.create_task(sample_task(name, lineage=("task-0",) if number else ()))
        store.begin_call(call(f"{name}-open", task=name), live_credential(f"{name}-open", task=name))
        store.begin_call(call(f"{name}-suspended", task=name), None)
        effects = ReadEffects(labels=(Label("digest", "tool", trusted=True),))
        store.end_call(f"{name}-suspended", Outcome.SUSPENDED, effects=effects)
        store.save_approval(pending_approval(name, task_id=name, call_key=name))
        store.remember(name, 2000.0)
    assert sizes(database)["calls"] == 40
    now = 3600.0 + _rules.KEEP - 10.0
    store._operations.run(store._statements.prune)
    assert sizes(database)["tasks"] == 20
    now += _rules.KEEP_KEYS + 20.0
    for number in range(2 * _rules.PRUNE_EVERY):
        store.remember(f"tick-{number}", now)
    remaining = sizes(database)
    assert remaining.pop("keys") == 2 * _rules.PRUNE_EVERY
    assert set(remaining.values()) == {0}


def sizes(database: Database) -> dict[str, int]:
    """Return the number of rows of each table."""
    counts = {}
    for table in TABLES:
        row = database.execute(f"SELECT count(*) FROM {SCHEMA}.{table}".encode()).fetchone()  # noqa: S608  names of our own
        counts[table] = 0 if row is None else row[0]
    return counts


def test_the_asynchronous_methods_use_no_thread(
    make: Callable[[Callable[[], float]], PostgresStore],
) -> None:
    store = make(time.time)
    before = set(threading.enumerate())

    async def scenario() -> set[threading.Thread]:
        await store.acreate_task(sample_task("child", deadline=4e9))
        await asyncio.gather(*(store.abegin_call(call(f"{n}"), None) for n in range(20)))
        return set(threading.enumerate()) - before

    assert asyncio.run(scenario()) == set()
