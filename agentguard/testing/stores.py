"""The contract suite of a store. pytest collects a subclass of it."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agentguard.errors import BudgetExhausted, StoreError, TaskNotActive
from agentguard.model import Budget, Identity, Login, Outcome, TaskStatus, ToolPath
from agentguard.testing.approvals import ApprovalContract
from agentguard.testing.choices import ChoiceContract
from agentguard.testing.counters import CounterContract
from agentguard.testing.effects import EffectsContract
from agentguard.testing.races import begin_together
from agentguard.testing.revisions import RevisionContract
from agentguard.testing.samples import sample_task
from agentguard.testing.scenarios import AwaitedPort, assert_raises, on_both_paths
from agentguard.testing.scenes import call, create_family, live_credential

__all__ = ["StoreContract"]


class StoreContract(ApprovalContract, ChoiceContract, CounterContract, EffectsContract, RevisionContract):
    """Tests a store against `ports.Store`. Override `make`."""

    def make(self, clock: Callable[[], float]) -> Any:
        """Return a new, empty store that uses *clock* as its clock."""
        raise NotImplementedError

    def adapter(self) -> Any:
        return self.make(lambda: self.now)

    @on_both_paths
    async def test_a_task_comes_back_as_it_was(self, store: AwaitedPort) -> None:
        state = sample_task(budget=Budget(calls=3, writes=1, questions=2), lineage=("parent", "root"))
        await store.create_task(state)
        assert await store.task(state.id) == state
        assert await store.task("unknown") is None

    @on_both_paths
    async def test_a_task_is_not_overwritten(self, store: AwaitedPort) -> None:
        await store.create_task(sample_task(purpose="first"))
        await assert_raises(StoreError, store.create_task(sample_task(purpose="second")))
        assert (await store.task("task-1")).purpose == "first"

    @on_both_paths
    async def test_a_call_counts_on_its_task_and_all_that_it_descends_from(self, store: AwaitedPort) -> None:
        await create_family(store)
        await store.begin_call(call("1", tool="get_order"), None)
        await store.begin_call(call("2", tool="refund_order", path=ToolPath.WRITE), None)
        await store.begin_call(call("3", tool="get_order", path=ToolPath.ESCALATION), None)
        for task_id in ("child", "parent", "root"):
            state = await store.task(task_id)
            assert (state.calls, state.writes) == (3, 2)
            assert state.history == ("get_order", "refund_order")

    @on_both_paths
    async def test_a_used_up_budget_anywhere_in_the_lineage_refuses_and_counts_nothing(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store, root=Budget(writes=1))
        await store.begin_call(call("1", path=ToolPath.WRITE), None)
        for path in (ToolPath.WRITE, ToolPath.ESCALATION):
            text = await assert_raises(
                BudgetExhausted, store.begin_call(call("2", path=path), live_credential("2"))
            )
            assert "root" in text
        assert (await store.task("child")).calls == 1
        assert await store.live() == ()
        await store.begin_call(call("3", path=ToolPath.READ), None)

    @on_both_paths
    async def test_a_budget_of_nothing_carries_nothing(self, store: AwaitedPort) -> None:
        await store.create_task(sample_task("child", budget=Budget(calls=0)))
        await assert_raises(BudgetExhausted, store.begin_call(call("1"), None))

    @on_both_paths
    async def test_an_unknown_task_or_ancestor_carries_no_call(self, store: AwaitedPort) -> None:
        await assert_raises(TaskNotActive, store.begin_call(call("1"), None))
        await store.create_task(sample_task("child", lineage=("lost",)))
        assert "lost" in await assert_raises(TaskNotActive, store.begin_call(call("1"), None))

    @on_both_paths
    async def test_a_deadline_anywhere_in_the_lineage_ends_the_calls_at_its_second(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store, deadline=1500.0)
        self.now = 1499.0
        await store.begin_call(call("1"), None)
        self.now = 1500.0
        text = await assert_raises(TaskNotActive, store.begin_call(call("2"), None))
        assert "root" in text
        assert "expired" in text

    @on_both_paths
    async def test_ending_a_task_ends_its_descendants_and_the_first_end_stands(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        await store.create_task(sample_task("other"))
        assert await store.end_task("child", TaskStatus.COMPLETED) == ("child",)
        assert set(await store.end_task("root", TaskStatus.REVOKED)) == {"root", "parent"}
        assert await store.end_task("root", TaskStatus.COMPLETED) == ()
        assert await store.end_task("unknown", TaskStatus.REVOKED) == ()
        names = ("root", "parent", "child", "other")
        statuses = {name: (await store.task(name)).status.value for name in names}
        assert statuses == {"root": "revoked", "parent": "revoked", "child": "completed", "other": "active"}
        text = await assert_raises(TaskNotActive, store.begin_call(call("1", task="parent"), None))
        assert "revoked" in text

    @on_both_paths
    async def test_what_an_end_owes_is_recorded_with_it_for_each_task_that_ends_now(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        await store.end_task("child", TaskStatus.COMPLETED)
        due_notice = live_credential("tell:", task="", handle="{}")
        await store.end_task("root", TaskStatus.REVOKED, [due_notice])
        await store.end_task("root", TaskStatus.REVOKED, [due_notice])
        notices = {(notice.call_id, notice.task_id, notice.handle) for notice in await store.live()}
        assert notices == {("tell:root", "root", "{}root"), ("tell:parent", "parent", "{}parent")}
        await store.forget("tell:root")
        assert [notice.task_id for notice in await store.live()] == ["parent"]

    @on_both_paths
    async def test_the_active_tasks_of_a_subject_are_known(self, store: AwaitedPort) -> None:
        await create_family(store)
        await store.create_task(sample_task("late", deadline=1500.0))
        other = Identity(subject="user:bob", actor="agent://a")
        await store.create_task(sample_task("other", identity=other))
        await store.end_task("child", TaskStatus.COMPLETED)
        subject = sample_task().identity.subject
        assert set(await store.active(subject)) == {"root", "parent", "late"}
        self.now = 1501.0
        assert set(await store.active(subject)) == {"root", "parent"}
        assert await store.active("nobody") == ()

    @on_both_paths
    async def test_the_active_tasks_of_a_login_are_found_by_each_of_its_names(
        self, store: AwaitedPort
    ) -> None:
        login = Login(issuer="https://idp.example", subject="4711", session="s-1", jti="t-1")
        await store.create_task(sample_task("one", login=login))
        await store.create_task(sample_task("late", login=replace(login, jti="t-2"), deadline=1500.0))
        await store.create_task(sample_task("over", login=login))
        await store.create_task(sample_task("foreign", login=replace(login, issuer="https://other.example")))
        await store.create_task(sample_task("opaque"))
        await store.end_task("over", TaskStatus.COMPLETED)
        assert (await store.task("one")).login == login

        async def active_in(issuer: str = login.issuer, **names: str) -> set[str]:
            return set(await store.active_in(Login(issuer=issuer, **names)))

        assert await active_in(subject="4711") == {"one", "late"}
        assert await active_in(session="s-1") == {"one", "late"}
        assert await active_in(jti="t-1") == {"one"}
        assert await active_in(session="s-1", subject="4711", jti="t-2") == {"late"}
        assert await active_in(session="s-1", subject="another") == set()
        assert await active_in(session="4711") == await active_in(jti="s-1") == set()
        assert await active_in("https://evil.example", session="s-1") == set()
        assert await store.active_in(login, without="subject") == ()
        assert await store.active((await store.task("opaque")).identity.subject, without="jti") == ("opaque",)
        self.now = 1501.0
        assert await active_in(subject="4711") == {"one"}

    @on_both_paths
    async def test_what_ended_at_its_deadline_stays_expired_and_is_still_named_once(
        self, store: AwaitedPort
    ) -> None:
        await store.create_task(sample_task(deadline=1500.0))
        self.now = 1501.0
        assert await store.end_task("task-1", TaskStatus.COMPLETED) == ("task-1",)
        assert (await store.task("task-1")).status is TaskStatus.EXPIRED

    @on_both_paths
    async def test_a_credential_is_live_until_it_is_forgotten(self, store: AwaitedPort) -> None:
        await create_family(store)
        await store.create_task(sample_task("other"))
        await store.begin_call(call("1"), live_credential("1"))
        await store.begin_call(call("2", task="parent"), None)
        await store.track(live_credential("2", task="parent", handle="late"))
        await store.track(live_credential("2", task="parent", handle="late"))
        assert set(await store.live("root")) == {
            live_credential("1"),
            live_credential("2", task="parent", handle="late"),
        }
        assert await store.live("child") == (live_credential("1"),)
        assert await store.live("other") == ()
        await store.end_call("1", Outcome.DONE)
        await store.end_task("root", TaskStatus.REVOKED)
        assert len(await store.live()) == 2
        await store.forget("1")
        await store.forget("1")
        assert await store.live() == (live_credential("2", task="parent", handle="late"),)

    @on_both_paths
    async def test_the_end_of_a_call_forgets_its_credential_only_if_it_is_revoked(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        for name, revoked in (("1", True), ("2", False)):
            await store.begin_call(call(name), live_credential(name))
            await store.end_call(name, Outcome.DONE, revoked=revoked)
        assert await store.live() == (live_credential("2"),)

    @on_both_paths
    async def test_the_end_of_a_call_remembers_what_revokes_its_credential(self, store: AwaitedPort) -> None:
        await create_family(store)
        await store.begin_call(call("1"), live_credential("1"))
        await store.end_call("1", Outcome.DONE, revoked=True, remember=("jti", 1100.0))
        assert await store.known("jti")
        assert not await store.remember("jti", 1050.0)
        await store.end_call("never-begun", Outcome.DONE, revoked=True, remember=("other", 1100.0))
        assert await store.known("other")

    @on_both_paths
    async def test_what_was_minted_while_its_task_ended_is_recorded_and_refused(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        await store.begin_call(call("1"), None)
        await store.end_task("root", TaskStatus.REVOKED)
        late = live_credential("1", handle="late")
        await assert_raises(TaskNotActive, store.track(late))
        assert await store.live() == (late,)

    @on_both_paths
    async def test_one_call_id_begins_once(self, store: AwaitedPort) -> None:
        await create_family(store)
        await store.begin_call(call("1"), live_credential("1"))
        await assert_raises(StoreError, store.begin_call(call("1"), None))
        assert (await store.task("root")).calls == 1

    @on_both_paths
    async def test_a_suspended_call_is_resumed_once_and_counts_once(self, store: AwaitedPort) -> None:
        await create_family(store, child=Budget(calls=1, writes=1))
        await store.begin_call(call("1", key="k", path=ToolPath.WRITE), None)
        await store.end_call("1", Outcome.SUSPENDED)
        other = call("2", key="k", path=ToolPath.WRITE, tool="delete_all")
        await assert_raises(BudgetExhausted, store.begin_call(other, None))
        await store.begin_call(call("3", key="k", path=ToolPath.WRITE), None)
        assert (await store.task("child")).calls == 1
        await assert_raises(BudgetExhausted, store.begin_call(call("4", key="k", path=ToolPath.WRITE), None))
        await store.end_call("3", Outcome.DONE)
        await assert_raises(BudgetExhausted, store.begin_call(call("5", key="k", path=ToolPath.WRITE), None))

    @on_both_paths
    async def test_a_suspended_call_does_not_outlive_its_task(self, store: AwaitedPort) -> None:
        await create_family(store)
        await store.begin_call(call("1", key="k"), None)
        await store.end_call("1", Outcome.SUSPENDED)
        await store.end_task("root", TaskStatus.COMPLETED)
        await assert_raises(TaskNotActive, store.begin_call(call("2", key="k"), None))

    @on_both_paths
    async def test_a_key_is_remembered_once_until_its_time(self, store: AwaitedPort) -> None:
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
        for errors, _ in begin_together(self, 8, Budget(calls=1)):
            assert errors.count(None) == 1
            assert sum(isinstance(error, BudgetExhausted) for error in errors) == 7
