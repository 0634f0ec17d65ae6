"""One call, from its interception to its record: an asynchronous context manager."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TypeVar

from agentguard.concurrency.fork import this_process
from agentguard.concurrency.running import Owner
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.call_ending import CallEnding
from agentguard.enforcement.flow import Flow
from agentguard.enforcement.judged_call import JudgedCall
from agentguard.enforcement.missing_grants import GrantDenied
from agentguard.errors import DenialCode, Denied
from agentguard.lease import Lease
from agentguard.model import Credential, Effect, Outcome
from agentguard.telemetry import Stage

__all__ = ["GuardedCall"]

T = TypeVar("T")
ANSWERS = frozenset({Outcome.DONE, Outcome.FAILED})  # with a result or an error, which may hold what was read
log = logging.getLogger("agentguard")


class GuardedCall(JudgedCall):
    """A call as an asynchronous context manager; its block is the execution of the tool.

    Entering raises Denied if the call is not permitted. Leaving raises Denied if the store could not note
    what the tool has read: rules would not know what the model has read, so the answer is withheld. A forked
    child that leaves the call ends and records nothing: the call is its parent's.
    """

    __slots__ = ("_process", "_stage")
    _stage: Stage

    def __init__(self, flow: Flow, invocation: Invocation) -> None:
        super().__init__(flow, invocation)
        self._process = this_process()

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

    # --- the credential

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
        answered = await questions.repeat(permit) if permit.request.task.questions else 0
        try:
            with self._span.stage("issue"):
                credential = await self._issuance.obtain()
            await questions.close(permit, answered)
            return credential
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
