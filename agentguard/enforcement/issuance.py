"""The credential of one call: on record before it is minted, and revoked when the call ends.

The record comes first, so that a crash at any point leaves nothing that nobody knows of: the call is
recorded with its own id as the handle, then with the one that the broker names before or after it
mints.
"""

from __future__ import annotations

import logging
from typing import Any

from agentguard.concurrency.drive import Operation
from agentguard.enforcement.call import Permit
from agentguard.enforcement.operations import Io, stored
from agentguard.enforcement.process import owner
from agentguard.enforcement.task_credentials import ReusableCredentials, key_of
from agentguard.errors import DenialCode, Denied, safe_text
from agentguard.model import Credential, LiveCredential

__all__ = ["Issuance", "attempt"]

log = logging.getLogger("agentguard")


class Issuance:
    """What a permitted call holds, from the record of it to its revocation."""

    def __init__(self, permit: Permit, reuse: ReusableCredentials, io: Io) -> None:
        self._permit, self._reuse, self._io = permit, reuse, io
        route, grant = permit.route, permit.grant
        self._key = key_of(route, grant) if route and grant and route.reused else None
        self.credential = None if self._key is None else reuse.find(self._key)
        self.kept = self.credential is not None
        """Whether the credential lives until the task ends, for other calls."""
        self._handles, self._minted = list[str](), list[Credential]()
        self.anomalies = list[str]()
        """What the tool tried with the credential that no honest call does."""

    def planned(self) -> LiveCredential | None:
        """Return what is to be recorded with the call, before anything is minted.

        A broker that names its handle has it recorded instead, before it mints.
        """
        grant, route = self._permit.grant, self._permit.route
        if grant is None or route is None or route.prepares or self.kept:
            return None
        return self._live(grant.id, self._expiry())

    async def obtain(self) -> Credential | None:
        """Return the call's credential, minted now unless the task has one for it.

        Raises:
            Denied: It could not be had, or the task is over.
        """
        if self._permit.route is not None and self.credential is None:
            if self._key is None:
                self.credential = await self._mint()
            else:
                self.credential = await self._io.share(self._key, self._mint_to_keep)
                self.kept = True
        return self.credential

    async def give_back(self, *, failed: bool) -> bool:
        """Revoke what was minted for this call alone; returns whether nothing of it is left.

        *failed* keeps what others may hold from being used again.
        """
        if self._permit.route is None:
            return False
        if self.kept and self.credential is not None:
            if failed and self._key is not None:
                self._reuse.refuse(self._key, self.credential)
            return not self._minted
        if (held := self._held()) is None:
            return True
        handle, expires_at = held
        revoke = self._io.revoke[self._permit.route.name]
        return await attempt("revoke", revoke, handle, expires_at)

    def note(self) -> tuple[str, float] | None:
        """Return what is to be noted with the call's end, where that alone revokes what it minted."""
        route = self._permit.route
        if route is None or route.note is None or self.kept or (held := self._held()) is None:
            return None
        try:
            return route.note(*held)
        except Exception as error:  # noqa: BLE001  it is revoked in the broker's own way then
            log.error("broker %s failed to note: %s", route.name, safe_text(error))
            return None

    # --- minting

    async def _mint_to_keep(self) -> Credential:
        credential = await self._mint()
        if self._key is not None:
            self._reuse.keep(self._key, self._permit.task.id, credential)
        return credential

    async def _mint(self) -> Credential:
        route, grant, io = self._permit.route, self._permit.grant, self._io
        assert route is not None and grant is not None  # noqa: S101, PT018  a route comes with a grant
        if route.prepares:
            await self._ask("prepare", io.prepare[route.name], self._handles.append)
            await stored(io.track, self._live(self._handles[0], self._expiry()))
        await self._ask("issue", io.issue[route.name], self._minted.append)
        credential = self._minted[0]
        if not isinstance(credential, Credential):
            self._minted.clear()
            raise Denied.of(DenialCode.NO_CREDENTIAL, f"broker {route.name} returned no credential")
        if credential.handle not in (grant.id, *self._handles):
            await stored(io.track, self._live(credential.handle, credential.expires_at))
        return credential

    async def _ask(self, what: str, asked: Operation, deliver: Any) -> None:
        route = self._permit.route
        name = "" if route is None else route.name
        try:
            await asked(deliver, self._permit.grant)
        except Exception as error:  # noqa: BLE001  no credential, whatever the cause: no call
            log.error("broker %s failed to %s: %s", name, what, safe_text(error))
            reason = f"broker {name} failed: {safe_text(error)}"
            raise Denied.of(DenialCode.NO_CREDENTIAL, reason) from None

    # --- what is on record

    def _held(self) -> tuple[str, float] | None:
        """Return the handle and the end of what was, or may have been, minted."""
        if self._minted:
            return self._minted[0].handle, self._minted[0].expires_at
        if self._handles:
            return self._handles[0], self._expiry()
        planned = self.planned()
        return None if planned is None else (planned.handle, planned.expires_at)

    def _expiry(self) -> float:
        grant = self._permit.grant
        return self._permit.call.at + (0.0 if grant is None else grant.lifetime)

    def _live(self, handle: str, expires_at: float) -> LiveCredential:
        call = self._permit.call
        return LiveCredential(
            call_id=call.id,
            task_id=call.task_id,
            broker=call.broker or "",
            handle=handle,
            expires_at=expires_at,
            owner=owner(),
        )


async def attempt(what: str, asked: Operation, *args: Any, **kwargs: Any) -> bool:
    """Do one part of an undoing; returns whether it succeeded, and logs if not."""
    try:
        await asked(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  one failure must not keep the rest from being undone
        log.error("%s failed: %s", what, safe_text(error))
        return False
    return True
