"""What a store promises of approvals; a part of `StoreContract`."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentguard.errors import ApprovalError
from agentguard.model import ApprovalStatus, Outcome
from agentguard.testing.both import Contract, Face, both, refused
from agentguard.testing.scenes import approved_call, ask, call, family, live

__all__ = ["ApprovalContract"]


class ApprovalContract(Contract):
    """An approval is for one call, is used once, and comes from an answer alone."""

    @both
    async def test_an_approval_is_asked_once_and_answered_once(self, store: Face) -> None:
        asked = ask()
        assert await store.save_approval(asked) == asked
        assert await store.save_approval(replace(asked, tool="other")) == asked
        await store.answer_approval(asked.answered(approved=True, approver="user:eve", reason="fine"))
        found = await store.approval(asked.id)
        assert (found.status, found.approver, found.reason) == (ApprovalStatus.APPROVED, "user:eve", "fine")
        await refused(ApprovalError, store.answer_approval(asked.answered(approved=False, approver="x")))
        assert await store.approval("unknown") is None

    @both
    async def test_no_answer_is_taken_that_was_not_asked_for(self, store: Face) -> None:
        given = ask().answered(approved=True, approver="x")
        await refused(ApprovalError, store.answer_approval(given))
        await refused(ApprovalError, store.save_approval(given))
        await store.save_approval(ask())
        wrongs: tuple[dict[str, Any], ...] = (
            {"call_key": "k2"},
            {"tool": "z"},
            {"digest": "z"},
            {"policy_version": "z"},
            {"expires_at": 9e9},
            {"task_id": "z"},
            {"status": ApprovalStatus.USED},
        )
        for wrong in wrongs:
            await refused(ApprovalError, store.answer_approval(replace(given, **wrong)))
        await refused(ApprovalError, store.answer_approval(ask()))
        self.now = 1300.0
        await refused(ApprovalError, store.answer_approval(given))
        assert (await store.approval("a")).status is ApprovalStatus.PENDING

    @both
    async def test_the_newest_approval_of_a_call_is_found(self, store: Face) -> None:
        assert await store.approval_for("k") is None
        for name in ("a", "b"):
            await store.save_approval(ask(name))
        await store.save_approval(ask("c", call_key="other"))
        await store.save_approval(ask("a"))
        assert (await store.approval_for("k")).id == "b"

    @both
    async def test_an_approval_is_used_once_by_its_own_call_in_its_time(self, store: Face) -> None:
        await family(store)
        await store.save_approval(ask())
        for attempt in (call("1", key="k", approval="unknown"), call("1", key="k", approval="a")):
            await refused(ApprovalError, store.begin_call(attempt, live("1")))
        await store.answer_approval(ask().answered(approved=True, approver="x"))
        await refused(ApprovalError, store.begin_call(call("1", key="k2", approval="a"), None))
        await refused(ApprovalError, store.begin_call(call("1", key="k", approval="a", tool="z"), None))
        await refused(ApprovalError, store.begin_call(call("1", key="k", approval="a", task="parent"), None))
        self.now = 1300.0
        await refused(ApprovalError, store.begin_call(call("1", key="k", approval="a"), None))
        self.now = 1299.0
        assert (await store.task("root")).calls == 0
        assert await store.live() == ()
        await store.begin_call(call("1", key="k", approval="a"), None)
        assert (await store.approval("a")).status is ApprovalStatus.USED

    @both
    async def test_a_denied_approval_carries_no_call(self, store: Face) -> None:
        await approved_call(store, approved=False)
        await refused(ApprovalError, store.begin_call(call("1", key="k", approval="a"), None))

    @both
    async def test_time_travel_revives_no_approval(self, store: Face) -> None:
        for outcome in (Outcome.DONE, Outcome.FAILED, Outcome.CANCELLED, None):
            key = f"k-{outcome}"
            await approved_call(store, key, call_key=key)
            await store.begin_call(call(f"{key}-1", key=key, approval=key), None)
            if outcome is not None:
                await store.end_call(f"{key}-1", outcome)
            await refused(ApprovalError, store.begin_call(call(f"{key}-2", key=key, approval=key), None))

    @both
    async def test_a_resumed_call_uses_the_approval_that_it_used_before_and_no_older_one(
        self, store: Face
    ) -> None:
        await approved_call(store, "old")
        await store.begin_call(call("1", key="k", approval="old"), None)
        await store.end_call("1", Outcome.DONE)
        await approved_call(store, "new")
        await store.begin_call(call("2", key="k", approval="new"), None)
        await store.end_call("2", Outcome.SUSPENDED)
        await refused(ApprovalError, store.begin_call(call("3", key="k", approval="old"), None))
        await store.begin_call(call("3", key="k", approval="new"), None)
        await store.end_call("3", Outcome.DONE)
        await refused(ApprovalError, store.begin_call(call("4", key="k", approval="new"), None))
