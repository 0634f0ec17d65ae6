"""Both stores fulfill the contract, forget what is over, and are safe between threads."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentguard.errors import ConfigurationError
from agentguard.model import ApprovalStatus, Label, Outcome, ReadEffects, TaskStatus
from agentguard.ports import Store
from agentguard.stores import MemoryStore, Retention, SqliteStore, _rules
from agentguard.stores._memory_counters import CounterTable
from agentguard.testing import ConditionalStoreContract, StoreContract, sample_task
from agentguard.testing.scenes import call, live_credential, pending_approval
from tests.doubles.conditional_store import ConditionalMemoryStore

LATER = 1000.0 + 3600.0 + _rules.KEEP + 1.0


class TestMemoryStore(StoreContract):
    def make(self, clock: Callable[[], float]) -> MemoryStore:
        return MemoryStore(clock)


class TestConditionalMemoryStore(ConditionalStoreContract):
    def make(self, clock: Callable[[], float]) -> ConditionalMemoryStore:
        return ConditionalMemoryStore(clock)


class TestSqliteStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path
        self.count = 0

    def make(self, clock: Callable[[], float]) -> SqliteStore:
        self.count += 1
        return SqliteStore(self.directory / f"{self.count}.db", clock=clock)


class Aging:
    """A store, its clock, and the number of rows that it holds."""

    def __init__(self, kind: str, directory: Path, retention: Retention = _rules.DEFAULT_RETENTION) -> None:
        self.now = 1000.0
        self.memory = MemoryStore(lambda: self.now, retention=retention)
        self.sqlite = SqliteStore(directory / "s.db", clock=lambda: self.now, retention=retention)
        self.store: Store = self.memory if kind == "memory" else self.sqlite

    def size(self) -> int:
        if self.store is self.memory:
            parts = vars(self.memory).values()
            tables = [part for part in parts if isinstance(part, dict | CounterTable)]
            return sum(map(len, [*tables, self.memory._labels._labels]))
        with self.sqlite._db.connection() as db:
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]  # noqa: S608  names of our own
        return sum(counts)

    def tick(self) -> None:
        for number in range(_rules.PRUNE_EVERY):
            self.store.remember(f"tick-{number}", self.now + 1.0)


@pytest.fixture(params=["memory", "sqlite"])
def aging(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    aging = Aging(request.param, tmp_path)
    yield aging
    aging.sqlite.close()


def test_a_store_is_a_store(aging: Aging) -> None:
    assert isinstance(aging.store, Store)


def test_nothing_grows_without_bound(aging: Aging) -> None:
    store = aging.store
    for number in range(40):
        name = f"task-{number}"
        store.create_task(sample_task(name, lineage=("task-0",) if number else ()))
        store.begin_call(call(f"{name}-open", task=name), live_credential(f"{name}-open", task=name))
        store.begin_call(call(f"{name}-suspended", task=name), None)
        store.end_call(f"{name}-suspended", Outcome.SUSPENDED)
        store.save_approval(pending_approval(name, task_id=name, call_key=name))
        store.remember(name, 2000.0)
    assert aging.size() > 240
    aging.now = LATER
    aging.tick()
    aging.now += _rules.KEEP_KEYS + 2.0
    aging.tick()
    aging.tick()
    assert aging.size() <= _rules.PRUNE_EVERY + 1, "the writes are numbered in a row of their own"


def test_what_ended_can_be_read_for_a_while_and_what_is_active_stays(aging: Aging) -> None:
    store = aging.store
    store.create_task(sample_task("over"))
    store.create_task(sample_task("active", deadline=1e12))
    store.begin_call(call("1", task="active", key="k"), None)
    store.end_call("1", Outcome.SUSPENDED)
    store.save_approval(pending_approval(task_id="active"))
    store.end_task("over", TaskStatus.COMPLETED)
    aging.now += _rules.KEEP - 1.0
    aging.tick()
    over, approval = store.task("over"), store.approval("a")
    assert over is not None
    assert over.status is TaskStatus.COMPLETED
    assert approval is not None
    assert approval.status is ApprovalStatus.PENDING
    aging.now += 2.0
    aging.tick()
    assert store.task("over") is None
    store.begin_call(call("2", task="active", key="k"), None)
    active = store.task("active")
    assert active is not None
    assert active.calls == 1, "the suspended call was kept, and resumed"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("seconds", [7_200.0, 30 * 86_400.0])
def test_what_is_over_stays_for_the_time_that_was_set(kind: str, seconds: float, tmp_path: Path) -> None:
    aging = Aging(kind, tmp_path, Retention(seconds))
    store = aging.store
    store.create_task(sample_task("over", deadline=1e12))
    read = ReadEffects(labels=(Label("digest", "page", trusted=False),))
    store.begin_call(call("1", task="over"), live_credential("1", task="over"))  # it expires at 1060
    store.end_call("1", Outcome.DONE, effects=read)
    store.save_approval(replace(pending_approval(task_id="over"), expires_at=1060.0))
    store.end_task("over", TaskStatus.COMPLETED)

    def remains() -> tuple[bool, ...]:
        aging.tick()
        labels = tuple(store.labels("over", ["digest"]))
        return (
            store.task("over") is not None,
            bool(labels),
            store.approval("a") is not None,
            bool(store.live()),
        )

    aging.now = 1060.0 + seconds - 1.0
    assert remains() == (True, True, True, True)
    aging.now += 2.0
    remains()
    assert remains() == (False, False, False, False)
    aging.sqlite.close()


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 7_199.0, 1e9, float("nan"), float("inf")])
def test_a_time_in_which_a_wrong_clock_would_lose_what_runs_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="2 hours"):
        Retention(seconds)


def test_a_task_with_something_to_revoke_is_kept(aging: Aging) -> None:
    store = aging.store
    store.create_task(sample_task("child"))
    store.create_task(sample_task("parent"))
    example = live_credential("1")
    store.track(type(example)(call_id="1", task_id="child", broker="b", handle="h", expires_at=LATER * 2))
    aging.now = LATER
    aging.tick()
    assert store.task("parent") is None
    assert store.task("child") is not None
    assert len(store.live("child")) == 1


def test_a_task_cannot_end_as_active(aging: Aging) -> None:
    aging.store.create_task(sample_task())
    with pytest.raises(ValueError, match="active"):
        aging.store.end_task("task-1", TaskStatus.ACTIVE)


def test_threads_that_write_at_once_lose_no_count_and_do_not_fail(aging: Aging) -> None:
    aging.store.create_task(sample_task("child"))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def write(name: int) -> None:
        for number in range(100):
            aging.store.begin_call(call(f"{name}-{number}"), live_credential(f"{name}-{number}"))

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
    finally:
        sys.setswitchinterval(before)
    state = aging.store.task("child")
    assert state is not None
    assert (state.calls, len(aging.store.live())) == (400, 400)
