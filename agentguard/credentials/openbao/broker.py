"""Database credentials that exist for one call: the broker for OpenBao and HashiCorp Vault (one API).

The workload logs in with a JWT of its platform, and OpenBao makes a database role for that login
alone. Whatever ends the login's token ends the database role with it. The token stays in this process;
what is recorded is its accessor, with which another process can revoke it, and nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from agentguard.concurrency.drive import drive, finish
from agentguard.credentials.openbao.logins import Logins
from agentguard.credentials.openbao.session import Bao, Login, OpenBaoSession, Refused
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Credential, Grant, ToolPath

__all__ = ["OpenBao"]

_WRAPPED = 30
_VARIABLES = {
    "username": "PGUSER",
    "password": "PGPASSWORD",
    "host": "PGHOST",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}
_Way = tuple[Bao, Bao]
log = logging.getLogger("agentguard")


class OpenBao:
    """A `Broker` for one path: dynamic credentials of a database secrets engine.

    *session* logs in as the role of this path, and *creds* is where its policy lets it read, such as
    ``database/creds/reports-read``. A READ role's policy has no other, so its token is refused at the
    WRITE role by OpenBao itself. *server* says where the database is (libpq's host, port, dbname,
    sslmode, sslrootcert), for `Lease.env`. *wrap* has the credential sent response-wrapped: that
    somebody else has opened it is then noticed. *reuse* lets it serve several calls of one task.

    Nothing lives longer than the grant: OpenBao takes no lifetime at login, so a login that would
    live longer is renewed down to the grant's, or given up.

    The login is made by `prepare`, and the token's accessor is the handle. If the answer to a login
    is lost on its way, nobody knows the token that was made: it ends by the role's ``token_ttl``, so
    keep that short, and it has made no database role.

    A credential is revoked with its own token while this process has it (the last 4096). Where the
    policy permits ``sys/leases/revoke``, the answer waits until the database has dropped the role;
    else OpenBao does so a moment later, and again if the database does not answer. After a crash,
    *revoker* (or else *session*) logs in anew and revokes by accessor: its policy permits
    ``auth/token/revoke-accessor``. Dropping a role cuts no open connection by itself: that is for the
    role's ``revocation_statements``, with ``pg_terminate_backend``.
    """

    binds_arguments = False

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
        self.reuse = self.paths if reuse else frozenset[ToolPath]()
        self._session, self._creds, self._wrap = session, creds, wrap
        self._server = dict(server or {})
        if unknown := self._server.keys() - _VARIABLES.keys():
            raise ConfigurationError(
                f"{sorted(unknown)} says nothing of a server", hint=f"use {[*_VARIABLES][2:]}"
            )
        self._revoker = revoker or session
        self._sync: _Way = session.sync, self._revoker.sync
        self._asynchronous: _Way = session.async_, self._revoker.async_
        self._logins = Logins()

    def prepare(self, grant: Grant) -> str:
        """Log in for this grant, and return the accessor of the token.

        Raises:
            IssueError: The grant is for another path or below one second, or the login is refused.
        """
        return drive(self._prepare(grant, self._sync))

    async def aprepare(self, grant: Grant) -> str:
        """Do as `prepare`, without blocking the event loop."""
        return await self._prepare(grant, self._asynchronous)

    def issue(self, grant: Grant) -> Credential:
        """Have a database role made; what was not prepared is logged in for, and undone if it fails.

        Raises:
            IssueError: It is refused, would outlive the grant, is no dynamic credential, or was
                unwrapped by somebody else.
        """
        return drive(self._issue(grant, self._sync))

    async def aissue(self, grant: Grant) -> Credential:
        """Do as `issue`, without blocking the event loop."""
        return await self._issue(grant, self._asynchronous)

    def revoke(self, handle: str, expires_at: float) -> None:
        """Revoke the login with this accessor, and with it the database role.

        Raises:
            IssueError: OpenBao, or its database, has not confirmed it.
        """
        drive(self._logins.end(handle, *self._sync))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """Do as `revoke`, without blocking the event loop; finishes even when cancelled."""
        await finish(self._logins.end(handle, *self._asynchronous))

    def close(self) -> None:
        """Close its sessions' connections; what is not revoked by then is left to its accessor."""
        self._session.close()
        self._revoker.close()

    # --- the one logic

    async def _prepare(self, grant: Grant, way: _Way) -> str:
        self._accept(grant)
        login = await way[0].login()
        self._logins.add(login, grant.id)
        return login.accessor

    def _accept(self, grant: Grant) -> None:
        if grant.path is not self.path:
            raise IssueError(f"the broker of the {self.path} path does not mint for {grant.path}")
        if grant.lifetime < 1:
            raise IssueError("a lifetime of less than one second is over before it begins")

    async def _issue(self, grant: Grant, way: _Way) -> Credential:
        self._accept(grant)
        if (login := self._logins.take(grant.id)) is not None:
            return await self._mint(grant, login, way[0])
        accessor = await self._prepare(grant, way)
        try:
            return await self._issue(grant, way)
        except BaseException:  # nobody else knows of the login
            with suppress(IssueError):
                await self._logins.end(accessor, *way)
            raise

    async def _mint(self, grant: Grant, login: Login, bao: Bao) -> Credential:
        login = await self._shortened(login, grant.lifetime, bao)
        asked = self._session.clock()
        lease = await self._leased(login, bao)
        self._logins.leased(login, lease.id)
        fields = {**self._server, "username": lease.username, "password": lease.password}
        return Credential(
            lease.password,
            id=grant.id,
            expires_at=min(login.expires_at, asked + lease.seconds),
            handle=login.accessor,
            fields=fields,
            env={_VARIABLES[name]: value for name, value in fields.items()},
        )

    async def _shortened(self, login: Login, lifetime: float, bao: Bao) -> Login:
        now = self._session.clock()
        if login.expires_at <= now + lifetime:
            return login
        seconds = math.floor(lifetime)
        answer = await bao.request(
            "POST", "auth/token/renew-self", login, json={"increment": f"{seconds}s"}, repeatable=True
        )
        match answer.get("auth"):
            case {"lease_duration": int(left)} if 0 < left <= seconds:
                return replace(login, expires_at=now + left)
        raise IssueError(f"{self._session.name}: the login outlives the grant, and cannot be shortened")

    async def _leased(self, login: Login, bao: Bao) -> _Lease:
        if self._wrap:
            answer = await self._unwrapped(await bao.request("GET", self._creds, login, wrap=_WRAPPED), bao)
        else:
            answer = await bao.request("GET", self._creds, login)
        match answer:
            case {
                "lease_id": str(id),
                "lease_duration": int(seconds),
                "data": {"username": str(username), "password": str(password)},
            } if id and seconds > 0 and username and password:
                return _Lease(id, seconds, username, password)
        raise IssueError(f"{self._session.name}: {self._creds} gave no username and password with a lease")

    async def _unwrapped(self, answer: Mapping[str, Any], bao: Bao) -> Mapping[str, Any]:
        match answer.get("wrap_info"):
            case {"token": str(token), "creation_path": self._creds}:
                pass
            case _:
                raise IssueError(f"{self._session.name}: {self._creds} answered unwrapped")
        try:
            return await bao.unwrap(token)
        except Refused:
            log.error("alarm: what %s wrapped for %s was opened by somebody else", self._creds, self)
            raise IssueError(f"{self._session.name}: the credential was unwrapped before us") from None

    def __repr__(self) -> str:
        return f"<OpenBao {self._creds} {self.path}>"


@dataclass(frozen=True, slots=True, repr=False)
class _Lease:
    id: str
    seconds: int
    username: str
    password: str
