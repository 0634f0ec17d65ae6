"""The end of a call that has begun: its credential dies, and what it has read and how it ended is noted."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from functools import partial

from agentguard.enforcement.call import Permit
from agentguard.enforcement.failures import best_effort
from agentguard.enforcement.flow import Flow
from agentguard.enforcement.issuance import Issuance
from agentguard.model import NO_READ_EFFECTS, Outcome, ReadEffects
from agentguard.provenance.labels import observe_result
from agentguard.telemetry import CallSpan

__all__ = ["CallEnding"]

log = logging.getLogger("agentguard")


class CallEnding:
    """Ends one call, once."""

    __slots__ = ("_flow", "_issuance", "_permit", "_span")

    def __init__(self, flow: Flow, permit: Permit, issuance: Issuance, span: CallSpan) -> None:
        self._flow, self._permit, self._issuance, self._span = flow, permit, issuance, span

    async def finish(self, outcome: Outcome) -> bool:
        """Leave nothing alive, also if the caller is cancelled meanwhile.

        What fails here is logged, recorded, and tried again until it succeeds. What is raised here all the
        same is an exit or an interrupt. The outbox's thread then ends the call (`GuardedCall.end_late`).

        Returns whether the task knows what was read, or nothing was read.
        """
        try:
            noted = await self._finish(outcome)
        except CancelledError:
            self._leave_to_outbox()
            raise
        self._leave_to_outbox()
        return noted

    async def _finish(self, outcome: Outcome) -> bool:
        note = self._issuance.note()
        ending = self._revoke_and_note(outcome, note)
        if self._flow.hands_over and (note is not None or self._permit.route is None):
            return await ending  # it waits for that thread alone, so it needs no task of its own
        return await self._flow.operations.to_the_end(ending)

    def _leave_to_outbox(self) -> None:
        """Have the outbox revoke the credential if nothing has noted what became of it."""
        enforcement, call_id = self._flow.enforcement, self._permit.call.id
        if call_id in enforcement.calls.running:
            if self._permit.route is not None and not self._issuance.kept:
                enforcement.calls.failed.add(call_id)
            enforcement.calls.running.pop(call_id, None)
            enforcement.on_unrevoked()

    async def _revoke_and_note(self, outcome: Outcome, note: tuple[str, float] | None) -> bool:
        permit, revoked = self._permit, False
        if permit.route is not None and note is None:
            failed = outcome is not Outcome.DONE
            with self._span.stage("revoke"):
                revoked = await self._issuance.revoke(self._flow.operations, failed=failed)
        effects = _effects(permit)  # after the revocation, or in bounded time before the note of it
        steps = partial(self._note, outcome, effects, note, revoked)
        try:
            noted = await self._flow.in_one_go(steps)
        except TimeoutError as error:
            log.error("the end of a call of %s is not yet on record: TimeoutError", permit.call.tool)
            if isinstance(error.__cause__, CancelledError):
                raise error.__cause__ from None
            noted = False
        return noted or effects is NO_READ_EFFECTS or effects == NO_READ_EFFECTS

    async def _note(
        self,
        outcome: Outcome,
        effects: ReadEffects,
        note: tuple[str, float] | None,
        revoked: bool,
        flow: Flow,
    ) -> bool:
        """Note in the store how the call ended, which may revoke its credential, and write it down."""
        enforcement, permit, issuance = self._flow.enforcement, self._permit, self._issuance
        call_id = permit.call.id
        end = partial(best_effort, "end", flow.operations.end_call, call_id, outcome, effects=effects)
        if permit.call.additions and permit.did_nothing:
            end = partial(end, undo=True)
        if note is None:
            noted = await end(revoked=revoked)
        else:
            with self._span.stage("revoke"):
                noted = revoked = await end(revoked=True, remember=note)
        if (recollection := enforcement.recollection) is not None:
            if noted:
                recollection.read(permit.task, effects)
            else:
                recollection.forget([permit.task.id])
        unrevoked = permit.route is not None and not revoked
        if unrevoked and not issuance.kept:
            enforcement.calls.failed.add(call_id)
        if revoked:
            enforcement.calls.untracked.pop(call_id, None)
        now = enforcement.options.clock()
        await flow.recording.outcome(permit, outcome, now, issuance, self._span, revoked=revoked)
        # after the record, which an interrupt may prevent; before the outbox looks, or it takes it for held
        enforcement.calls.running.pop(call_id, None)
        if unrevoked:
            enforcement.on_unrevoked()
        await self._tell_policy(outcome, flow)
        return noted

    async def _tell_policy(self, outcome: Outcome, flow: Flow) -> None:
        """Tell a policy that learns of it how a call has ended that it has permitted."""
        permit, learn = self._permit, flow.operations.learn
        if learn is not None and permit.observed is None:
            ending = outcome if permit.ran or outcome is Outcome.SUSPENDED else Outcome.FAILED
            await best_effort("telling the policy", learn, permit.request, ending)


def _effects(permit: Permit) -> ReadEffects:
    """Return what the task has read; of a result that cannot be looked through, the worst."""
    if permit.invocation.unseen:
        return NO_READ_EFFECTS
    if not permit.ran:  # so nothing is withheld either, and what went wrong is told instead
        return NO_READ_EFFECTS
    spec = permit.request.tool
    try:
        return observe_result(spec, permit.task, permit.result, permit.request)
    except Exception as error:  # noqa: BLE001  a result may be any object, and must not keep a secret alive
        log.warning("the result of %s cannot be looked through: %s", spec.name, type(error).__name__)
        return ReadEffects(untrusted=True, sensitivity=max(spec.sensitivity, permit.task.sensitivity))
