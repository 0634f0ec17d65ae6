"""What a store promises, as a suite that pytest collects when subclassed."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentguard.concurrency.drive import drive
from agentguard.errors import AgentGuardError, BudgetExhausted, StoreError, TaskNotActive
from agentguard.model import (
    LABELS,
    Budget,
    Identity,
    Label,
    Outcome,
    ReadEffects,
    Sensitivity,
    TaskStatus,
    ToolPath,
)
from agentguard.testing.approvals import ApprovalContract
from agentguard.testing.both import Contract, Face, both, refused
from agentguard.testing.samples import sample_task
from agentguard.testing.scenes import call, family, live

__all__ = ["StoreContract"]


class StoreContract(ApprovalContract):
    """Holds a store to `ports.Store`. Override `make`."""

    def make(self, clock: Callable[[], float]) -> Any:
        """Return a new, empty store that tells the time by *clock*."""
        raise NotImplementedError

    def adapter(self) -> Any:
        return self.make(lambda: self.now)

    @both
    async def test_a_task_comes_back_as_it_was(self, store: Face) -> None:
        state = sample_task(budget=Budget(calls=3, writes=1), lineage=("parent", "root"))
        await store.create_task(state)
        assert await store.task(state.id) == state
        assert await store.task("unknown") is None

    @both
    async def test_a_task_is_not_overwritten(self, store: Face) -> None:
        await store.create_task(sample_task(purpose="first"))
        await refused(StoreError, store.create_task(sample_task(purpose="second")))
        assert (await store.task("task-1")).purpose == "first"

    @both
    async def test_a_call_counts_on_its_task_and_all_that_it_descends_from(self, store: Face) -> None:
        await family(store)
        await store.begin_call(call("1", tool="get_order"), None)
        await store.begin_call(call("2", tool="refund_order", path=ToolPath.WRITE), None)
        await store.begin_call(call("3", tool="get_order", path=ToolPath.ESCALATION), None)
        for task_id in ("child", "parent", "root"):
            state = await store.task(task_id)
            assert (state.calls, state.writes) == (3, 2)
            assert state.history == ("get_order", "refund_order")

    @both
    async def test_a_used_up_budget_anywhere_in_the_lineage_refuses_and_counts_nothing(
        self, store: Face
    ) -> None:
        await family(store, root=Budget(writes=1))
        await store.begin_call(call("1", path=ToolPath.WRITE), None)
        for path in (ToolPath.WRITE, ToolPath.ESCALATION):
            text = await refused(BudgetExhausted, store.begin_call(call("2", path=path), live("2")))
            assert "root" in text
        assert (await store.task("child")).calls == 1
        assert await store.live() == ()
        await store.begin_call(call("3", path=ToolPath.READ), None)

    @both
    async def test_a_budget_of_nothing_carries_nothing(self, store: Face) -> None:
        await store.create_task(sample_task("child", budget=Budget(calls=0)))
        await refused(BudgetExhausted, store.begin_call(call("1"), None))

    @both
    async def test_an_unknown_task_or_ancestor_carries_no_call(self, store: Face) -> None:
        await refused(TaskNotActive, store.begin_call(call("1"), None))
        await store.create_task(sample_task("child", lineage=("lost",)))
        assert "lost" in await refused(TaskNotActive, store.begin_call(call("1"), None))

    @both
    async def test_a_deadline_anywhere_in_the_lineage_ends_the_calls_at_its_second(self, store: Face) -> None:
        await family(store, deadline=1500.0)
        self.now = 1499.0
        await store.begin_call(call("1"), None)
        self.now = 1500.0
        text = await refused(TaskNotActive, store.begin_call(call("2"), None))
        assert "root" in text
        assert "expired" in text

    @both
    async def test_ending_a_task_ends_its_descendants_and_the_first_end_stands(self, store: Face) -> None:
        await family(store)
        await store.create_task(sample_task("other"))
        assert await store.end_task("child", TaskStatus.COMPLETED) == ("child",)
        assert set(await store.end_task("root", TaskStatus.REVOKED)) == {"root", "parent"}
        assert await store.end_task("root", TaskStatus.COMPLETED) == ()
        assert await store.end_task("unknown", TaskStatus.REVOKED) == ()
        found = {name: (await store.task(name)).status.value for name in ("root", "parent", "child", "other")}
        assert found == {"root": "revoked", "parent": "revoked", "child": "completed", "other": "active"}
        text = await refused(TaskNotActive, store.begin_call(call("1", task="parent"), None))
        assert "revoked" in text

    @both
    async def test_what_an_end_owes_is_recorded_with_it_for_each_task_that_ends_now(
        self, store: Face
    ) -> None:
        await family(store)
        await store.end_task("child", TaskStatus.COMPLETED)
        owed = live("tell:", task="", handle="{}")
        await store.end_task("root", TaskStatus.REVOKED, [owed])
        await store.end_task("root", TaskStatus.REVOKED, [owed])
        found = {(held.call_id, held.task_id, held.handle) for held in await store.live()}
        assert found == {("tell:root", "root", "{}root"), ("tell:parent", "parent", "{}parent")}
        await store.forget("tell:root")
        assert [held.task_id for held in await store.live()] == ["parent"]

    @both
    async def test_the_active_tasks_of_a_subject_are_known(self, store: Face) -> None:
        await family(store)
        await store.create_task(sample_task("late", deadline=1500.0))
        other = Identity(subject="user:bob", actor="agent://a")
        await store.create_task(sample_task("other", identity=other))
        await store.end_task("child", TaskStatus.COMPLETED)
        subject = sample_task().identity.subject
        assert set(await store.active(subject)) == {"root", "parent", "late"}
        self.now = 1501.0
        assert set(await store.active(subject)) == {"root", "parent"}
        assert await store.active("nobody") == ()

    @both
    async def test_what_ended_at_its_deadline_stays_expired_and_is_still_named_once(
        self, store: Face
    ) -> None:
        await store.create_task(sample_task(deadline=1500.0))
        self.now = 1501.0
        assert await store.end_task("task-1", TaskStatus.COMPLETED) == ("task-1",)
        assert (await store.task("task-1")).status is TaskStatus.EXPIRED

    @both
    async def test_what_was_read_taints_the_task_and_all_that_it_descends_from(self, store: Face) -> None:
        await family(store)
        for name in ("1", "2"):
            await store.begin_call(call(name, task="parent"), None)
        await store.end_call("1", Outcome.DONE)
        assert not (await store.task("parent")).untrusted
        effects = ReadEffects(untrusted=True, sensitivity=Sensitivity.CONFIDENTIAL)
        await store.end_call("2", Outcome.FAILED, effects=effects)
        for name, expected in (("root", True), ("parent", True), ("child", False)):
            state = await store.task(name)
            assert (state.untrusted, state.sensitivity == Sensitivity.CONFIDENTIAL) == (expected, expected)
        await store.begin_call(call("3", task="parent"), None)
        await store.end_call("3", Outcome.DONE, effects=ReadEffects(sensitivity=Sensitivity.INTERNAL))
        assert (await store.task("parent")).sensitivity is Sensitivity.CONFIDENTIAL
        assert (await store.task("parent")).untrusted
        await store.end_call("never-begun", Outcome.DONE, effects=effects)

    @both
    async def test_labels_are_kept_for_a_whole_family_and_counted_once(self, store: Face) -> None:
        await family(store)
        await store.create_task(sample_task("other"))
        labels = (
            Label("d1", "a", True),
            Label("d1", "b", False, Sensitivity.INTERNAL),
            Label("d2", "a", True),
        )
        for name, part in (("1", labels), ("2", labels[:2])):
            await store.begin_call(call(name, task="child"), None)
            await store.end_call(name, Outcome.DONE, effects=ReadEffects(labels=part))
        assert set(await store.labels("root", {"d1", "unknown"})) == set(labels[:2])
        assert set(await store.labels("other", {"d1", "d2"})) == set()
        counts = {name: (await store.task(name)).labels for name in ("root", "parent", "child", "other")}
        assert counts == {"root": 3, "parent": 3, "child": 3, "other": 0}

    @both
    async def test_labels_do_not_grow_without_bound(self, store: Face) -> None:
        await store.create_task(sample_task())
        for name, size in (("1", LABELS - 1), ("2", 5), ("3", 5)):
            labels = tuple(Label(f"{name}-{n}", "tool", True) for n in range(size))
            await store.begin_call(call(name, task="task-1"), None)
            await store.end_call(name, Outcome.DONE, effects=ReadEffects(labels=labels))
        assert (await store.task("task-1")).labels == LABELS
        assert len(tuple(await store.labels("task-1", {"2-0", "2-1", "3-0"}))) == 1

    @both
    async def test_a_credential_is_live_until_it_is_forgotten(self, store: Face) -> None:
        await family(store)
        await store.create_task(sample_task("other"))
        await store.begin_call(call("1"), live("1"))
        await store.begin_call(call("2", task="parent"), None)
        await store.track(live("2", task="parent", handle="late"))
        await store.track(live("2", task="parent", handle="late"))
        assert set(await store.live("root")) == {live("1"), live("2", task="parent", handle="late")}
        assert await store.live("child") == (live("1"),)
        assert await store.live("other") == ()
        await store.end_call("1", Outcome.DONE)
        await store.end_task("root", TaskStatus.REVOKED)
        assert len(await store.live()) == 2
        await store.forget("1")
        await store.forget("1")
        assert await store.live() == (live("2", task="parent", handle="late"),)

    @both
    async def test_the_end_of_a_call_forgets_its_credential_only_if_it_is_revoked(self, store: Face) -> None:
        await family(store)
        for name, revoked in (("1", True), ("2", False)):
            await store.begin_call(call(name), live(name))
            await store.end_call(name, Outcome.DONE, revoked=revoked)
        assert await store.live() == (live("2"),)

    @both
    async def test_the_end_of_a_call_remembers_what_revokes_its_credential(self, store: Face) -> None:
        await family(store)
        await store.begin_call(call("1"), live("1"))
        await store.end_call("1", Outcome.DONE, revoked=True, remember=("jti", 1100.0))
        assert await store.known("jti")
        assert not await store.remember("jti", 1050.0)
        await store.end_call("never-begun", Outcome.DONE, revoked=True, remember=("other", 1100.0))
        assert await store.known("other")

    @both
    async def test_what_was_minted_while_its_task_ended_is_recorded_and_refused(self, store: Face) -> None:
        await family(store)
        await store.begin_call(call("1"), None)
        await store.end_task("root", TaskStatus.REVOKED)
        late = live("1", handle="late")
        await refused(TaskNotActive, store.track(late))
        assert await store.live() == (late,)

    @both
    async def test_one_call_id_begins_once(self, store: Face) -> None:
        await family(store)
        await store.begin_call(call("1"), live("1"))
        await refused(StoreError, store.begin_call(call("1"), None))
        assert (await store.task("root")).calls == 1

    @both
    async def test_a_suspended_call_is_resumed_once_and_counts_once(self, store: Face) -> None:
        await family(store, child=Budget(calls=1, writes=1))
        await store.begin_call(call("1", key="k", path=ToolPath.WRITE), None)
        await store.end_call("1", Outcome.SUSPENDED)
        other = call("2", key="k", path=ToolPath.WRITE, tool="delete_all")
        await refused(BudgetExhausted, store.begin_call(other, None))
        await store.begin_call(call("3", key="k", path=ToolPath.WRITE), None)
        assert (await store.task("child")).calls == 1
        await refused(BudgetExhausted, store.begin_call(call("4", key="k", path=ToolPath.WRITE), None))
        await store.end_call("3", Outcome.DONE)
        await refused(BudgetExhausted, store.begin_call(call("5", key="k", path=ToolPath.WRITE), None))

    @both
    async def test_a_suspended_call_does_not_outlive_its_task(self, store: Face) -> None:
        await family(store)
        await store.begin_call(call("1", key="k"), None)
        await store.end_call("1", Outcome.SUSPENDED)
        await store.end_task("root", TaskStatus.COMPLETED)
        await refused(TaskNotActive, store.begin_call(call("2", key="k"), None))

    @both
    async def test_a_key_is_remembered_once_until_its_time(self, store: Face) -> None:
        assert not await store.known("jti")
        assert await store.remember("jti", 1100.0)
        assert not await store.remember("jti", 1200.0)
        assert not await store.remember("jti", 1050.0)
        self.now = 1199.0
        assert await store.known("jti")
        assert not await store.remember("jti", 1100.0)
        self.now = 1200.0
        assert not await store.known("jti")
        assert await store.remember("jti", 1300.0)

    def test_of_many_parallel_calls_exactly_as_many_begin_as_the_budget_says(self) -> None:
        for race in (_threads, _gathered)[not self.synchronous :]:
            self.now = Contract.now
            store = self.adapter()
            face = Face(store, asynchronous=race is _gathered)
            start = drive if race is _threads else asyncio.run
            start(face.create_task(sample_task("child", budget=Budget(calls=1))))
            begun = race(face, 8)
            getattr(store, "close", lambda: None)()
            assert begun.count(None) == 1
            assert sum(isinstance(error, BudgetExhausted) for error in begun) == 7


def _threads(face: Face, number: int) -> list[AgentGuardError | None]:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda n: drive(_attempt(face, str(n))), range(number)))


def _gathered(face: Face, number: int) -> list[AgentGuardError | None]:
    async def together() -> list[AgentGuardError | None]:
        return list(await asyncio.gather(*(_attempt(face, str(n)) for n in range(number))))

    return asyncio.run(together())


async def _attempt(face: Face, name: str) -> AgentGuardError | None:
    try:
        await face.begin_call(call(name), None)
    except AgentGuardError as error:
        return error
    return None
