"""What others of this process know of a call that has begun: what it holds, who runs it, and its end."""

from __future__ import annotations

from threading import get_ident

from agentguard.concurrency.running import Owner
from agentguard.enforcement.call import Permit
from agentguard.enforcement.call_ending import CallEnding
from agentguard.enforcement.flow import Flow
from agentguard.enforcement.issuance import Issuance
from agentguard.model import Outcome
from agentguard.telemetry import CallSpan

__all__ = ["CallInProgress"]


class CallInProgress:
    """The part of a `GuardedCall` that a guard's drain and its outbox use, in other threads.

    `thread` is the identifier of the thread that has made the call.
    """

    __slots__ = (
        "_ends",
        "_flow",
        "_issuance",
        "_outcome_left",
        "_owner",
        "_permit",
        "_span",
        "thread",
    )
    _issuance: Issuance

    def __init__(self, flow: Flow, span: CallSpan) -> None:
        self._flow, self._span = flow, span
        self._permit: Permit | None = None
        self._ends = [True]  # taken by a pop, which is atomic: the call is ended once
        self.thread = get_ident()
        self._owner: Owner | None = None
        self._outcome_left = Outcome.CANCELLED  # of a call that an interrupt has kept from its end

    @property
    def permit(self) -> Permit:
        """What permits this call, which has begun."""
        assert self._permit is not None  # noqa: S101  only a call that has begun is asked
        return self._permit

    @property
    def issuance(self) -> Issuance:
        """The credential of this call, which has begun."""
        return self._issuance

    @property
    def span(self) -> CallSpan:
        """The span of this call."""
        return self._span

    def take_end(self) -> bool:
        """Return True to the one caller that is to end the call, and False to any later one."""
        try:
            return self._ends.pop()
        except IndexError:
            return False

    def is_running(self) -> bool:
        """Return whether the call is yet to be left: an interrupt may have ended who would leave it."""
        owner = self._owner
        return owner is not None and owner.is_running()

    async def end_late(self) -> None:
        """End a call that nobody leaves, on the synchronous path: in the thread of the outbox.

        It waits for no issuer: the outbox revokes the credential.
        """
        permit, enforcement = self.permit, self._flow.enforcement
        if self._issuance.is_given_up:  # a guard that closes has ended it, and notes that
            return
        permit.end()
        self._issuance.leave_to_outbox()
        await CallEnding(enforcement.sync, permit, self._issuance, self._span).finish(self._outcome_left)
        enforcement.calls.in_progress.pop(permit.call.id, None)

    def _forget(self) -> None:
        """Let go of what tells who runs this call. If its end is not noted by now, the outbox notes it."""
        self._owner = None  # it refers to frames that hold this call
        if self._permit is not None:
            call_id, enforcement = self._permit.call.id, self._flow.enforcement
            enforcement.calls.in_progress.pop(call_id, None)
            if call_id in enforcement.calls.running:
                enforcement.on_unrevoked()

    def _forget_begin(self, permit: Permit) -> None:
        """Let go of a call that the store has not begun."""
        calls = self._flow.enforcement.calls
        calls.in_progress.pop(permit.call.id, None)
        calls.running.pop(permit.call.id, None)
        self._permit = None
