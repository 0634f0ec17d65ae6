"""The part of the store's contract about a task whose words and mandate are revised."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from agentguard.concurrency.drive import drive
from agentguard.errors import TaskNotActive
from agentguard.model import Budget, Mandate, TaskState, TaskStatus
from agentguard.testing.samples import sample_task
from agentguard.testing.scenarios import AwaitedPort, Contract, assert_raises, on_both_paths
from agentguard.testing.scenes import call

__all__ = ["RevisionContract"]

OTHER = Mandate.of({"tools": ["pay"], "args": {"to": ["alice", 5]}})
TURNS = 8


def _other(state: TaskState) -> TaskState:
    return replace(state, words="said next", mandate=OTHER, kinds=("pay",))


def _more(state: TaskState) -> TaskState:
    return replace(state, words=state.words + "x")


class RevisionContract(Contract):
    """Tests that a store replaces the words, the mandate and the kinds of a task, and nothing else."""

    @on_both_paths
    async def test_a_revised_task_has_the_new_words_mandate_and_kinds(self, store: AwaitedPort) -> None:
        state = sample_task(words="said first", budget=Budget(calls=3))
        await store.create_task(state)
        revised = await store.revise_task(state.id, _other)
        assert revised == await store.task(state.id) == _other(state)
        assert (await store.task(state.id)).mandate.authors == OTHER.authors

    @on_both_paths
    async def test_a_revision_changes_nothing_else(self, store: AwaitedPort) -> None:
        await store.create_task(sample_task(budget=Budget(calls=3)))
        await store.begin_call(call("1", task="task-1"), None)
        before = await store.task("task-1")
        await store.revise_task("task-1", lambda state: replace(state, calls=0, history=(), budget=Budget()))
        assert await store.task("task-1") == before

    @on_both_paths
    async def test_a_call_of_a_revised_task_counts_on(self, store: AwaitedPort) -> None:
        await store.create_task(sample_task(budget=Budget(calls=3)))
        await store.begin_call(call("1", task="task-1"), None)
        await store.revise_task("task-1", _other)
        await store.begin_call(call("2", task="task-1"), None)
        state = await store.task("task-1")
        assert (state.calls, state.words) == (2, "said next")

    @on_both_paths
    async def test_the_later_of_two_revisions_sees_the_earlier(self, store: AwaitedPort) -> None:
        await store.create_task(sample_task(words="a"))
        await store.revise_task("task-1", _more)
        await store.revise_task("task-1", _more)
        assert (await store.task("task-1")).words == "axx"

    @on_both_paths
    async def test_an_unknown_or_ended_task_is_not_revised(self, store: AwaitedPort) -> None:
        await assert_raises(TaskNotActive, store.revise_task("unknown", _other))
        await store.create_task(sample_task())
        await store.end_task("task-1", TaskStatus.COMPLETED)
        await assert_raises(TaskNotActive, store.revise_task("task-1", _other))
        assert (await store.task("task-1")).words == sample_task().words

    @on_both_paths
    async def test_a_task_past_its_deadline_is_not_revised(self, store: AwaitedPort) -> None:
        state = sample_task()
        await store.create_task(state)
        self.now = state.deadline
        await assert_raises(TaskNotActive, store.revise_task(state.id, _other))

    def test_revisions_at_once_lose_none(self) -> None:
        for asynchronous in (False, True)[not self.synchronous :]:
            adapter = self.adapter()
            store = AwaitedPort(adapter, asynchronous=asynchronous)
            run = asyncio.run if asynchronous else drive
            run(store.create_task(sample_task(words="")))
            (_in_a_loop if asynchronous else _in_threads)(store)
            words = run(store.task("task-1")).words
            getattr(adapter, "close", lambda: None)()
            assert words == "x" * TURNS


def _in_threads(store: AwaitedPort) -> None:
    with ThreadPoolExecutor(TURNS) as pool:
        list(pool.map(lambda _: drive(store.revise_task("task-1", _more)), range(TURNS)))


def _in_a_loop(store: AwaitedPort) -> None:
    async def together() -> None:
        await asyncio.gather(*(store.revise_task("task-1", _more) for _ in range(TURNS)))

    asyncio.run(together())
