"""One call, from its interception to its record: an asynchronous context manager."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from agentguard.concurrency.fork import this_process
from agentguard.concurrency.running import Owner
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.call_ending import CallEnding
from agentguard.enforcement.call_in_progress import CallInProgress
from agentguard.enforcement.evaluation import Evaluation, undecidable
from agentguard.enforcement.failures import is_for_caller
from agentguard.enforcement.flow import Flow
from agentguard.enforcement.issuance import Issuance
from agentguard.enforcement.judgement import BasisChanged, Judgement
from agentguard.enforcement.missing_grants import GrantDenied
from agentguard.errors import DenialCode, Denied, safe_text
from agentguard.lease import Lease
from agentguard.model import Credential, Effect, Outcome, TaskState
from agentguard.telemetry import Stage

__all__ = ["GuardedCall"]

T = TypeVar("T")
ANSWERS = frozenset({Outcome.DONE, Outcome.FAILED})  # with a result or an error, which may hold what was read
log = logging.getLogger("agentguard")


class GuardedCall(CallInProgress):
    """A call as an asynchronous context manager; its block is the execution of the tool.

    Entering raises Denied if the call is not permitted. Leaving raises Denied if the store could not note
    what the tool has read: rules would not know what the model has read, so the answer is withheld. A forked
    child that leaves the call ends and records nothing: the call is its parent's.
    """

    __slots__ = ("_abandoned", "_invocation", "_judgement", "_process", "_stage")
    _stage: Stage

    def __init__(self, flow: Flow, invocation: Invocation) -> None:
        description = "" if invocation.spec is None else invocation.spec.description
        telemetry = flow.enforcement.telemetry
        span = telemetry.call(invocation.tool, invocation.call_id, invocation.arguments, description)
        super().__init__(flow, span)
        self._invocation = invocation
        self._judgement = Judgement(invocation, span)
        self._abandoned, self._process = False, this_process()

    async def __aenter__(self) -> Permit:
        self._owner = Owner()
        self._span.__enter__()
        try:
            permit = await self._start()
            await self._issue(permit)
            permit.require_state()
        except BaseException as error:
            await self._leave(error)
            raise
        self._stage = self._span.stage("execute")
        self._stage.__enter__()
        return permit

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._process is this_process():
            self._stage.__exit__()
        await self._leave(error)

    # --- entering

    async def _start(self) -> Permit:
        """Judge the call and begin it; where a person has to be asked, that is done in between."""
        self._require_open()
        if self._flow.facts.needed(self._invocation.spec):
            judged = await self._judge(self._flow)  # a record may take its time, and that thread is for all
        else:
            judged = await self._in_one_go(self._judge)
        if isinstance(judged, Permit):
            return judged
        permit = await self._approve(judged)
        return await self._in_one_go(partial(self._begin, permit))

    async def _judge(self, flow: Flow) -> Permit | Evaluation:
        """Judge the call, and begin it if it is permitted without a person.

        Raises:
            Denied: The call is not permitted, or it cannot be judged: no call ends a run unrecorded.
        """
        changed: tuple[TaskState, ...] = ()
        while True:
            try:
                judged = await self._judgement.judge(flow, changed)
            except (Denied, TimeoutError):
                raise
            except BaseException as error:
                if isinstance(error, CancelledError) or is_for_caller(error):
                    raise
                raise undecidable(error) from None
            if not isinstance(judged, Permit):
                return judged
            try:
                return await self._begin(judged, flow)
            except BasisChanged as change:
                changed = change.tasks
            self._forget_begin(self.permit)

    async def _approve(self, evaluation: Evaluation) -> Permit:
        authorization = self._flow.authorization
        self._judgement.approve()
        try:
            approved = await authorization.approve(self._invocation, evaluation, self._span)
            return authorization.permit(self._invocation, approved)
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
        except BasisChanged:
            permit.begun = False
            raise
        except Denied as denied:
            # by any other denial the store has refused the call, and begun nothing
            permit.begun = denied.code is DenialCode.STORE_ERROR
            raise
        if self._abandoned:  # this thread was too slow, and nobody waits for it: nothing was minted
            await flow.operations.end_call(call.id, Outcome.FAILED, revoked=True)
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

    async def _issue(self, permit: Permit) -> None:
        grant, route, span = permit.grant, permit.route, self._span
        if grant is None or route is None:
            return
        credential = await self._obtain(permit)
        if route.legacy:
            span.describe(**{"credential.legacy": True})
        # the closure must not hold the lease: a cycle would keep the secret until it is collected
        tool, resource, legacy = grant.tool, grant.resource, route.legacy
        telemetry, anomalies = self._flow.enforcement.telemetry, self._issuance.anomalies

        def anomaly(kind: str) -> None:
            log.warning("anomaly: %s used the credential of %s: %s", tool, resource.name, kind)
            telemetry.anomaly(kind, resource.name, legacy=legacy)
            anomalies.append(kind)

        permit.lease = Lease(tool, resource, credential, anomaly, permit.task.id)
        permit.revoke_early = self._issuance.revoke_early

    async def _obtain(self, permit: Permit) -> Credential | None:
        """Return the call's credential; where its issuer misses something of the user, have the run wait."""
        questions = self._flow.grant_questions
        answered = await questions.repeat(permit)
        try:
            with self._span.stage("issue"):
                return await self._issuance.obtain()
        except GrantDenied as error:
            denied = error.with_traceback(None)  # its frames hold the user's token
        denied.__context__ = None  # as do those of what the broker has raised
        await questions.ask(permit, denied, answered, self._span)

    # --- leaving

    async def _leave(self, error: BaseException | None) -> None:
        """End the call and record how it ended, whatever *error* it is left by.

        Raises:
            Denied: What was read is not noted.
        """
        if self._process is not this_process():
            return
        withheld: Denied | None = None
        if self._permit is not None and isinstance(error, Denied):
            self._permit.decided = True  # by the denial
        try:
            withheld = await self._end(self._outcome(error))
            error = withheld or error
        except BaseException as cancellation:
            error = cancellation
            raise
        finally:
            await self._record(error)
            self._forget()
            self._span.__exit__()
        if withheld is not None:
            raise withheld from None

    def _outcome(self, error: BaseException | None) -> Outcome:
        """Return how the call ended; a tool that failed has failed, also where a framework handled it."""
        if error is not None:
            return self._flow.enforcement.options.outcome_of(error)
        return Outcome.FAILED if self._permit is None or not self._permit.ran else self._permit.outcome

    async def _end(self, outcome: Outcome) -> Denied | None:
        permit = self._permit
        if permit is None:
            return None
        permit.end()
        self._outcome_left = outcome
        calls = self._flow.enforcement.calls
        if not permit.begun:
            calls.running.pop(permit.call.id, None)
            return None
        if not self.take_end():
            await self._issuance.revoke_if_late()
            return permit.withheld
        noted = await CallEnding(self._flow, permit, self._issuance, self._span).finish(outcome)
        calls.running.pop(permit.call.id, None)
        if permit.withheld is not None:
            return permit.withheld
        if noted or outcome not in ANSWERS:
            return None
        return Denied.of(DenialCode.WITHHELD, "the store does not know what was read")

    async def _record(self, error: BaseException | None) -> None:
        invocation, permit = self._invocation, self._permit
        if isinstance(error, Denied) and self._flow.enforcement.calls.closed:
            log.info("denied %s: %s: %s", invocation.tool, error.code, error.reason)  # the log is closed
            self._span.ended(invocation.path, Effect.DENY, error.code)
            return
        if isinstance(error, Denied):
            await self._flow.recording.denial(invocation, error, self._span, self._judgement.request)
            if error.ends_session and self._judgement.request is not None:
                await self._flow.end_session(self._judgement.request.task, error)
            return
        effect = Effect.PERMIT if permit is None else permit.decision.effect
        self._span.ended(invocation.path, effect, self._outcome(error))
