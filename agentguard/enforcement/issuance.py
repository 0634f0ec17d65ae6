"""The credential of one call: on record before it is minted, and revoked when the call ends.

The record comes first, so a crash at any point leaves no credential that nobody knows of. The call is
recorded with its own id as the handle, and then with the handle that the broker names before or after it
mints.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentguard.concurrency.drive import drive
from agentguard.enforcement.call import Permit
from agentguard.enforcement.call_loop import CallLoop
from agentguard.enforcement.calls_here import CallsHere
from agentguard.enforcement.failures import best_effort, failure_text, is_for_caller
from agentguard.enforcement.missing_grants import GrantDenied
from agentguard.enforcement.operations import Operations, stored
from agentguard.enforcement.task_credentials import KeptCredential, ReusableCredentials, key_of
from agentguard.errors import DenialCode, Denied, GrantMissing, safe_text
from agentguard.model import Credential, Grant, LiveCredential

__all__ = ["Issuance"]

T = TypeVar("T")
log = logging.getLogger("agentguard")


class Issuance:
    """What one permitted call holds, from the record of it to its revocation. It is made before that record.

    `credential` is what the call uses. `kept` says that it lives on for other calls until its task ends.
    `anomalies` are what the tool tried with the credential that no honest call does. *blocking* are the
    operations for a thread without an event loop, in which a tool of an asynchronous call may run.
    """

    def __init__(
        self,
        permit: Permit,
        reuse: ReusableCredentials,
        operations: Operations,
        blocking: Operations,
        calls: CallsHere,
        clock: Callable[[], float],
    ) -> None:
        self._permit, self._reuse = permit, reuse
        self._calls, self._clock, self._last_end = calls, clock, calls.last_end
        self._operations, self._blocking = operations, blocking
        self._revoked: bool | None = None  # not yet tried
        route, grant = permit.route, permit.grant
        self._key = key_of(route, grant) if route and grant and route.reused else None
        self.credential = None if self._key is None else reuse.find(self._key, self._expiry())
        self.kept = self.credential is not None
        self.anomalies: list[str] = []
        self._handles: list[str] = []
        self._minted: list[Credential] = []
        self._is_ending = False
        self._minted_in_time: int | None = None
        self._loop = CallLoop()

    def planned(self) -> LiveCredential | None:
        """Return what is to be recorded with the call, before anything is minted.

        Nothing, if the broker names its handle: that is recorded instead, before the broker mints.
        """
        grant, route = self._permit.grant, self._permit.route
        if grant is None or route is None or route.prepares or self.kept:
            return None
        return self._permit.live(grant.id, self._expiry())

    async def obtain(self) -> Credential | None:
        """Return the call's credential, minted now unless the task has one for it.

        Raises:
            GrantDenied: The issuer misses something of the user.
            Denied: There is none to be had, or by now the task, the grant or the guard is over.
        """
        if self._minted_in_time is not None:
            raise Denied.of(DenialCode.GUARD_CLOSED, "the guard was closed while the call was being prepared")
        if self._operations is not self._blocking:
            self._loop.enter()
        if self._permit.route is not None and self.credential is None:
            if self._key is None:
                self.credential = await self._mint()
            else:
                shared: KeptCredential = await self._operations.share(self._key, self._mint_to_keep)
                self.kept = shared.serves(self._expiry())
                self.credential = shared.credential if self.kept else await self._mint()
        # the store has called the task active when the call began, and after a broker that waits
        has_ended = False
        if self._calls.has_ended_any(self._last_end):
            state = await stored(self._operations.task(self._permit.task.id))
            has_ended = state is None or state.ended(self._clock()) is not None
        self._require_in_force(has_ended)
        return self.credential

    def _require_in_force(self, has_ended: bool) -> None:
        """Require that neither the task nor the grant has ended while the credential was obtained.

        Raises:
            Denied: One of them is over.
        """
        task, now = self._permit.task, self._clock()
        if has_ended or self._calls.is_unended(task) or task.deadline <= now:
            raise Denied.of(DenialCode.TASK_ENDED, f"task {task.id} ended while the call was being prepared")
        if self._permit.grant is not None and self._expiry() <= now:
            reason = "the grant ended while its credential was being issued"
            raise Denied.of(DenialCode.NO_CREDENTIAL, reason)

    async def revoke(self, operations: Operations, *, failed: bool) -> bool:
        """Revoke what was minted for this call alone; return whether nothing of it is left.

        After a call that has *failed*, a credential that is kept serves no other call: it may be the cause.
        """
        if self._permit.route is None:
            return False
        if self.kept and self.credential is not None:
            if failed and self._key is not None:
                self._reuse.refuse(self._key, self.credential)
            return not self._minted
        if operations is not self._blocking:
            await self._loop.rest()
        if self._revoked is None:
            await self._revoke(operations)
        return bool(self._revoked)

    async def revoke_early(self, blocks: bool) -> None:
        """Revoke what was minted for this call alone, once its tool is done. The call ends later.

        With *blocks*, the thread is blocked until that is done. A broker that cannot block revokes on the
        call's event loop meanwhile.
        """
        route = self._permit.route
        if route is None or self.kept or self._revoked is not None:
            return
        if blocks and not hasattr(route.broker, "revoke"):
            self._loop.run(self._revoke_once)
            return
        operations = self._blocking if blocks else self._operations
        await operations.to_the_end(self._revoke(operations))

    async def _revoke_once(self) -> None:
        """Revoke, unless the end of the call does so; the end waits for what has begun here."""
        if self._revoked is None:
            await self._operations.to_the_end(self._revoke(self._operations))

    def leave_to_outbox(self) -> None:
        """Have no issuer asked here: the outbox revokes what was, or may have been, minted."""
        self._is_ending = True
        if self._revoked is None and self.note() is None:
            self._revoked = not self._handles_of_call()

    def give_up(self) -> None:
        """Have nothing minted from now on, and what is being minted revoked: the guard has ended the call."""
        self._is_ending, self._minted_in_time = True, len(self._minted)

    @property
    def is_given_up(self) -> bool:
        """Whether the guard has ended the call."""
        return self._minted_in_time is not None

    async def revoke_if_late(self) -> None:
        """Revoke, if the call was given up, what has been minted since."""
        if self._minted_in_time is not None and len(self._minted) > self._minted_in_time:
            await self.revoke(self._operations, failed=True)

    async def _revoke(self, operations: Operations) -> None:
        self._is_ending = True  # before the handle is read: what is delivered after that revokes itself
        route, handles = self._permit.route, self._handles_of_call()
        if route is None or not handles:
            self._revoked = True
            return
        self._revoked = False  # until it is known to be; also if the broker raises an exit
        try:
            revoke, party = operations.revoke[route.name], self._permit.task.identity.subject
            # each of them is asked for, also where one fails
            self._revoked = all([await best_effort("revoke", revoke, party, *handle) for handle in handles])
        except asyncio.CancelledError as error:  # the broker's own: no caller's cancellation comes this far
            log.error("revoke failed: %s", failure_text(error))

    def note(self) -> tuple[str, float] | None:
        """Return what the store has to remember, if that alone revokes what was minted for this call."""
        route = self._permit.route
        if route is None or route.note is None or self.kept or self._revoked is not None:
            return None
        if len(handles := self._handles_of_call()) != 1:
            return None
        try:
            return route.note(*handles[0])
        except Exception as error:  # noqa: BLE001  the broker's own `revoke` is called then
            log.error("broker %s failed to note: %s", route.name, safe_text(error))
            return None

    # --- minting

    async def _mint_to_keep(self) -> KeptCredential:
        credential = await self._mint()
        return self._reuse.keep(self._key, self._permit.task.id, credential, self._expiry())

    async def _mint(self) -> Credential:
        route, grant, operations = self._permit.route, self._permit.grant, self._operations
        assert route is not None and grant is not None  # noqa: S101, PT018  a route comes with a grant
        if route.prepares:
            prepare = operations.prepare[route.name]
            await self._ask("prepare", prepare, self._handles.append, grant)
            await stored(operations.track(self._permit.live(self._handles[0], self._expiry())))
        try:
            await self._ask("issue", operations.issue[route.name], self._deliver, grant)
        except (Denied, asyncio.CancelledError):
            if self._minted:  # too late: on record by its own handle, in case its revocation fails
                late = self._permit.live(self._minted[0].handle, self._minted[0].expires_at)
                await best_effort("track", self._track, late)
            raise
        credential = self._minted[0]
        if not isinstance(credential, Credential):
            self._minted.clear()
            raise Denied.of(DenialCode.NO_CREDENTIAL, f"broker {route.name} returned no credential")
        may_be_gone = route.waits or self._calls.has_ended_any(self._last_end)
        if may_be_gone or not self._is_planned(credential.handle):
            # recorded once more, for if the task ended meanwhile, all that was recorded is revoked and gone
            await stored(self._track(self._permit.live(credential.handle, credential.expires_at)))
        return credential

    async def _track(self, live: LiveCredential) -> None:
        await self._operations.track(live)
        self._calls.untracked.pop(live.call_id, None)

    def _deliver(self, credential: Credential) -> None:
        """Take what was minted. It is revoked at once if the call, which waited no longer, is over."""
        self._minted.append(credential)
        if isinstance(credential, Credential) and not self._is_planned(credential.handle):
            # until it is on record; if it never is, the outbox revokes it by this
            live = self._permit.live(credential.handle, credential.expires_at)
            self._calls.untracked[live.call_id] = live
        if self._is_ending and isinstance(credential, Credential):
            drive(self._revoke_late(credential))

    async def _revoke_late(self, credential: Credential) -> None:
        # in the thread of a broker that was late, so by the operations that block
        route, call, operations = self._permit.route, self._permit.call, self._blocking
        assert route is not None  # noqa: S101  a broker has minted
        log.warning("broker %s minted after its time: the credential is revoked", route.name)
        live = self._permit.live(credential.handle, credential.expires_at)
        await best_effort("track", operations.track, live)
        revoke, subject = operations.revoke[route.name], self._permit.task.identity.subject
        if await best_effort("revoke", revoke, subject, credential.handle, credential.expires_at):
            self._calls.untracked.pop(call.id, None)
            await best_effort("forget", operations.forget, call.id)

    async def _ask(
        self,
        verb: str,
        operation: Callable[[Callable[[T], None], Grant], Awaitable[None]],
        deliver: Callable[[T], None],
        grant: Grant,
    ) -> None:
        try:
            await operation(deliver, grant)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) or is_for_caller(error):
                raise
            name = self._permit.call.broker
            if isinstance(error, GrantMissing):
                log.warning("broker %s misses something of the user: %s", name, safe_text(error))
                raise GrantDenied.by(name, error) from None
            log.error("broker %s failed to %s: %s", name, verb, failure_text(error))
            reason = f"broker {name} failed: {failure_text(error)}"
            raise Denied.of(DenialCode.NO_CREDENTIAL, reason) from None

    # --- what is on record

    def _handles_of_call(self) -> list[tuple[str, float]]:
        """Return the handle and the expiry of what was, or may have been, minted.

        They are two where a broker has minted by another handle than it has named before.
        """
        if len(self._minted) == 1 and not self._handles:  # as nearly always
            return [(self._minted[0].handle, self._minted[0].expires_at)]
        handles = {handle: self._expiry() for handle in self._handles}
        handles |= {credential.handle: credential.expires_at for credential in self._minted[:1]}
        if not handles and (planned := self.planned()) is not None:
            handles = {planned.handle: planned.expires_at}
        return list(handles.items())

    def _is_planned(self, handle: str) -> bool:
        """Return whether the handle is on record since before the broker minted."""
        grant = self._permit.grant
        return handle in self._handles or (grant is not None and handle == grant.id)

    def _expiry(self) -> float:
        grant = self._permit.grant
        return self._permit.call.at + (0.0 if grant is None else grant.lifetime)
