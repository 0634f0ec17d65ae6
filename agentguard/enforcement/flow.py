"""The policy enforcement point: the one flow around a tool call.

    identify → classify → decide → (approve) → issue → execute → revoke → record

It knows the ports, and neither adapters nor frameworks. What comes before a call begins is
`authorization`, which has no side effect; whatever `_carry_out` begins is undone in its `finally`,
whichever way the call ends.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import time
from typing import TypeVar

from agentguard.catalog import Catalog
from agentguard.enforcement.authorization import Authorization
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.entitlements import Ceiling
from agentguard.enforcement.issuance import Issuance, attempt
from agentguard.enforcement.operations import Io
from agentguard.enforcement.outbox import Outbox
from agentguard.enforcement.recording import Recording
from agentguard.enforcement.routing import Brokers, Routes
from agentguard.enforcement.task_credentials import ReusableCredentials, SubjectTokens
from agentguard.errors import ApprovalError, BudgetExhausted, DenialCode, Denied, TaskNotActive
from agentguard.lease import Lease
from agentguard.model import NO_READ_EFFECTS, Effect, Outcome, ReadEffects, ToolPath
from agentguard.ports import (
    Approver,
    AuditLog,
    Entitlements,
    IdentitySource,
    Policy,
    Store,
    Transmitter,
)
from agentguard.provenance.labels import observe_result
from agentguard.telemetry import CallSpan, Telemetry

__all__ = ["Brokers", "Enforcement"]

T = TypeVar("T")
ANSWERS = frozenset({Outcome.DONE, Outcome.FAILED})  # with a result or an error, which may hold what was read
log = logging.getLogger("agentguard")


class Enforcement:
    """The flow, and what it needs. Built once; holds no state of a call.

    `brokers` is keyed by resource name (None for any) and path. `lifetime`, `approval_lifetime` and
    `timeout` are seconds. `ceiling` is what the agent may do at most, as resource → scopes;
    `entitlements` what its users may. `signals` are told, by name, of each task's end.
    `suspends` tells a framework's control flow from an error. With `observe`, rules are recorded and block
    nothing; with `record_requests`, the audit log holds all that a policy was asked, values included.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        policy: Policy,
        identity: IdentitySource,
        brokers: Brokers,
        store: Store,
        audit: AuditLog,
        approvers: Mapping[ToolPath, Approver] | None = None,
        telemetry: Telemetry | None = None,
        environment: Mapping[str, str] | None = None,
        ceiling: Ceiling | None = None,
        entitlements: Entitlements | None = None,
        signals: Mapping[str, Transmitter] | None = None,
        lifetime: float = 60.0,
        approval_lifetime: float = 300.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(16),
        suspends: Callable[[BaseException], bool] = lambda _error: False,
        observe: bool = False,
        record_requests: bool = False,
    ) -> None:
        if observe:
            log.warning("OBSERVE MODE: agentguard blocks nothing; what it would deny runs without credential")
        self.catalog, self.policy, self.identity = catalog, policy, identity
        self.store, self.audit, self.environment = store, audit, environment or {}
        self.telemetry = telemetry or Telemetry()
        self._recording = Recording(identity, requests=record_requests)
        self.clock, self.new_id, self.suspends = clock, new_id, suspends
        routes = Routes(brokers, store)
        transmitters = {f"signals/{name}": each for name, each in (signals or {}).items()}
        self.reuse, self.subject_tokens = (
            ReusableCredentials(clock, timeout=2 * timeout),
            SubjectTokens(clock),
        )
        self.sync, self.async_ = Io.pair(
            policy,
            store,
            audit,
            routes,
            approvers or {},
            entitlements,
            transmitters,
            self.reuse.flights.share,
            timeout,
        )
        self.outbox = Outbox(self.sync, clock)
        self.lifetime, self.transmitters = lifetime, transmitters
        self.on_unrevoked: Callable[[], None] = lambda: None
        """Called when a credential is left in the outbox that no running call holds."""
        self._authorisation = Authorization(
            catalog=catalog,
            policy=policy,
            identity=identity,
            routes=routes,
            environment=self.environment,
            ceiling=ceiling,
            subject_tokens=self.subject_tokens,
            lifetime=lifetime,
            approval_lifetime=approval_lifetime,
            clock=clock,
            new_id=new_id,
            suspends=suspends,
            observe=observe,
        )

    # --- the flow

    async def run(self, invocation: Invocation, execute: Callable[[Permit], Awaitable[T]], io: Io) -> T:
        """Judge the call, and carry it out if it is permitted.

        Raises:
            Denied: It is not; nothing ran, or nothing of it is left.
        """
        with self.telemetry.call(invocation.tool, invocation.call_id, invocation.arguments) as span:
            request, effect = None, Effect.PERMIT
            try:
                request = await self._authorisation.request(invocation, io, span)
                permit = await self._authorisation.permit(invocation, request, io, span)
                effect = permit.decision.effect  # a deny, where the guard only observes
                result = await self._carry_out(permit, execute, io, span)
            except Denied as denied:
                await self._recording.refused(invocation, denied, io, span, request)
                raise
            except BaseException as error:
                span.ended(invocation.path, effect, self._outcome(error))
                raise
            span.ended(invocation.path, effect, Outcome.DONE)
            return result

    async def refuse(self, invocation: Invocation, denied: Denied, io: Io) -> None:
        """Record a denial that the framework's side found by itself."""
        with self.telemetry.call(invocation.tool, invocation.call_id, invocation.arguments) as span:
            await self._recording.refused(invocation, denied, io, span)

    async def _carry_out(
        self, permit: Permit, execute: Callable[[Permit], Awaitable[T]], io: Io, span: CallSpan
    ) -> T:
        outcome, issuance = Outcome.FAILED, Issuance(permit, self.reuse, io)
        try:
            await self._begin(permit, issuance, io)
            await self._recording.permitted(permit, io, span)
            await self._issue(permit, issuance, span)
            with span.stage("execute"):
                result = await execute(permit)
            outcome = Outcome.DONE
            return result
        except BaseException as error:
            outcome = self._outcome(error)
            raise
        finally:
            permit.end()
            noted = not permit.begun or await io.to_the_end(self._finish(permit, outcome, issuance, io, span))
            self.outbox.running.discard(permit.call.id)
            if not noted and outcome in ANSWERS:  # rules would not know what the model has read
                raise Denied.of(DenialCode.WITHHELD, "the store does not know what was read") from None

    # --- the stages

    async def _begin(self, permit: Permit, issuance: Issuance, io: Io) -> None:
        call = permit.call
        self.outbox.running.add(call.id)
        permit.begun = True  # before the attempt: one that is cancelled or fails may have taken effect
        try:
            await io.begin_call(call, issuance.planned())
        except TaskNotActive as error:
            permit.begun = False
            raise Denied.of(DenialCode.TASK_ENDED, str(error)) from None
        except BudgetExhausted as error:
            permit.begun = False
            raise Denied.of(DenialCode.BUDGET, str(error)) from None
        except ApprovalError as error:
            permit.begun = False
            raise Denied.of(DenialCode.APPROVAL_REFUSED, str(error)) from None
        except Exception as error:  # noqa: BLE001  shared state that errs is a deny
            raise Denied.of(DenialCode.STORE_ERROR, f"store failed: {type(error).__name__}") from None

    async def _issue(self, permit: Permit, issuance: Issuance, span: CallSpan) -> None:
        grant, route = permit.grant, permit.route
        if grant is None or route is None:
            return
        with span.stage("issue"):
            credential = await issuance.obtain()
        if route.legacy:
            span.describe(**{"credential.legacy": True})
        # what a lease holds is not what holds the lease: a cycle would keep the secret until it is collected
        tool, resource, legacy, anomalies = grant.tool, grant.resource, route.legacy, issuance.anomalies

        def anomaly(kind: str) -> None:
            log.warning("anomaly: %s used the credential of %s: %s", tool, resource.name, kind)
            self.telemetry.anomaly(kind, resource.name, legacy=legacy)
            anomalies.append(kind)

        permit.lease = Lease(tool, resource, credential, anomaly)

    async def _finish(
        self, permit: Permit, outcome: Outcome, issuance: Issuance, io: Io, span: CallSpan
    ) -> bool:
        """Leave nothing alive. What fails here is logged, recorded, and tried again until it succeeds.

        Returns whether the task knows what was read, or nothing was.
        """
        call, effects = permit.call, _read_effects(permit)
        end = partial(attempt, "end", io.end_call, call.id, outcome, effects=effects)
        if permit.route is None:
            revoked, noted = False, await end()
        else:
            with span.stage("revoke"):
                revoked, noted = await self._revoke(issuance, outcome, end)
            if not revoked and not issuance.kept:
                self.outbox.failed.add(call.id)
        self.outbox.running.discard(call.id)  # before the outbox looks, or it takes what is kept for held
        if permit.route is not None and not revoked:
            self.on_unrevoked()
        await self._recording.ended(permit, outcome, self.clock(), issuance, io, revoked=revoked)
        return noted or effects == NO_READ_EFFECTS

    async def _revoke(
        self, issuance: Issuance, outcome: Outcome, end: Callable[..., Awaitable[bool]]
    ) -> tuple[bool, bool]:
        """Revoke, and note the end; returns whether each was done."""
        if (note := issuance.note()) is not None:
            done = await end(revoked=True, remember=note)
            return done, done
        revoked = await issuance.give_back(failed=outcome is not Outcome.DONE)
        return revoked, await end(revoked=revoked)

    def _outcome(self, error: BaseException) -> Outcome:
        if self.suspends(error):
            return Outcome.SUSPENDED
        return Outcome.FAILED if isinstance(error, Exception) else Outcome.CANCELLED


def _read_effects(permit: Permit) -> ReadEffects:
    """Say what the task has read; of a result that cannot be looked through, the worst."""
    spec = permit.request.tool
    try:
        return observe_result(spec, permit.task, permit.result)
    except Exception as error:  # noqa: BLE001  a result may be any object, and must not keep a secret alive
        log.warning("the result of %s cannot be looked through: %s", spec.name, type(error).__name__)
        return ReadEffects(untrusted=True, sensitivity=max(spec.sensitivity, permit.task.sensitivity))
