"""Operations of many machines on one family of tasks wait for each other, and each sees what was before it.

A transaction of the test holds the rows of the tasks, so all the operations are on their way when the first
of them goes on. Without the locks of the store's functions they would all see the state before the first one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from typing import Any

import psycopg
import pytest

from agentguard.concurrency.drive import drive
from agentguard.errors import AgentGuardError
from agentguard.model import Basis, Budget, Call, Label, Outcome, ReadEffects, TaskStatus
from agentguard.stores.postgres import PostgresStore
from agentguard.testing import sample_task
from agentguard.testing.scenarios import AwaitedPort
from agentguard.testing.scenes import call, live_credential, pending_approval, save_answered_approval
from tests.conftest import Mode

Operation = Callable[[AwaitedPort], Awaitable[Any]]
Database = psycopg.Connection[psycopg.rows.TupleRow]
ROOT, CHILD = "root", "child"


@pytest.fixture
def database(postgres: str) -> Iterator[Database]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(b"DROP SCHEMA IF EXISTS locks CASCADE")
        yield connection
        connection.execute(b"DROP SCHEMA IF EXISTS locks CASCADE")


@pytest.fixture
def store(postgres: str, database: Database) -> Iterator[PostgresStore]:
    store = PostgresStore(
        postgres, schema="locks", clock=lambda: 1000.0, durability="lossy", timeout=30.0, pool_size=8
    )
    yield store
    store.close()


def together(
    store: PostgresStore, mode: Mode, database: Database, operations: Sequence[Operation]
) -> list[str]:
    """Begin the operations while the tasks are held, in their order, and return how each has ended."""
    port = AwaitedPort(store, asynchronous=mode.asynchronous)

    async def outcome(operation: Operation) -> str:
        try:
            await operation(port)
        except AgentGuardError as error:
            return type(error).__name__
        return "done"

    def run(operation: Operation) -> str:
        return (asyncio.run if mode.asynchronous else drive)(outcome(operation))

    with ThreadPoolExecutor(len(operations)) as threads:
        with database.transaction():
            database.execute(b"SELECT 1 FROM locks.tasks FOR UPDATE")
            results = []
            for operation in operations:
                results.append(threads.submit(run, operation))
                wait_for_waiting(database, len(results))
        return [result.result() for result in results]


def wait_for_waiting(database: Database, count: int) -> None:
    """Wait until so many operations wait for a lock at the server."""
    ends = time.monotonic() + 5.0
    while True:
        row = database.execute(b"SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
        if row and row[0] >= count:
            return
        assert time.monotonic() < ends, "the operations do not wait for the tasks"
        time.sleep(0.02)


def begin(new: Call) -> Operation:
    return methodcaller("begin_call", new, None)


def family(store: PostgresStore, **budget: int) -> None:
    store.create_task(sample_task(ROOT, budget=Budget(**budget)))
    store.create_task(sample_task(CHILD, lineage=(ROOT,)))


@pytest.mark.promise("shared-store-limits")
def test_of_calls_that_meet_at_a_budget_of_one_in_a_family_one_begins(
    store: PostgresStore, database: Database, mode: Mode
) -> None:
    family(store, calls=1)
    tasks = (CHILD, ROOT, CHILD)
    operations = [begin(call(f"{n}", task=task)) for n, task in enumerate(tasks)]
    assert sorted(together(store, mode, database, operations)) == ["BudgetExhausted"] * 2 + ["done"]


@pytest.mark.promise("no-stale-basis")
def test_a_call_that_waits_for_what_its_family_reads_does_not_begin_on_what_it_was_judged_by(
    store: PostgresStore, database: Database, mode: Mode
) -> None:
    family(store)
    store.begin_call(call("reading", task=ROOT), None)
    task, root = store.task(CHILD), store.task(ROOT)
    assert task is not None
    assert root is not None
    effects = ReadEffects(untrusted=True, labels=(Label("d", "page", trusted=False),))
    attempt = methodcaller("begin_if_unchanged", call("1", task=CHILD), None, Basis(tasks=(task, root)))
    operations: list[Operation] = [
        methodcaller("end_call", "reading", Outcome.DONE, effects=effects),
        attempt,
    ]
    assert together(store, mode, database, operations) == ["done", "done"]
    state = store.task(CHILD)
    assert state is not None
    assert (state.calls, state.labels) == (0, 1), "the call was not begun, but answered"


@pytest.mark.promise("shared-store-limits")
def test_of_calls_that_meet_at_an_approval_one_uses_it(
    store: PostgresStore, database: Database, mode: Mode
) -> None:
    drive(save_answered_approval(AwaitedPort(store, asynchronous=False)))
    operations = [begin(call(f"{n}", key="k", approval="a")) for n in range(3)]
    assert sorted(together(store, mode, database, operations)) == ["ApprovalUsed"] * 2 + ["done"]


@pytest.mark.promise("shared-store-limits")
def test_of_questions_that_meet_at_a_limit_of_one_one_is_asked(
    store: PostgresStore, database: Database, mode: Mode
) -> None:
    family(store, questions=1)
    questions = [pending_approval(f"{n}", call_key=f"{n}") for n in range(3)]
    operations = [methodcaller("save_approval", question) for question in questions]
    assert sorted(together(store, mode, database, operations)) == ["BudgetExhausted"] * 2 + ["done"]


@pytest.mark.promise("shared-store-limits")
def test_what_meets_the_end_of_its_family_is_refused_or_ended_with_it(
    store: PostgresStore, database: Database, mode: Mode
) -> None:
    family(store)
    late = live_credential("late", handle="late")
    operations: list[Operation] = [
        methodcaller("end_task", ROOT, TaskStatus.REVOKED),
        methodcaller("begin_call", call("1"), live_credential("1")),
        methodcaller("track", late),
        methodcaller("create_task", sample_task("grandchild", lineage=(CHILD, ROOT))),
    ]
    results = together(store, mode, database, operations)
    assert results == ["done", "TaskNotActive", "TaskNotActive", "done"]
    assert store.live() == (late,), "it was minted, so it is known and can be revoked"
