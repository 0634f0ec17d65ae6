"""The first half of a call: it is judged, perhaps a person is asked, and it begins."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.call_in_progress import CallInProgress
from agentguard.enforcement.evaluation import Evaluation, undecidable
from agentguard.enforcement.failures import is_for_caller
from agentguard.enforcement.flow import Flow
from agentguard.enforcement.issuance import Issuance
from agentguard.enforcement.judgement import BasisChanged, Judgement
from agentguard.errors import ChoiceExhausted, CountersChanged, DenialCode, Denied, safe_text
from agentguard.model import Outcome, TaskState

__all__ = ["JudgedCall"]

T = TypeVar("T")
ATTEMPTS = 100
"""How often one call is judged at most, where other calls change what it is judged by."""
CHANGING = "other calls have changed the numbers that the rules look at, each time that this one was judged"


class JudgedCall(CallInProgress):
    """The part of a `GuardedCall` that comes before its credential."""

    __slots__ = ("_abandoned", "_invocation", "_judgement")

    def __init__(self, flow: Flow, invocation: Invocation) -> None:
        description = "" if invocation.spec is None else invocation.spec.description
        telemetry = flow.enforcement.telemetry
        span = telemetry.call(invocation.tool, invocation.call_id, invocation.arguments, description)
        super().__init__(flow, span)
        self._invocation = invocation
        self._judgement = Judgement(invocation, span)
        self._abandoned = False

    async def _start(self) -> Permit:
        """Judge the call and begin it; where a person has to be asked, that is done in between."""
        self._require_open()
        if self._flow.hands_over and self._flow.facts.needed(self._invocation.spec):
            # a record may take its time, and the thread is for all calls
            request = await _decidable(self._in_one_go(self._judgement.request_without_facts))
            await self._judgement.read_facts(self._flow, request)
        judged = await self._in_one_go(self._judge)
        if isinstance(judged, Permit):
            return judged
        approved = await self._approve(judged)
        if isinstance(approved, Permit):
            return await self._in_one_go(partial(self._begin, approved))
        return await self._in_one_go(partial(self._begin_approved, approved))

    async def _judge(self, flow: Flow) -> Permit | Evaluation:
        """Judge the call, and begin it if it is permitted without a person.

        It is judged anew where other calls have changed the numbers by which it was judged. Each time one
        call has begun or ended, so of parallel calls one goes on. Where its task has no room for its choice
        any more, it is judged once more, as a call that needs none.

        Raises:
            Denied: The call is not permitted, or it cannot be judged: no call ends a run unrecorded.
        """
        changed: tuple[TaskState, ...] = ()
        for _ in range(ATTEMPTS):
            judged = await _decidable(self._judgement.judge(flow, changed))
            if not isinstance(judged, Permit):
                return judged
            try:
                return await self._begin(judged, flow)
            except BasisChanged as change:
                changed = change.tasks
            except (CountersChanged, ChoiceExhausted):
                changed = ()
            self._forget_begin(self.permit)
        raise Denied.of(DenialCode.UNCOUNTED, CHANGING)

    async def _begin_approved(self, evaluation: Evaluation, flow: Flow) -> Permit:
        """Begin a call that a person has approved, and judge it anew as `_judge` does.

        Raises:
            Denied: The rules say otherwise by now, or the store refuses.
        """
        authorization = flow.authorization
        for _ in range(ATTEMPTS):
            try:
                permit = authorization.permit(self._invocation, evaluation)
            except Denied as denied:
                permit = authorization.observed(self._invocation, evaluation.request, denied)
            try:
                return await self._begin(permit, flow)
            except (CountersChanged, ChoiceExhausted):
                self._forget_begin(permit)
            evaluation = await authorization.judge_approved(
                self._invocation, evaluation, self._span, self._judgement.share
            )
        raise Denied.of(DenialCode.UNCOUNTED, CHANGING)

    async def _approve(self, evaluation: Evaluation) -> Evaluation | Permit:
        authorization = self._flow.authorization
        self._judgement.approve()
        try:
            return await authorization.approve(self._invocation, evaluation, self._span)
        except Denied as denied:
            return authorization.observed(self._invocation, evaluation.request, denied)
        except Exception as error:
            # a person is asked by suspending the run; whatever else is raised has not approved
            if self._flow.enforcement.options.outcome_of(error) is Outcome.SUSPENDED:
                raise
            raise undecidable(error) from None

    async def _begin(self, permit: Permit, flow: Flow) -> Permit:
        """Count the call, record what is about to be minted for it, and write down that it is permitted."""
        if self._abandoned:
            raise TimeoutError("the call was given up before it began")
        enforcement, call = self._flow.enforcement, permit.call
        self._issuance = Issuance(
            permit,
            enforcement.reuse,
            self._flow.operations,
            enforcement.sync.operations,
            enforcement.calls,
            enforcement.options.clock,
        )
        self._permit = permit
        enforcement.calls.running[call.id] = self
        # a guard that closes says so before it looks which calls have begun: one of the two sees the other
        enforcement.calls.in_progress[call.id] = self
        self._require_open()
        permit.begun = True  # before the attempt: one that is cancelled or fails may have taken effect
        try:
            await self._judgement.begin(flow, call, self._issuance.planned())
        except (BasisChanged, CountersChanged, ChoiceExhausted):
            permit.begun = False
            raise
        except Denied as denied:
            # by any other denial the store has refused the call, and begun nothing
            permit.begun = denied.code is DenialCode.STORE_ERROR
            raise
        if self._abandoned:  # this thread was too slow, and nobody waits for it: nothing was minted
            undo = {"undo": True} if call.additions else {}
            await flow.operations.end_call(call.id, Outcome.FAILED, revoked=True, **undo)
            enforcement.calls.running.pop(call.id, None)
            raise TimeoutError("the call was given up while it began")
        await flow.recording.permit(permit, self._span)
        return permit

    def _require_open(self) -> None:
        if self._flow.enforcement.calls.closing:
            raise Denied.of(DenialCode.GUARD_CLOSED, "the guard is closing, or closed")

    async def _in_one_go(self, steps: Callable[[Flow], Coroutine[Any, Any, T]]) -> T:
        """Take steps on this path, and give the call up if a thread does not finish them in time.

        The thread goes on. So each side first says what it has done (`_permit`, `_abandoned`) and then looks
        at what the other has said: at least one of them knows that the call has begun, and ends it.
        """
        try:
            return await self._flow.in_one_go(steps)
        except TimeoutError as error:
            self._abandoned = True
            raise Denied.of(DenialCode.STORE_ERROR, f"store failed: {safe_text(error)}") from None


async def _decidable(judging: Awaitable[T]) -> T:
    """Await a step of the judgement of a call.

    Raises:
        Denied: The call is not permitted, or it cannot be judged: no call ends a run unrecorded.
    """
    try:
        return await judging
    except (Denied, TimeoutError):
        raise
    except BaseException as error:
        if isinstance(error, CancelledError) or is_for_caller(error):
            raise
        raise undecidable(error) from None
