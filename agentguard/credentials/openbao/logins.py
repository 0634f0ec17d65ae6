"""The logins that this process has made at OpenBao, and how each is revoked."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Final

from agentguard.concurrency.fork import ProcessLock
from agentguard.credentials.openbao.session import FORBIDDEN, Login, OpenBaoOperations, RequestRefused
from agentguard.errors import IssueError

__all__ = ["Logins"]

LIMIT: Final = 4096
_REVOKE_SELF = "auth/token/revoke-self"


class Logins:
    """Logins by accessor, each with its lease, and the logins that wait for the grant they were made for.

    The tokens of the last 4096 logins are kept, so that each can revoke itself. An older login, or
    one of another process, is revoked by its accessor.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._logins: OrderedDict[str, tuple[Login, str | None]] = OrderedDict()
        self._by_grant: OrderedDict[str, Login] = OrderedDict()

    def add(self, login: Login, grant_id: str) -> None:
        """Store a login that was made for the grant."""
        with self._lock:
            self._logins[login.accessor] = login, None
            self._by_grant[grant_id] = login
            for table in (self._logins, self._by_grant):
                if len(table) > LIMIT:
                    table.popitem(last=False)

    def take(self, grant_id: str) -> Login | None:
        """Return the login that was made for the grant. Only one caller gets it."""
        with self._lock:
            return self._by_grant.pop(grant_id, None)

    def set_lease(self, login: Login, lease: str) -> None:
        """Store the id of the login's lease."""
        with self._lock:
            if login.accessor in self._logins:
                self._logins[login.accessor] = login, lease

    async def revoke(self, accessor: str, operations: OpenBaoOperations, revoker: OpenBaoOperations) -> None:
        """Revoke a login and its leases. An unknown login, or one that has ended, is no error.

        Raises:
            IssueError: OpenBao did not confirm the revocation.
        """
        with self._lock:
            entry = self._logins.get(accessor)
        if entry is None or not await _revoke_self(*entry, operations):
            await _revoke_by_accessor(accessor, revoker)
        with self._lock:
            self._logins.pop(accessor, None)


async def _revoke_self(login: Login, lease: str | None, operations: OpenBaoOperations) -> bool:
    """Revoke the lease and the login with the login's own token. Return False if OpenBao refuses."""
    if lease is not None:
        body = {"lease_id": lease, "sync": True}  # the answer waits for the database
        try:
            await operations.request("POST", "sys/leases/revoke", login, json=body, repeatable=True)
        except RequestRefused as refusal:
            if refusal.status != FORBIDDEN:  # the database has not dropped the role
                raise
    try:
        await operations.request("POST", _REVOKE_SELF, login, repeatable=True)
    except RequestRefused:  # the login has ended or may not do this: the revocation by accessor tells which
        return False
    return True


async def _revoke_by_accessor(accessor: str, revoker: OpenBaoOperations) -> None:
    login = await revoker.login()
    try:
        # OpenBao only warns about an unknown accessor, so a refusal concerns the revoker
        await revoker.request(
            "POST", "auth/token/revoke-accessor", login, json={"accessor": accessor}, repeatable=True
        )
    finally:
        with suppress(IssueError):
            await revoker.revoke(login)
