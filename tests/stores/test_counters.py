"""The numbers of calls are those of a slow reference, whatever begins, ends, fails, waits or dies."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from agentguard.concurrency.drive import drive
from agentguard.model import Addition, Cell
from agentguard.model.counts import amount_of, unit_count
from agentguard.stores import MemoryStore, SqliteStore, _counter_rules, _rules
from agentguard.stores._migrations import MIGRATIONS
from agentguard.stores._schema import migrate
from agentguard.testing import sample_task
from agentguard.testing.scenarios import AwaitedPort
from agentguard.testing.scenes import call
from tests.conftest import Mode
from tests.stores.counter_reference import Step, compare, steps
from tests.tiers import examples

# what of version 7 this test looks at
OLD = """
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, fixed TEXT NOT NULL, deadline REAL NOT NULL, over REAL NOT NULL,
    status TEXT NOT NULL, calls INTEGER NOT NULL, writes INTEGER NOT NULL, history TEXT NOT NULL,
    untrusted INTEGER NOT NULL, sensitivity INTEGER NOT NULL, labels INTEGER NOT NULL,
    questions INTEGER NOT NULL, choice_bits INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE lineage (
    ancestor TEXT NOT NULL, task_id TEXT NOT NULL, PRIMARY KEY (ancestor, task_id)) STRICT, WITHOUT ROWID;
CREATE TABLE calls (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, task_id TEXT NOT NULL, tool TEXT NOT NULL, path TEXT NOT NULL,
    approval_id TEXT, suspended INTEGER NOT NULL DEFAULT 0, write_number INTEGER) STRICT, WITHOUT ROWID;
INSERT INTO calls VALUES ('~', lower(hex(randomblob(16))), '', '', '', NULL, 0, 0)"""
Make = Callable[[Callable[[], float]], Any]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    count = iter(range(10**9))

    def store(clock: Callable[[], float]) -> Any:
        if request.param == "memory":
            return MemoryStore(clock)
        return SqliteStore(tmp_path / f"{next(count)}.db", clock=clock)

    return store


@pytest.mark.exhaustive
@pytest.mark.promise("done-is-counted")
@settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sequence=steps)
def test_the_numbers_are_those_of_the_reference(make: Make, mode: Mode, sequence: list[Step]) -> None:
    store = make(lambda: 1000.0)
    port = AwaitedPort(store, asynchronous=mode.asynchronous)
    (asyncio.run if mode.asynchronous else drive)(compare(port, sequence))
    getattr(store, "close", lambda: None)()


@pytest.mark.promise("counters-are-bounded")
def test_windows_that_are_over_and_families_that_are_gone_leave_no_number(make: Make) -> None:
    now = [1000.0]
    store = make(lambda: now[0])
    window = Addition("user ada", "pay", 1, 5, until=2000.0)
    longer = Addition("user ada", "pay", 2, 7, until=1e12)
    store.create_task(sample_task("child"))
    store.begin_call(call("1", additions=(window, longer, Addition("task child", "pay", 0, 1))), None)
    cells = [Cell("user ada", "pay", 1), Cell("user ada", "pay", 2), Cell("task child", "pay")]

    def tick(at: float) -> tuple[int, ...]:
        now[0] = at
        for number in range(2 * _rules.PRUNE_EVERY):
            store.remember("tick", at + number)
        return tuple(store.counted(cells))

    assert tick(2000.0 + _counter_rules.KEEP_BUCKETS - 1.0) == (12, 7, 1), "a clock may be ahead so far"
    assert tick(2000.0 + _counter_rules.KEEP_BUCKETS) == (7, 7, 1)
    assert tick(3600.0 + _rules.KEEP) == (7, 7, 0)
    getattr(store, "close", lambda: None)()


@pytest.mark.promise("sums-are-exact")
@pytest.mark.parametrize(
    ("value", "units"),
    [
        (0, 0),
        (1, 10_000),
        (0.1, 1_000),
        (10.05, 100_500),
        (0.0001, 1),
        (-0.0, 0),
        ("30.50", 305_000),
        (99_999_999_999.9999, 999_999_999_999_999),
        (99_999_999_999, 999_999_999_990_000),
        (100_000_000_000, None),
        (0.00001, None),
        ("1.00000000000000000000000000000000000001", None),
        ("0.1000000000000000000000000000000000000", 1_000),
        (1e300, None),
        (1e-300, None),
        (10**400, None),
        (-1, None),
        ("-1", None),
        ("1e3", None),
        ("1_000", None),
        ("\u0663", None),
        ("", None),
        ("nan", None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_a_number_counts_exactly_or_not_at_all(value: object, units: int | None) -> None:
    assert unit_count(value) == units
    if units is not None:
        assert unit_count(str(amount_of(units))) == units
        assert unit_count(float(amount_of(units))) == units


@pytest.mark.promise("counters-are-bounded")
def test_a_file_of_version_7_counts_from_its_migration_on_in_no_older_task(
    tmp_path: Path,
) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path, isolation_level=None) as db:
        migrate(db, path, OLD, 7, MIGRATIONS)
        fixed = json.dumps(
            {
                "purpose": "Pay the bill",
                "identity": ["user:ada", "agent:one", []],
                "mandate": {"tools": ["pay"]},
                "budget": [5, 2],
                "words": "",
                "kinds": [],
                "origins": [],
                "lineage": [],
            }
        )
        row = ("old", fixed, 1e12, 1e12, "active", 1, 0, "[]", 0, 0, 0, 0, 0)
        db.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO calls VALUES ('c', 'k', 'old', 'pay', 'read', NULL, 1, NULL)")
    db.close()
    store = SqliteStore(path)
    task = store.task("old")
    assert task is not None
    assert task.counted == {}
    cell = Cell("task old", "pay")
    again = call("2", key="k", task="old", tool="pay", numbers=((cell, 0),), additions=(Addition(*cell, 1),))
    store.begin_call(again, None)
    assert store.counted([cell]) == (1,)
    assert task.calls == 1
    store.close()
