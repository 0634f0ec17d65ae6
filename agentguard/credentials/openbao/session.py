"""Logins at OpenBao or HashiCorp Vault (one API), and requests made with them.

A workload proves who it is with a JWT of its platform at the JWT auth method, and is given a token
for one role; the role, its policies and its audience are OpenBao's side of one `ToolPath`. Requests
are sent by `session.sync` or `session.async_`, which have the same methods.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from agentguard.concurrency.drive import Operation, drive, operation_pair
from agentguard.concurrency.single_flight import Share, SingleFlight
from agentguard.errors import ConfigurationError, IdentityError, IssueError
from agentguard.jose import strict_json
from agentguard.model import Secret
from agentguard.outbound.client import Answer, Outbound
from agentguard.outbound.destinations import is_confidential_url
from agentguard.ports import IdentitySource

__all__ = ["Bao", "Login", "OpenBaoSession", "Refused"]

FORBIDDEN = 403
_EMPTY = 204
_MARGIN = 5.0
# what OpenBao says, and how we say it: nothing of an answer is repeated
_REASONS = (
    (b"(sub) claim", "the identity is not the one of this role"),
    (b"(aud) claim", "the proof of identity is for another audience"),
    (b"(exp) claim", "the proof of identity has expired"),
    (b"bound claim", "the identity lacks a claim of this role"),
    (b"verifying token signature", "the proof of identity is not signed by whom it trusts"),
    (b"could not be found", "there is no such role"),
    (b"unknown role", "there is no such role"),
    (b"wrapping token is not valid", "the wrapping token is unknown, expired or used"),
    (b"permission denied", "permission denied"),
)


class Refused(IssueError):
    """OpenBao answered, and did not do it; `status` is that of HTTP."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Login:
    """A token of one login. `accessor` names it for revocation and is no secret."""

    token: Secret
    accessor: str
    expires_at: float


class Bao:
    """What a session can do, on one path: synchronously (nothing suspends) or asynchronously."""

    def __init__(self, session: OpenBaoSession, ask: Operation, prove: Operation, share: Share) -> None:
        self._session, self._ask, self._prove, self._share = session, ask, prove, share

    async def login(self) -> Login:
        """Log in anew.

        Raises:
            IssueError: There is no proof of identity, it is refused, or the token that it brings
                could not be revoked (a batch token).
        """
        session = self._session
        try:
            proof: Secret = await self._prove(session.audience)
        except IdentityError as error:
            raise IssueError(f"{session.name}: no proof of identity: {error}") from None
        asked = session.clock()
        answer = await self._send(
            "POST", f"auth/{session.mount}/login", {}, json={"role": session.role, "jwt": proof.reveal()}
        )
        match answer.get("auth"):
            case {"client_token": str(token), "accessor": str(accessor), "lease_duration": int(seconds)} if (
                token and accessor and seconds > 0
            ):
                return Login(Secret(token), accessor, asked + seconds)
        raise IssueError(f"{session.name}: the login as {session.role} gave no token that can be revoked")

    async def kept(self) -> Login:
        """Return a login that lives for some seconds more; one is made for all who need it."""
        held = self._session.held
        if held is None or held.expires_at - self._session.clock() < _MARGIN:
            held = self._session.held = await self._share("login", self.login)
        assert held is not None  # noqa: S101  `login` returns one or raises
        return held

    async def request(
        self,
        method: str,
        path: str,
        login: Login | None = None,
        *,
        json: Mapping[str, Any] | None = None,
        wrap: int | None = None,
        repeatable: bool = False,
    ) -> Mapping[str, Any]:
        """Send one request under ``/v1/`` and return its answer, empty where it has none.

        It is sent with *login*, or else with the one that is `kept`. *wrap* is how many seconds the
        answer waits, wrapped, to be fetched once.

        Raises:
            Refused: OpenBao refuses.
            IssueError: It did not answer, or with something else than JSON.
        """
        used = login or await self.kept()
        headers = {"X-Vault-Token": used.token.reveal()}
        if wrap is not None:
            headers["X-Vault-Wrap-TTL"] = f"{wrap}s"
        try:
            return await self._send(method, path, headers, json=json, repeatable=repeatable)
        except Refused as refused:
            if login is None and refused.status == FORBIDDEN:  # revoked, perhaps: the next logs in anew
                self._session.held = None
            raise

    async def unwrap(self, token: str) -> Mapping[str, Any]:
        """Return what a wrapping token stands for; it can be had once, so this may raise `Refused`."""
        return await self._send("POST", "sys/wrapping/unwrap", {"X-Vault-Token": token})

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], **options: Any
    ) -> Mapping[str, Any]:
        session = self._session
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise IssueError(f"{session.name}: {path!r} is no path")
        answer = await self._ask(method, quote(path), headers={**session.headers, **headers}, **options)
        return _answered(answer, f"{session.name}: {path}")


class OpenBaoSession:
    """One identity at one OpenBao, in one role.

    *identity* proves itself with a token for *audience* (the role's `bound_audiences`) at the JWT
    auth method that is mounted at ``auth/<mount>``. *address* is https, or http on this machine;
    a standby's redirect is not followed, so it names the active node or what forwards to it.
    *verify* is an `ssl.SSLContext` where the authority is one's own.
    """

    def __init__(
        self,
        address: str,
        *,
        identity: IdentitySource,
        role: str,
        audience: str,
        mount: str = "jwt",
        namespace: str | None = None,
        verify: ssl.SSLContext | None = None,
        timeout: float = 4.5,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.role, self.audience, self.mount, self.clock = "openbao", role, audience, mount, clock
        self.headers = {"X-Vault-Request": "true"}
        if namespace is not None:
            self.headers["X-Vault-Namespace"] = namespace
        self.held: Login | None = None
        self._http = Outbound(
            self.name,
            f"{_confidential(address)}/v1",
            timeout=timeout,
            verify=verify or True,
            transport=transport,
            async_transport=async_transport,
        )
        ask, prove, share = self._http.ask, operation_pair(identity, "token"), SingleFlight().share
        self.sync = Bao(self, ask.sync, prove.sync, share.sync)
        self.async_ = Bao(self, ask.async_, prove.async_, share.async_)

    def close(self) -> None:
        """Revoke the login that was kept, as far as OpenBao answers, and close the connections."""
        held, self.held = self.held, None
        if held is not None:
            with suppress(IssueError):  # it ends by its expiry
                drive(self.sync.request("POST", "auth/token/revoke-self", held))
        self._http.close()

    def __repr__(self) -> str:
        return f"<OpenBaoSession {self._http.base_url} as {self.role}>"


def _confidential(address: str) -> str:
    if is_confidential_url(address):
        return address.rstrip("/")
    raise ConfigurationError(
        "the address of OpenBao is not confidential", hint="use https; http is for this machine alone"
    )


def _answered(answer: Answer, what: str) -> Mapping[str, Any]:
    if answer.status == _EMPTY:
        return {}
    if answer.status != httpx.codes.OK:
        reasons = (ours for theirs, ours in _REASONS if theirs in answer.content)
        reason = next(reasons, "no reason that is known")
        raise Refused(f"{what} answered {answer.status}: {reason}", answer.status)
    try:
        members = strict_json(answer.content)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise IssueError(f"{what} answered with something else than a JSON object")
    return members
