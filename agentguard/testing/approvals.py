"""What a store must do with approvals. A part of `StoreContract`."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentguard.errors import ApprovalError, BudgetExhausted, TaskNotActive
from agentguard.model import ApprovalStatus, Budget, Outcome, TaskStatus, ToolPath
from agentguard.testing.samples import sample_task
from agentguard.testing.scenarios import AwaitedPort, Contract, assert_raises, on_both_paths
from agentguard.testing.scenes import (
    call,
    create_family,
    live_credential,
    pending_approval,
    save_answered_approval,
)

__all__ = ["ApprovalContract"]


class ApprovalContract(Contract):
    """An approval is for one call, is used once, and only an answer can approve it."""

    @on_both_paths
    async def test_an_approval_is_asked_once_and_answered_once(self, store: AwaitedPort) -> None:
        await store.create_task(sample_task("child"))
        pending = pending_approval(purpose="Refund order 4711", display='{"arguments":{"id":"4711"}}')
        assert await store.save_approval(pending) == pending
        assert await store.save_approval(replace(pending, tool="other")) == pending
        await store.answer_approval(pending.answered(approved=True, approver="user:eve", reason="fine"))
        saved = await store.approval(pending.id)
        assert saved == pending.answered(approved=True, approver="user:eve", reason="fine")
        refusal = pending.answered(approved=False, approver="x")
        await assert_raises(ApprovalError, store.answer_approval(refusal))
        assert await store.approval("unknown") is None

    @on_both_paths
    async def test_no_answer_is_taken_that_was_not_asked_for(self, store: AwaitedPort) -> None:
        await store.create_task(sample_task("child"))
        answer = pending_approval().answered(approved=True, approver="x")
        await assert_raises(ApprovalError, store.answer_approval(answer))
        await assert_raises(ApprovalError, store.save_approval(answer))
        await store.save_approval(pending_approval())
        changes: tuple[dict[str, Any], ...] = (
            {"call_key": "k2"},
            {"tool": "z"},
            {"digest": "z"},
            {"policy_version": "z"},
            {"expires_at": 9e9},
            {"task_id": "z"},
            {"path": ToolPath.READ},
            {"purpose": "z"},
            {"display": '{"arguments":{}}'},
            {"shown_digest": "z"},
            {"status": ApprovalStatus.USED},
        )
        for change in changes:
            await assert_raises(ApprovalError, store.answer_approval(replace(answer, **change)))
        await assert_raises(ApprovalError, store.answer_approval(pending_approval()))
        self.now = 1300.0
        await assert_raises(ApprovalError, store.answer_approval(answer))
        assert (await store.approval("a")).status is ApprovalStatus.PENDING
        await store.answer_approval(pending_approval().answered(approved=False, approver="x"))
        assert (await store.approval("a")).status is ApprovalStatus.DENIED

    @on_both_paths
    async def test_the_newest_approval_of_a_call_is_found(self, store: AwaitedPort) -> None:
        assert await store.approval_for("k") is None
        await store.create_task(sample_task("child"))
        for name in ("a", "b"):
            await store.save_approval(pending_approval(name))
        await store.save_approval(pending_approval("c", call_key="other"))
        await store.save_approval(pending_approval("a"))
        assert (await store.approval_for("k")).id == "b"

    @on_both_paths
    async def test_a_question_counts_on_its_task_and_all_that_it_descends_from(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        for name in ("a", "a", "b"):
            await store.save_approval(pending_approval(name))
        await store.save_approval(pending_approval("c", task_id="parent"))
        counts = [(await store.task(name)).questions for name in ("child", "parent", "root")]
        assert counts == [2, 3, 3]

    @on_both_paths
    async def test_a_used_up_budget_of_questions_anywhere_in_the_lineage_asks_nobody(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store, root=Budget(questions=2))
        for name in ("a", "b"):
            await store.save_approval(pending_approval(name))
        for task_id in ("child", "parent", "root"):
            attempt = store.save_approval(pending_approval("c", task_id=task_id))
            assert "root has used its 2 questions" in await assert_raises(BudgetExhausted, attempt)
        assert await store.approval("c") is None
        assert [(await store.task(name)).questions for name in ("child", "root")] == [2, 2]
        assert (await store.save_approval(pending_approval("a"))).id == "a"

    @on_both_paths
    async def test_nobody_is_asked_for_a_task_that_is_over(self, store: AwaitedPort) -> None:
        await assert_raises(TaskNotActive, store.save_approval(pending_approval()))
        await create_family(store)
        await store.end_task("root", TaskStatus.REVOKED)
        await assert_raises(TaskNotActive, store.save_approval(pending_approval()))

    @on_both_paths
    async def test_a_rejection_holds_in_the_whole_family_for_such_calls_alone(
        self, store: AwaitedPort
    ) -> None:
        await create_family(store)
        await store.create_task(sample_task("other"))
        facts: dict[str, Any] = {"tool": "pay", "shown_digest": "s"}
        for name in ("early", "late"):
            await store.save_approval(pending_approval(name, **facts, task_id="parent", call_key=name))
        early = pending_approval("early", **facts, task_id="parent", call_key="early")
        late = pending_approval("late", **facts, task_id="parent", call_key="late")
        await save_answered_approval(store, "no", approved=False, **facts)
        assert (await store.rejection("root", "pay", "s")).id == "no"
        assert await store.rejection("root", "pay", "z") is None
        assert await store.rejection("root", "z", "s") is None
        assert await store.rejection("other", "pay", "s") is None
        for task_id in ("child", "parent", "root"):
            again = pending_approval("again", **facts, task_id=task_id, call_key="another", digest="z")
            assert "user:eve" in await assert_raises(ApprovalError, store.save_approval(again))
        await assert_raises(ApprovalError, store.answer_approval(early.answered(approved=True, approver="x")))
        await store.answer_approval(late.answered(approved=False, approver="x"))
        assert await store.rejection("root", "pay", "s") is not None
        await store.save_approval(pending_approval("fine", **facts, task_id="other"))
        assert (await store.task("root")).questions == 3

    @on_both_paths
    async def test_an_approval_that_was_given_before_a_rejection_stays(self, store: AwaitedPort) -> None:
        await create_family(store)
        for name in ("yes", "no"):
            await store.save_approval(pending_approval(name, call_key=name, shown_digest="s"))
        for name in ("yes", "no"):
            reply = pending_approval(name, call_key=name, shown_digest="s")
            await store.answer_approval(reply.answered(approved=name == "yes", approver="x"))
        await store.begin_call(call("1", key="yes", approval="yes"), None)
        assert (await store.approval("yes")).status is ApprovalStatus.USED

    @on_both_paths
    async def test_an_approval_is_used_once_by_its_own_call_in_its_time(self, store: AwaitedPort) -> None:
        await create_family(store)
        await store.save_approval(pending_approval())
        for attempt in (call("1", key="k", approval="unknown"), call("1", key="k", approval="a")):
            await assert_raises(ApprovalError, store.begin_call(attempt, live_credential("1")))
        await store.answer_approval(pending_approval().answered(approved=True, approver="x"))
        await assert_raises(ApprovalError, store.begin_call(call("1", key="k2", approval="a"), None))
        await assert_raises(ApprovalError, store.begin_call(call("1", key="k", approval="a", tool="z"), None))
        await assert_raises(
            ApprovalError, store.begin_call(call("1", key="k", approval="a", task="parent"), None)
        )
        self.now = 1300.0
        await assert_raises(ApprovalError, store.begin_call(call("1", key="k", approval="a"), None))
        self.now = 1299.0
        assert (await store.task("root")).calls == 0
        assert await store.live() == ()
        await store.begin_call(call("1", key="k", approval="a"), None)
        assert (await store.approval("a")).status is ApprovalStatus.USED

    @on_both_paths
    async def test_a_denied_approval_carries_no_call(self, store: AwaitedPort) -> None:
        await save_answered_approval(store, approved=False)
        await assert_raises(ApprovalError, store.begin_call(call("1", key="k", approval="a"), None))

    @on_both_paths
    async def test_time_travel_revives_no_approval(self, store: AwaitedPort) -> None:
        for outcome in (Outcome.DONE, Outcome.FAILED, Outcome.CANCELLED, None):
            key = f"k-{outcome}"
            await save_answered_approval(store, key, call_key=key)
            await store.begin_call(call(f"{key}-1", key=key, approval=key), None)
            if outcome is not None:
                await store.end_call(f"{key}-1", outcome)
            await assert_raises(
                ApprovalError, store.begin_call(call(f"{key}-2", key=key, approval=key), None)
            )

    @on_both_paths
    async def test_a_resumed_call_uses_the_approval_that_it_used_before_and_no_older_one(
        self, store: AwaitedPort
    ) -> None:
        await save_answered_approval(store, "old")
        await store.begin_call(call("1", key="k", approval="old"), None)
        await store.end_call("1", Outcome.DONE)
        await save_answered_approval(store, "new")
        await store.begin_call(call("2", key="k", approval="new"), None)
        await store.end_call("2", Outcome.SUSPENDED)
        await assert_raises(ApprovalError, store.begin_call(call("3", key="k", approval="old"), None))
        self.now = 1300.0  # it has expired, and was used in time
        await store.begin_call(call("3", key="k", approval="new"), None)
        await store.end_call("3", Outcome.DONE)
        await assert_raises(ApprovalError, store.begin_call(call("4", key="k", approval="new"), None))
