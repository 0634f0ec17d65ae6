"""The contract suite of a store that begins a call only if what it was judged by is still so."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from agentguard.concurrency.drive import drive
from agentguard.errors import ApprovalError, BudgetExhausted, CountersChanged, StoreError, TaskNotActive
from agentguard.model import (
    Addition,
    Basis,
    Budget,
    Cell,
    Label,
    Mandate,
    Outcome,
    ReadEffects,
    Sensitivity,
    TaskState,
    TaskStatus,
    ToolPath,
)
from agentguard.testing.samples import sample_task
from agentguard.testing.scenarios import AwaitedPort, Contract, assert_raises, on_both_paths
from agentguard.testing.scenes import call, create_family, live_credential, pending_approval
from agentguard.testing.stores import StoreContract

__all__ = ["ConditionalStoreContract"]

_LABELS = (Label("d1", "a", True), Label("d1", "b", False, Sensitivity.INTERNAL), Label("d2", "a", True))

Change = Callable[[AwaitedPort], Awaitable[None]]


async def _call(store: AwaitedPort, task: str = "child", **effects: Any) -> None:
    await store.begin_call(call("other", task=task), None)
    await store.end_call("other", Outcome.DONE, effects=ReadEffects(**effects))


CHANGES: dict[str, Change] = {
    "a call of the task": _call,
    "a call of its parent": lambda store: _call(store, "parent"),
    "a call of the oldest task alone": lambda store: _call(store, "root"),
    "what is untrusted": lambda store: _call(store, untrusted=True),
    "what is sensitive": lambda store: _call(store, "root", sensitivity=Sensitivity.CONFIDENTIAL),
    "labels that another task of the family has read": lambda store: _call(store, "root", labels=_LABELS),
    "a question": lambda store: store.save_approval(pending_approval(task_id="child")),
    "a question about a call of the parent": lambda store: store.save_approval(
        pending_approval(task_id="parent")
    ),
}
"""What others may do between the judgement of a call and its beginning."""


class ConditionalStoreContract(StoreContract):
    """Tests a store against `ports.ConditionalStore`, and so against `ports.Store`. Override `make`."""

    @on_both_paths
    async def test_a_call_begins_where_all_that_it_was_judged_by_is_still_so(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        await _call(store, labels=_LABELS, untrusted=True)
        for name, task in (("1", "child"), ("2", "root")):
            basis = await _basis(store, task, digests={"d1", "unknown"})
            assert len(basis.labels) == 2
            attempt = call(name, task=task, path=ToolPath.WRITE, choice_bits=3)
            assert await store.begin_if_unchanged(attempt, live_credential(name, task=task), basis) is None
        states = [await store.task(name) for name in ("child", "parent", "root")]
        assert [(state.calls, state.writes, state.choice_bits) for state in states] == [
            (2, 1, 3),
            (2, 1, 3),
            (3, 2, 6),
        ]
        assert set(await store.live()) == {live_credential("1"), live_credential("2", task="root")}

    def test_whatever_has_changed_meanwhile_begins_no_call_and_is_answered(self) -> None:
        for name, change in CHANGES.items():
            on_both_paths(_scenario(name, change))(self)

    @on_both_paths
    async def test_no_call_begins_on_another_mandate_or_other_words_of_the_task_or_its_family(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        basis = await _basis(store, "child")
        for number, state in enumerate(basis.tasks):
            for other in (
                replace(state, words="refund it all"),
                replace(state, mandate=Mandate(tools=frozenset({"refund_order"}))),
            ):
                tasks = (*basis.tasks[:number], other, *basis.tasks[number + 1 :])
                changed = await store.begin_if_unchanged(call("1"), None, replace(basis, tasks=tasks))
                assert changed == basis.tasks
        assert await store.begin_if_unchanged(call("1"), None, basis) is None

    @on_both_paths
    async def test_no_call_begins_on_another_history_of_as_many_calls(self, store: AwaitedPort) -> None:
        await create_family(store)
        await store.begin_call(replace(call("1"), tool="search"), None)
        before = await _basis(store, "child")
        await store.begin_call(replace(call("2"), tool="read_secret"), None)
        basis = await _basis(store, "child")
        for number, state in enumerate(basis.tasks):
            other = replace(state, history=before.tasks[number].history)
            tasks = (*basis.tasks[:number], other, *basis.tasks[number + 1 :])
            attempt = store.begin_if_unchanged(call("3"), None, replace(basis, tasks=tasks))
            assert await attempt == basis.tasks
        assert await store.begin_if_unchanged(call("3"), None, basis) is None

    @on_both_paths
    async def test_no_call_begins_where_labels_of_its_values_are_others_than_it_was_judged_by(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        await _call(store, labels=_LABELS)
        basis = await _basis(store, "child", digests={"d1", "d2", "d3"})
        first, second, third = _LABELS
        for labels in (
            set(),
            {first, third},
            {*_LABELS, Label("d3", "a", True)},
            {replace(first, source="c"), second, third},
            {replace(first, trusted=False), second, third},
            {first, replace(second, sensitivity=Sensitivity.PUBLIC), third},
            {first, second, replace(third, digest="d1", source="c")},
        ):
            judged_by = replace(basis, labels=frozenset(labels))
            changed = await store.begin_if_unchanged(call("1"), None, judged_by)
            assert changed == basis.tasks, labels
        assert (await store.task("child")).calls == 1
        for number, digests in enumerate(({"d1", "d2", "d3"}, {"d2"}, {"d3"}, set())):
            basis = await _basis(store, "child", digests=digests)
            assert await store.begin_if_unchanged(call(f"{number}"), None, basis) is None, digests

    @on_both_paths
    async def test_what_begin_call_refuses_is_refused_by_the_same_errors(self, store: AwaitedPort) -> None:
        await create_family(store, parent=Budget(calls=1))
        basis = await _basis(store, "child")
        lost = sample_task("lost")
        for tasks in ((lost,), (lost, *basis.tasks)):
            attempt = store.begin_if_unchanged(call("1", task="lost"), None, Basis(tasks=tasks))
            await assert_raises(TaskNotActive, attempt)
        attempt = store.begin_if_unchanged(call("1", approval="unknown"), None, basis)
        await assert_raises(ApprovalError, attempt)
        assert await store.begin_if_unchanged(call("1"), None, basis) is None
        basis = await _basis(store, "child")
        attempt = store.begin_if_unchanged(call("2"), live_credential("2"), basis)
        await assert_raises(BudgetExhausted, attempt)
        basis = await _basis(store, "root")
        await assert_raises(StoreError, store.begin_if_unchanged(call("1", task="root"), None, basis))
        assert await store.live() == ()
        assert await store.end_task("root", TaskStatus.REVOKED)
        assert (await store.task("root")).calls == 1
        attempt = store.begin_if_unchanged(call("3", task="root"), None, basis)
        assert "revoked" in await assert_raises(TaskNotActive, attempt)

    @on_both_paths
    async def test_a_task_whose_deadline_is_over_carries_no_call_on_any_basis(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store, deadline=1500.0)
        basis = await _basis(store, "child")
        self.now = 1500.0
        await assert_raises(TaskNotActive, store.begin_if_unchanged(call("1"), None, basis))

    @on_both_paths
    async def test_the_numbers_that_a_call_was_judged_by_are_compared_too(self, store: AwaitedPort) -> None:
        await create_family(store)
        cell = Cell("task root", "pay")
        added = (Addition(*cell, 1),)
        basis = await _basis(store, "child")
        calls = [call(f"{n}", numbers=((cell, n),), additions=added) for n in range(2)]
        await assert_raises(CountersChanged, store.begin_if_unchanged(calls[1], None, basis))
        assert await store.begin_if_unchanged(calls[0], None, basis) is None
        assert await store.begin_if_unchanged(calls[1], None, basis) is not None
        assert tuple(await store.counted([cell])) == (1,)

    def test_of_parallel_calls_on_one_basis_one_begins(self) -> None:
        for asynchronous in (False, True)[not self.synchronous :]:
            self.now = Contract.now
            adapter = self.adapter()
            store = AwaitedPort(adapter, asynchronous=asynchronous)
            run = asyncio.run if asynchronous else drive
            run(create_family(store))
            basis = run(_basis(store, "child"))
            answers = (_in_a_loop if asynchronous else _in_threads)(store, basis)
            assert answers.count(None) == 1
            assert {answer[-1].calls for answer in answers if answer is not None} == {1}
            getattr(adapter, "close", lambda: None)()


def _scenario(name: str, change: Change) -> Callable[..., Coroutine[Any, Any, None]]:
    async def scenario(_contract: Contract, store: AwaitedPort) -> None:
        await create_family(store)
        basis = await _basis(store, "child")
        await change(store)
        tasks = tuple([await store.task(id_) for id_ in ("child", "parent", "root")])
        assert await store.begin_if_unchanged(call("1"), live_credential("1"), basis) == tasks, name
        assert tuple([await store.task(id_) for id_ in ("child", "parent", "root")]) == tasks, name
        assert await store.live() == (), name
        assert await store.begin_if_unchanged(call("1"), None, Basis(tasks=tasks)) is None, name

    return scenario


def _in_threads(store: AwaitedPort, basis: Basis) -> list[tuple[TaskState, ...] | None]:
    with ThreadPoolExecutor(8) as pool:
        attempts = [store.begin_if_unchanged(call(f"{n}"), None, basis) for n in range(8)]
        return list(pool.map(drive, attempts))


def _in_a_loop(store: AwaitedPort, basis: Basis) -> list[tuple[TaskState, ...] | None]:
    async def together() -> list[tuple[TaskState, ...] | None]:
        attempts = (store.begin_if_unchanged(call(f"{n}"), None, basis) for n in range(8))
        return list(await asyncio.gather(*attempts))

    return asyncio.run(together())


async def _basis(store: AwaitedPort, task_id: str, digests: Any = ()) -> Basis:
    task: TaskState = await store.task(task_id)
    lineage = [await store.task(ancestor) for ancestor in task.lineage]
    labels = await store.labels(task.root_id, digests)
    return Basis(tasks=(task, *lineage), digests=frozenset(digests), labels=frozenset(labels))
