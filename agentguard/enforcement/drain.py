"""The end of a guard: no call begins any more, those that run end or are ended, and nothing is left alive.

The tasks stay as they are. They may go on in another process, or wait for a person's approval.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from threading import get_ident
from time import monotonic

from agentguard.enforcement.backlog import Backlog
from agentguard.enforcement.calls_here import CallInProgress
from agentguard.enforcement.failures import best_effort
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.outbox import Outbox
from agentguard.enforcement.process import owner
from agentguard.errors import DenialCode, Denied, safe_text
from agentguard.lease import current
from agentguard.model import LiveCredential, Outcome

__all__ = ["Drain"]

log = logging.getLogger("agentguard")
LOOK = 0.005  # seconds between two looks at the calls that run
AGAIN = 0.25  # seconds between two attempts to revoke
Sleep = Callable[[float], Awaitable[None]]
Read = Callable[[], Awaitable[Mapping[str, list[LiveCredential]]]]


class Drain:
    """Ends the calls of one guard, and revokes what it holds. It closes no adapter."""

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement = enforcement
        self._deadline = inf
        self._waiting: dict[str, CallInProgress] = {}  # calls that cannot end while somebody waits for this

    @property
    def has_work(self) -> bool:
        """Whether this process has anything to end or to revoke."""
        calls, enforcement = self._enforcement.calls, self._enforcement
        return bool(
            calls.in_progress
            or calls.failed
            or calls.unbegun
            or calls.unended
            or enforcement.reuse.handles()
            or enforcement.outbox_thread.runs
        )

    def begin(self, timeout: float, *, blocks: bool) -> None:
        """Let no further call begin, and let those that run go on for at most *timeout* seconds from now.

        Of several such times the earliest counts. A call that waits for the caller of this is ended at once:
        that in whose tool the caller is and, if the caller *blocks* its thread, each call of that thread.
        """
        calls = self._enforcement.calls
        calls.closing = True
        lease, thread = current(), get_ident()
        for call_id, call in list(calls.in_progress.items()):
            if (blocks and call.thread == thread) or (lease is not None and call.permit.lease is lease):
                self._waiting[call_id] = call
        self._deadline = min(self._deadline, monotonic() + timeout)

    async def finish(self, flow: Flow, sleep: Sleep) -> None:
        """Wait for the calls, end those that are left, and revoke; `begin` was called before."""
        await self._wait(sleep)
        calls, reuse = self._enforcement.calls, self._enforcement.reuse
        ended = {call_id: call for call_id, call in list(calls.in_progress.items()) if _end(call)}
        handles = reuse.handles()
        reuse.refuse_all()
        ids = {*calls.in_progress, *calls.failed}
        unrevoked = await self._revoke(flow, lambda one: one.call_id in ids or one.handle in handles, sleep)
        calls.failed.update(unrevoked)
        for call in ended.values():
            has_credential = call.permit.route is not None
            await self._note(flow, call, revoked=has_credential and call.permit.call.id not in unrevoked)
        try:
            if await flow.outbox.pending() or calls.has_interrupted():
                await flow.outbox.sweep()  # what other processes have left, and what the end of a task owes
        except Exception as error:  # noqa: BLE001  whatever the store raises, the guard is closed
            log.error("the outbox was not worked off: %s", safe_text(error))

    async def _wait(self, sleep: Sleep) -> None:
        calls = self._enforcement.calls
        while monotonic() < self._deadline:
            calls_left = [call for id_, call in list(calls.in_progress.items()) if id_ not in self._waiting]
            if not any(call.is_running() for call in calls_left):
                return
            await sleep(LOOK)

    async def _revoke(self, flow: Flow, is_ours: Callable[[LiveCredential], bool], sleep: Sleep) -> set[str]:
        """Revoke what is ours until the deadline, once at least; return the calls of which some is left.

        Each issuer has its own attempts and pauses, so one that stalls delays none of another.
        """
        here = owner()

        async def read() -> dict[str, list[LiveCredential]]:
            by_issuer = defaultdict[str, list[LiveCredential]](list)
            for one in await flow.operations.live():
                if one.owner == here and is_ours(one):
                    by_issuer[one.broker].append(one)
            return by_issuer

        try:
            by_issuer = await read()
            alive = await flow.operations.together(
                (broker, self._revoke_at(flow.outbox, broker, credentials, read, sleep))
                for broker, credentials in by_issuer.items()
            )
        except Exception as error:  # noqa: BLE001  whatever the store raises, the guard is closed
            log.error("a guard is closed, and its outbox cannot be read: %s", safe_text(error))
            return set(self._enforcement.calls.in_progress)
        unrevoked = set().union(*alive)
        if unrevoked:
            log.error("a guard is closed, and %d credentials of it are not revoked yet", len(unrevoked))
        return unrevoked

    async def _revoke_at(
        self, outbox: Outbox, broker: str, credentials: list[LiveCredential], read: Read, sleep: Sleep
    ) -> set[str]:
        """Have one issuer revoke until the deadline, and each credential once at least."""
        backlog = Backlog(lambda _attempts: AGAIN)
        backlog.update(credentials, monotonic())
        while True:
            while batch := backlog.take(only_new=monotonic() >= self._deadline):
                backlog.settle(batch, await outbox.revoke(batch))
            seconds = backlog.seconds()
            if seconds is None or monotonic() + seconds >= self._deadline:
                return backlog.ids_alive()
            await sleep(seconds)
            began = monotonic()
            try:  # somebody else may have had it revoked
                backlog.update((await read()).get(broker, []), began)
            except Exception as error:  # noqa: BLE001  whatever the store raises, it is tried again
                log.error("a guard is closed, and its outbox cannot be read again: %s", safe_text(error))

    async def _note(self, flow: Flow, call: CallInProgress, *, revoked: bool) -> None:
        """Note that a call was ended. Its result is withheld, so nothing was read."""
        permit, operations = call.permit, flow.operations
        await best_effort("end", operations.end_call, permit.call.id, Outcome.CANCELLED, revoked=revoked)
        now, issuance = self._enforcement.options.clock(), call.issuance
        await flow.recording.outcome(permit, Outcome.CANCELLED, now, issuance, call.span, revoked=revoked)
        self._enforcement.calls.running.pop(permit.call.id, None)


def _end(call: CallInProgress) -> bool:
    """End a call here; return False if it had not begun, or ends by itself by now."""
    permit = call.permit
    if not permit.begun or not call.take_end():
        return False
    permit.withheld = Denied.of(DenialCode.WITHHELD, "the guard was closed while the call ran")
    permit.end()
    call.issuance.give_up()
    return True
