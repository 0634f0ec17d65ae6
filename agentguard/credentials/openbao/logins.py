"""The logins that this process has made at OpenBao, and the ways in which each is ended."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from threading import Lock
from typing import Final

from agentguard.credentials.openbao.session import FORBIDDEN, Bao, Login, Refused
from agentguard.errors import IssueError

__all__ = ["Logins"]

MOST: Final = 4096
_SELF = "auth/token/revoke-self"


class Logins:
    """Logins by accessor, each with the id of its lease, and which of them awaits which grant.

    Of the last 4096 the token is kept, so that each can end itself; older ones, and those of another
    process, are ended by their accessor.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: OrderedDict[str, tuple[Login, str | None]] = OrderedDict()
        self._awaiting: OrderedDict[str, Login] = OrderedDict()

    def add(self, login: Login, grant_id: str) -> None:
        """Keep a login that awaits the grant."""
        with self._lock:
            self._held[login.accessor] = login, None
            self._awaiting[grant_id] = login
            for kept in (self._held, self._awaiting):
                if len(kept) > MOST:
                    kept.popitem(last=False)

    def take(self, grant_id: str) -> Login | None:
        """Return the login that awaits the grant, to one caller."""
        with self._lock:
            return self._awaiting.pop(grant_id, None)

    def leased(self, login: Login, lease: str) -> None:
        """Note what was leased to the login."""
        with self._lock:
            if login.accessor in self._held:
                self._held[login.accessor] = login, lease

    async def end(self, accessor: str, own: Bao, revoker: Bao) -> None:
        """Revoke a login, and with it what was leased to it; the unknown and the ended are no error.

        Raises:
            IssueError: It is not confirmed.
        """
        with self._lock:
            held = self._held.get(accessor)
        if held is None or not await _itself(*held, own):
            await _by_accessor(accessor, revoker)
        with self._lock:
            self._held.pop(accessor, None)


async def _itself(login: Login, lease: str | None, bao: Bao) -> bool:
    """Let the login end its lease and then itself; returns whether it was permitted to."""
    if lease is not None:
        body = {"lease_id": lease, "sync": True}  # the answer waits for the database
        try:
            await bao.request("POST", "sys/leases/revoke", login, json=body, repeatable=True)
        except Refused as refused:
            if refused.status != FORBIDDEN:  # the database has not dropped the role
                raise
    try:
        await bao.request("POST", _SELF, login, repeatable=True)
    except Refused:  # it has ended, or has no policy for this: by accessor one learns which
        return False
    return True


async def _by_accessor(accessor: str, revoker: Bao) -> None:
    login = await revoker.login()
    try:
        # of the unknown OpenBao only warns, so a refusal is one of the revoker
        await revoker.request(
            "POST", "auth/token/revoke-accessor", login, json={"accessor": accessor}, repeatable=True
        )
    finally:
        with suppress(IssueError):
            await revoker.request("POST", _SELF, login)
