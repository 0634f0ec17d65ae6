"""The broker for database credentials that exist for one call; OpenBao and HashiCorp Vault have one API.

The workload logs in with a JWT of its platform, and OpenBao makes a database role for that login. When
the login's token ends, OpenBao drops the database role too. The token stays in this process. Only its
accessor is recorded: another process can revoke the token with it, and can do nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from agentguard.concurrency.drive import drive, finish
from agentguard.credentials.openbao.logins import Logins
from agentguard.credentials.openbao.session import Login, OpenBaoOperations, OpenBaoSession, RequestRefused
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Credential, Grant, ToolPath
from agentguard.outbound.client import Outbound
from agentguard.outbound.services import AsksServices
from agentguard.ports import BrokerTraits

__all__ = ["OpenBao"]

_WRAP_SECONDS = 30
_VARIABLES = {
    "username": "PGUSER",
    "password": "PGPASSWORD",
    "host": "PGHOST",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}
log = logging.getLogger("agentguard")


class _Operations(NamedTuple):
    """What the broker asks of its two sessions, on the synchronous or the asynchronous path."""

    session: OpenBaoOperations
    revoker: OpenBaoOperations


class OpenBao(AsksServices):
    """A `Broker` for one path: dynamic credentials of a database secrets engine.

    *session* logs in with the role of this path. *creds* is the API path that the role's policy lets
    it read, such as ``database/creds/reports-read``. A READ role's policy has no other such path, so
    OpenBao itself refuses a READ token at the WRITE role. *server* says where the database is (libpq's
    host, port, dbname, sslmode, sslrootcert), for `Lease.env`. With *wrap*, OpenBao sends the
    credential response-wrapped, so the broker notices if another party has opened it. With *reuse*, a
    credential serves several calls of one task.

    Nothing lives longer than the grant. OpenBao accepts no lifetime at login, so a login that would
    live longer is shortened by a renewal to what is left of the grant's lifetime, or is not used.

    `prepare` makes the login; the handle is the accessor of its token. If the answer to a login is
    lost, nobody knows the token. It then ends by the role's ``token_ttl``, so keep that short; it has
    made no database role.

    A credential is revoked with its own token while this process has it (the last 4096 logins). If the
    policy permits ``sys/leases/revoke``, the answer waits until the database has dropped the role.
    Otherwise OpenBao drops it a moment later, and repeats that if the database does not answer. After
    a crash, *revoker* (by default *session*) logs in and revokes by accessor; its policy must permit
    ``auth/token/revoke-accessor``. Dropping a role does not close its open connections: use
    ``pg_terminate_backend`` in the role's ``revocation_statements`` for that.
    """

    def __init__(
        self,
        path: ToolPath,
        session: OpenBaoSession,
        *,
        creds: str,
        revoker: OpenBaoSession | None = None,
        server: Mapping[str, str] | None = None,
        reuse: bool = False,
        wrap: bool = False,
    ) -> None:
        self.path, self.paths = path, frozenset({path})
        reused = self.paths if reuse else frozenset[ToolPath]()
        self.traits = BrokerTraits(reuse=reused, binds_arguments=False)
        self._session, self._creds, self._wrap = session, creds, wrap
        self._server = dict(server or {})
        if unknown := self._server.keys() - _VARIABLES.keys():
            raise ConfigurationError(
                f"{sorted(unknown)} are no settings of a server", hint=f"use {[*_VARIABLES][2:]}"
            )
        self._revoker = revoker or session
        self._sync = _Operations(session.sync, self._revoker.sync)
        self._async = _Operations(session.async_, self._revoker.async_)
        self._logins = Logins()

    def prepare(self, grant: Grant) -> str:
        """Log in for this grant, and return the accessor of the token.

        Raises:
            IssueError: The grant is for another path, its lifetime is less than one second, or OpenBao
                refuses the login.
        """
        return drive(self._prepare(grant, self._sync))

    async def aprepare(self, grant: Grant) -> str:
        """Do the same as `prepare`, without blocking the event loop."""
        return await self._prepare(grant, self._async)

    def issue(self, grant: Grant) -> Credential:
        """Let OpenBao make a database role. Without `prepare` it logs in first, and undoes that on failure.

        Raises:
            IssueError: OpenBao refuses, the credential would outlive the grant or is not dynamic, or
                another party has unwrapped it.
        """
        return drive(self._issue(grant, self._sync))

    async def aissue(self, grant: Grant) -> Credential:
        """Do the same as `issue`, without blocking the event loop."""
        return await self._issue(grant, self._async)

    def revoke(self, handle: str, expires_at: float) -> None:
        """Revoke the login with this accessor, and with it the database role.

        Raises:
            IssueError: OpenBao or its database did not confirm the revocation.
        """
        drive(self._logins.revoke(handle, *self._sync))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """Do the same as `revoke`, without blocking the event loop. It finishes even when cancelled."""
        await finish(self._logins.revoke(handle, *self._async))

    def check(self) -> None:
        """Log in as the broker and as its revoker, and have these logins revoked.

        Raises:
            IssueError: OpenBao does not answer, or refuses.
        """
        self._session.check()
        self._revoker.check()

    @property
    def services(self) -> tuple[Outbound, ...]:
        """OpenBao."""
        return (self._session.http,)

    def close(self) -> None:
        """Close the connections of both sessions. Logins that are not revoked by then need their accessor."""
        self._session.close()
        self._revoker.close()

    # --- one implementation for both paths

    async def _prepare(self, grant: Grant, operations: _Operations) -> str:
        self._require(grant)
        login = await operations.session.login()
        self._logins.add(login, grant.id)
        return login.accessor

    def _require(self, grant: Grant) -> None:
        if grant.path is not self.path:
            raise IssueError(f"the broker of the {self.path} path does not mint for {grant.path}")
        if grant.lifetime < 1:
            raise IssueError("a lifetime of less than one second is over before it begins")

    async def _issue(self, grant: Grant, operations: _Operations) -> Credential:
        self._require(grant)
        if (login := self._logins.take(grant.id)) is not None:
            return await self._mint(grant, login, operations.session)
        accessor = await self._prepare(grant, operations)
        try:
            return await self._issue(grant, operations)
        except BaseException:  # the caller does not know of the login
            with suppress(IssueError):
                await self._logins.revoke(accessor, *operations)
            raise

    async def _mint(self, grant: Grant, login: Login, operations: OpenBaoOperations) -> Credential:
        login = await self._shorten(login, grant, operations)
        now = self._session.clock()
        lease = await self._lease(login, operations)
        self._logins.set_lease(login, lease.id)
        fields = {**self._server, "username": lease.username, "password": lease.password}
        return Credential(
            lease.password,
            id=grant.id,
            expires_at=min(login.expires_at, now + lease.seconds),
            handle=login.accessor,
            fields=fields,
            env={_VARIABLES[name]: value for name, value in fields.items()},
        )

    async def _shorten(self, login: Login, grant: Grant, operations: OpenBaoOperations) -> Login:
        now = self._session.clock()
        ends_at = grant.ends_at(now)
        if login.expires_at <= ends_at:
            return login
        limit = math.floor(ends_at - now)  # the login itself may have taken a part of the grant's lifetime
        if limit < 1:
            raise IssueError(f"{self._session.name}: the grant ended while the login was made")
        answer = await operations.request(
            "POST", "auth/token/renew-self", login, json={"increment": f"{limit}s"}, repeatable=True
        )
        match answer.get("auth"):
            case {"lease_duration": int(seconds)} if 0 < seconds <= limit:
                return replace(login, expires_at=now + seconds)
        raise IssueError(f"{self._session.name}: the login outlives the grant, and cannot be shortened")

    async def _lease(self, login: Login, operations: OpenBaoOperations) -> _Lease:
        if self._wrap:
            wrapping = await operations.request("GET", self._creds, login, wrap=_WRAP_SECONDS)
            answer = await self._unwrap(wrapping, operations)
        else:
            answer = await operations.request("GET", self._creds, login)
        match answer:
            case {
                "lease_id": str(id),
                "lease_duration": int(seconds),
                "data": {"username": str(username), "password": str(password)},
            } if id and seconds > 0 and username and password:
                return _Lease(id, seconds, username, password)
        raise IssueError(f"{self._session.name}: {self._creds} gave no username and password with a lease")

    async def _unwrap(self, answer: Mapping[str, Any], operations: OpenBaoOperations) -> Mapping[str, Any]:
        match answer.get("wrap_info"):
            case {"token": str(token), "creation_path": self._creds}:
                pass
            case _:
                raise IssueError(f"{self._session.name}: {self._creds} answered unwrapped")
        try:
            return await operations.unwrap(token)
        except RequestRefused:
            log.error("alarm: another party has opened what %s wrapped for %s", self._creds, self)
            raise IssueError(f"{self._session.name}: the credential was unwrapped before us") from None

    def __repr__(self) -> str:
        return f"<OpenBao {self._creds} {self.path}>"


@dataclass(frozen=True, slots=True, repr=False)
class _Lease:
    id: str
    seconds: int
    username: str
    password: str
