"""The policy enforcement point: the one flow around a tool call.

    identify → classify → decide → (approve) → issue → execute → revoke → record

It knows the ports, and neither adapters nor frameworks. What comes before a call begins is
`authorisation`, which has no side effect; whatever `_carry_out` begins is undone in its `finally`,
whichever way the call ends.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from time import time
from typing import Any, TypeVar

from agentguard import records
from agentguard._drive import Asked
from agentguard.authorisation import Authorisation
from agentguard.call import Invocation, Io, Permit, stored
from agentguard.catalog import Catalog
from agentguard.errors import (
    ApprovalError,
    BudgetExhausted,
    ConfigurationError,
    DenialCode,
    Denied,
    TaskNotActive,
    denial,
)
from agentguard.lease import Lease
from agentguard.model import (
    Credential,
    Effect,
    LiveCredential,
    Outcome,
    TaskStatus,
    ToolPath,
)
from agentguard.ports import Approver, AuditLog, Broker, IdentitySource, Policy, Store
from agentguard.telemetry import CallSpan, Telemetry

__all__ = ["Brokers", "Enforcement"]

T = TypeVar("T")
Brokers = Mapping[tuple[str | None, ToolPath], Broker]
log = logging.getLogger("agentguard")


class Enforcement:
    """The flow, and what it needs. Built once; holds no state of a call.

    `brokers` is keyed by resource name (None for any) and path. `lifetime`, `approval_lifetime` and
    `timeout` are seconds. `suspends` tells a framework's control flow from an error.
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
        lifetime: float = 60.0,
        approval_lifetime: float = 300.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(16),
        suspends: Callable[[BaseException], bool] = lambda _error: False,
    ) -> None:
        for (_, path), broker in brokers.items():
            if path not in broker.paths:
                raise ConfigurationError(
                    f"the broker for {path} mints only for {sorted(broker.paths)}",
                    mend="give each path a broker of its own",
                )
        self.catalog, self.policy, self.identity = catalog, policy, identity
        self.store, self.audit = store, audit
        self.telemetry = telemetry or Telemetry()
        self.clock, self.new_id, self.suspends = clock, new_id, suspends
        routes = {key: f"{key[0] or '*'}/{key[1]}" for key in brokers}
        named = {routes[key]: broker for key, broker in brokers.items()}
        self.sync, self.asynchronous = Io.pair(policy, store, audit, named, approvers or {}, timeout)
        self._authorisation = Authorisation(
            catalog=catalog,
            policy=policy,
            identity=identity,
            routes=routes,
            environment=environment or {},
            lifetime=lifetime,
            approval_lifetime=approval_lifetime,
            clock=clock,
            new_id=new_id,
            suspends=suspends,
        )

    # --- the flow

    async def run(self, invocation: Invocation, execute: Callable[[Permit], Awaitable[T]], io: Io) -> T:
        """Judge the call, and carry it out if it is permitted.

        Raises:
            Denied: It is not; nothing ran, or nothing of it is left.
        """
        with self.telemetry.call(invocation.tool, invocation.call_id, invocation.arguments) as span:
            try:
                permit = await self._authorisation.permit(invocation, io, span)
                result = await self._carry_out(permit, execute, io, span)
            except Denied as denied:
                await self._refused(invocation, denied, io, span)
                raise
            except BaseException as error:
                span.ended(invocation.path, Effect.PERMIT, self._outcome(error))
                raise
            span.ended(invocation.path, Effect.PERMIT, Outcome.DONE)
            return result

    async def refuse(self, invocation: Invocation, denied: Denied, io: Io) -> None:
        """Record a denial that the framework's side found by itself."""
        with self.telemetry.call(invocation.tool, invocation.call_id, invocation.arguments) as span:
            await self._refused(invocation, denied, io, span)

    async def _carry_out(
        self, permit: Permit, execute: Callable[[Permit], Awaitable[T]], io: Io, span: CallSpan
    ) -> T:
        outcome, issued = Outcome.FAILED, list[Credential]()
        try:
            await self._begin(permit, io)
            self._describe(permit, span)
            await self._record(records.permitted(permit, span.trace_id), io)
            await self._issue(permit, issued, io, span)
            with span.stage("execute"):
                result = await execute(permit)
            outcome = Outcome.DONE
            return result
        except BaseException as error:
            outcome = self._outcome(error)
            raise
        finally:
            permit.lease.close()
            if permit.begun:
                await io.to_the_end(self._finish(permit, outcome, issued, io, span))

    async def end_task(self, task_id: str, status: TaskStatus, cause: str, io: Io) -> None:
        """End a task and its descendants: every live credential is revoked at its issuer.

        Raises:
            StoreError: The end could not be recorded; credentials end by their expiry.
            AuditError: It could not be written down.
        """
        await io.to_the_end(self._end_task(task_id, status, cause, io))

    async def _end_task(self, task_id: str, status: TaskStatus, cause: str, io: Io) -> None:
        ended = await io.end_task(task_id, status)
        live = await io.live(task_id)
        # one call may have two: what was to be minted, and what the broker then called it
        left = [c for c in live if not await self._revoked(c, io)]
        for call_id in {c.call_id for c in live} - {c.call_id for c in left}:
            await self._attempt("forget", io.forget, call_id)
        for name in ended:
            state = await io.task(name)
            lineage = [] if state is None else list(state.lineage)
            await io.append(records.task_ended(name, lineage, status.value, cause, len(left)))

    async def _revoked(self, credential: LiveCredential, io: Io) -> bool:
        revoke = io.revoke.get(credential.broker)
        if revoke is None:
            return False
        return await self._attempt("revoke", revoke, credential.handle, credential.expires_at)

    # --- the stages

    async def _begin(self, permit: Permit, io: Io) -> None:
        grant, call = permit.grant, permit.call
        live = None
        if grant is not None and call.broker is not None:
            live = LiveCredential(
                call_id=call.id,
                task_id=call.task_id,
                broker=call.broker,
                handle=grant.id,
                expires_at=call.at + grant.lifetime,
            )
        permit.begun = True  # before the attempt: one that is cancelled or fails may have taken effect
        try:
            await io.begin_call(call, live)
        except TaskNotActive as error:
            permit.begun = False
            raise denial(DenialCode.TASK_ENDED, str(error)) from None
        except BudgetExhausted as error:
            permit.begun = False
            raise denial(DenialCode.BUDGET, str(error)) from None
        except ApprovalError as error:
            permit.begun = False
            raise denial(DenialCode.APPROVAL_REFUSED, str(error)) from None
        except Exception as error:  # noqa: BLE001  shared state that errs is a deny
            raise denial(DenialCode.STORE_ERROR, f"store failed: {type(error).__name__}") from None

    async def _issue(self, permit: Permit, issued: list[Credential], io: Io, span: CallSpan) -> None:
        grant, broker = permit.grant, permit.call.broker
        if grant is None or broker is None:
            return
        with span.stage("issue"):
            try:
                await io.issue[broker](issued.append, grant)
            except Exception as error:  # noqa: BLE001  no credential, whatever the cause: no call
                log.error("broker %s failed: %s", broker, type(error).__name__)
                reason = f"broker {broker} failed: {type(error).__name__}"
                raise denial(DenialCode.NO_CREDENTIAL, reason) from None
            credential = issued[0]
            if not isinstance(credential, Credential):
                issued.clear()
                raise denial(DenialCode.NO_CREDENTIAL, f"broker {broker} returned no credential")
            if credential.handle != grant.id:
                live = LiveCredential(
                    call_id=permit.call.id,
                    task_id=grant.task_id,
                    broker=broker,
                    handle=credential.handle,
                    expires_at=credential.expires_at,
                )
                await stored(io.track, live)
            permit.lease = Lease(grant.tool, grant.resource, credential)

    async def _finish(
        self, permit: Permit, outcome: Outcome, issued: list[Credential], io: Io, span: CallSpan
    ) -> None:
        """Leave nothing alive. What fails here is logged, recorded, and tried again at the task's end."""
        call, grant = permit.call, permit.grant
        revoked = False
        if grant is not None and call.broker is not None:
            with span.stage("revoke"):
                handle = issued[0].handle if issued else grant.id
                expires_at = issued[0].expires_at if issued else call.at + grant.lifetime
                revoked = await self._attempt("revoke", io.revoke[call.broker], handle, expires_at)
        spec = permit.invocation.spec
        untrusted = spec is not None and spec.untrusted
        await self._attempt("end", io.end_call, call.id, outcome, untrusted=untrusted, revoked=revoked)
        credential = issued[0].id if issued else None
        record = records.outcome(permit, outcome, self.clock(), credential, revoked)
        await self._attempt("record", io.append, record)

    # --- what all stages share

    def _describe(self, permit: Permit, span: CallSpan) -> None:
        call, grant = permit.call, permit.grant
        span.describe(
            **{
                "effect": Effect.PERMIT.value,
                "policy.ids": permit.decision.policy_ids,
                "call.id": call.id,
                "credential.id": None if grant is None else grant.id,
                "approval.id": call.approval_id,
            }
        )

    async def _refused(self, invocation: Invocation, denied: Denied, io: Io, span: CallSpan) -> None:
        span.describe(effect=Effect.DENY.value, code=denied.code.value, **{"policy.ids": denied.policy_ids})
        span.ended(invocation.path, Effect.DENY, denied.code)
        task = None
        if (task_id := invocation.task_id) is not None:
            try:
                task = await io.task(task_id)
            except Exception:  # noqa: BLE001  a denial is recorded also when the store is down
                log.warning("the store failed while a denial was recorded")
        log.info("denied %s: %s: %s", invocation.tool, denied.code, denied.reason)
        record = records.refused(invocation, denied, task, self.identity.actor(), span.trace_id)
        await self._attempt("record", io.append, record)

    async def _record(self, record: Mapping[str, Any], io: Io) -> None:
        try:
            await io.append(record)
        except Exception as error:  # noqa: BLE001  what cannot be recorded does not happen
            raise denial(DenialCode.AUDIT_ERROR, f"audit failed: {type(error).__name__}") from None

    async def _attempt(self, what: str, asked: Asked, *args: Any, **kwargs: Any) -> bool:
        try:
            await asked(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  one failure must not keep the rest from being undone
            log.error("%s failed: %s", what, type(error).__name__)
            return False
        return True

    def _outcome(self, error: BaseException) -> Outcome:
        if self.suspends(error):
            return Outcome.SUSPENDED
        return Outcome.FAILED if isinstance(error, Exception) else Outcome.CANCELLED
