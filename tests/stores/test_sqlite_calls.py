"""A call of the SQLite store that begins right after its task was looked up, and does not read it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentguard.errors import ApprovalError, BudgetExhausted, StoreError, TaskNotActive
from agentguard.model import Budget, Outcome, TaskState, TaskStatus, ToolPath
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing import sample_task
from agentguard.testing.scenes import call, live_credential

FAR = 1e12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agentguard.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


@pytest.fixture
def other(path: Path, store: SqliteStore) -> Iterator[SqliteStore]:
    """Another process's view of the same file."""
    other = SqliteStore(path)
    yield other
    other.close()


def counted(store: SqliteStore) -> tuple[int, int, tuple[str, ...]]:
    state = store.task("child")
    assert state is not None
    return state.calls, state.writes, state.history


def test_a_call_of_a_task_that_was_looked_up_reads_no_task(store: SqliteStore) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    store.begin_call(call("c1"), live_credential("c1"))  # the first call of a tool changes the history
    store.task("child")
    statements: list[str] = []
    handle = store._db.take()
    handle.connection.set_trace_callback(statements.append)
    store._db.give(handle)
    store.begin_call(call("c2"), live_credential("c2"))
    assert [line.split()[0] for line in statements] == [
        *("BEGIN", "UPDATE", "UPDATE", "INSERT", "INSERT", "COMMIT")
    ]
    assert counted(store)[0] == 2


@pytest.mark.parametrize("path_of_call", list(ToolPath))
def test_calls_of_two_processes_are_all_counted_whoever_has_looked_last(
    store: SqliteStore, other: SqliteStore, path_of_call: ToolPath
) -> None:
    store.create_task(sample_task("child", deadline=FAR, budget=Budget(calls=6)))
    stores = [store, other, store, store, other, other]
    for number, one in enumerate(stores):
        if number % 2:
            store.task("child")
            other.task("child")
        one.begin_call(replace(call(f"c{number}"), path=path_of_call), None)
    writes = 0 if path_of_call is ToolPath.READ else 6
    assert counted(other) == (6, writes, (call("c0").tool,))
    store.task("child")
    with pytest.raises(BudgetExhausted):
        store.begin_call(call("c9"), None)


def test_a_budget_that_another_process_has_used_up_since_the_look_holds(
    store: SqliteStore, other: SqliteStore
) -> None:
    store.create_task(sample_task("child", deadline=FAR, budget=Budget(calls=2)))
    store.begin_call(call("c1"), None)
    store.task("child")
    other.begin_call(call("c2"), None)
    with pytest.raises(BudgetExhausted):
        store.begin_call(call("c3"), None)
    assert counted(other)[0] == 2


def test_a_task_that_another_process_has_ended_since_the_look_makes_no_call(
    store: SqliteStore, other: SqliteStore
) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    store.begin_call(call("c1"), None)
    store.task("child")
    other.end_task("child", TaskStatus.REVOKED)
    with pytest.raises(TaskNotActive):
        store.begin_call(call("c2"), live_credential("c2"))
    assert other.live() == ()


def test_a_task_whose_deadline_comes_after_the_look_makes_no_call(path: Path) -> None:
    now = [1.0]
    store = SqliteStore(path, clock=lambda: now[0])
    store.create_task(sample_task("child", deadline=10.0))
    store.begin_call(call("c1"), None)
    store.task("child")
    now[0] = 10.0
    with pytest.raises(TaskNotActive):
        store.begin_call(call("c2"), None)
    store.close()


@pytest.mark.parametrize("limit", [1, None])
def test_a_suspended_call_that_goes_on_is_not_counted_again(
    store: SqliteStore, other: SqliteStore, limit: int | None
) -> None:
    store.create_task(sample_task("child", deadline=FAR, budget=Budget(calls=limit)))
    store.begin_call(call("c1"), None)
    store.task("child")
    other.end_call("c1", Outcome.SUSPENDED)
    store.begin_call(replace(call("c1"), id="c2"), None)  # of the same key
    assert counted(store)[0] == 1


def test_an_approval_is_looked_at_also_when_the_task_is_unchanged(store: SqliteStore) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    store.begin_call(call("c1"), None)
    store.task("child")
    with pytest.raises(ApprovalError):
        store.begin_call(replace(call("c2"), approval_id="unknown"), None)


def test_a_child_counts_for_its_parent_also_when_both_were_looked_up(store: SqliteStore) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    store.create_task(replace(sample_task("grandchild", deadline=FAR), lineage=("child",)))
    for number in range(3):
        assert isinstance(store.task("grandchild"), TaskState)
        assert isinstance(store.task("child"), TaskState)
        store.begin_call(replace(call(f"c{number}"), task_id="grandchild"), None)
    assert counted(store)[0] == 3


def test_a_call_that_has_begun_before_is_refused_and_not_counted(store: SqliteStore) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    store.begin_call(call("c1"), None)
    store.task("child")
    with pytest.raises(StoreError):
        store.begin_call(call("c1"), None)
    assert counted(store)[0] == 1
