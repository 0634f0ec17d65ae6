"""Logins at OpenBao or HashiCorp Vault (one API), and requests with them.

A workload proves its identity at the JWT auth method with a JWT of its platform, and gets a token for
one role. In OpenBao, the role with its policies and its audience stands for one `ToolPath`. Requests
are sent by ``session.sync`` or ``session.async_``, which have the same methods.
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

__all__ = ["Login", "OpenBaoOperations", "OpenBaoSession", "RequestRefused", "lease_seconds"]

FORBIDDEN = 403
_EMPTY = 204
_MARGIN = 5.0
_LONGEST = 366 * 24 * 3600  # seconds; a lease that is longer is renewed or ended before
# parts of OpenBao's answers, and our words for them: a message repeats nothing of an answer
_REASONS = (
    (b"(sub) claim", "the identity is not the one of this role"),
    (b"(aud) claim", "the proof of identity is for another audience"),
    (b"(exp) claim", "the proof of identity has expired"),
    (b"bound claim", "the identity lacks a claim of this role"),
    (b"verifying token signature", "the proof of identity is not signed by a trusted key"),
    (b"could not be found", "there is no such role"),
    (b"unknown role", "there is no such role"),
    (b"wrapping token is not valid", "the wrapping token is unknown, expired or used"),
    (b"invalid accessor", "no token has this accessor"),
    (b"permission denied", "permission denied"),
)


class RequestRefused(IssueError):
    """OpenBao answered that it did not do what was asked; `status` is the HTTP status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Login:
    """A token of one login. `accessor` names the token for its revocation, and is not a secret."""

    token: Secret
    accessor: str
    expires_at: float


class OpenBaoOperations:
    """What a session can do, on the synchronous or the asynchronous path."""

    def __init__(self, session: OpenBaoSession, ask: Operation, prove: Operation, share: Share) -> None:
        self._session, self._ask, self._prove, self._share = session, ask, prove, share

    async def login(self) -> Login:
        """Log in, and return the new token.

        Raises:
            IssueError: The workload has no proof of its identity, OpenBao refuses it, or the new token
                could not be revoked (a batch token).
        """
        session = self._session
        try:
            proof: Secret = await self._prove(session.audience)
        except IdentityError as error:
            raise IssueError(f"{session.name}: no proof of identity: {error}") from None
        now = session.clock()
        answer = await self._send(
            "POST", f"auth/{session.mount}/login", {}, json={"role": session.role, "jwt": proof.reveal()}
        )
        match answer.get("auth"):
            case {"client_token": str(token), "accessor": str(accessor), "lease_duration": int(seconds)} if (
                token and accessor and seconds > 0
            ):
                return Login(Secret(token), accessor, now + lease_seconds(seconds))
        raise IssueError(f"{session.name}: the login as {session.role} gave no token that can be revoked")

    async def shared_login(self) -> Login:
        """Return the session's login, which all callers share. Log in if it ends within five seconds."""
        login = self._session.shared_login
        if login is None or login.expires_at - self._session.clock() < _MARGIN:
            login = self._session.shared_login = await self._share("login", self.login)
        assert login is not None  # noqa: S101  `self.login` returns a login or raises
        return login

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
        """Send one request under ``/v1/`` and return its answer, which may be empty.

        Without *login* the session's `shared_login` is used. With *wrap*, OpenBao keeps the answer for
        that many seconds and returns a wrapping token, with which it can be fetched once.

        Raises:
            RequestRefused: OpenBao refuses.
            IssueError: OpenBao did not answer, or the answer is not JSON.
        """
        sender = login or await self.shared_login()
        headers = {"X-Vault-Token": sender.token.reveal()}
        if wrap is not None:
            headers["X-Vault-Wrap-TTL"] = f"{wrap}s"
        try:
            return await self._send(method, path, headers, json=json, repeatable=repeatable)
        except RequestRefused as refusal:
            if login is None and refusal.status == FORBIDDEN:  # perhaps revoked: the next request logs in
                self._session.shared_login = None
            raise

    async def revoke(self, login: Login) -> None:
        """Have a login revoke itself, by its accessor if its policy permits it nothing else.

        Raises:
            IssueError: It is not known to be revoked.
        """
        try:
            await self.request("POST", "auth/token/revoke-self", login, repeatable=True)
        except RequestRefused as refusal:
            if refusal.status != FORBIDDEN:
                raise
            body = {"accessor": login.accessor}
            await self.request("POST", "auth/token/revoke-accessor", login, json=body, repeatable=True)

    async def unwrap(self, token: str) -> Mapping[str, Any]:
        """Return the answer that a wrapping token stands for.

        Raises:
            RequestRefused: It was fetched before, or has expired.
            IssueError: OpenBao did not answer.
        """
        return await self._send("POST", "sys/wrapping/unwrap", {"X-Vault-Token": token})

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], **options: Any
    ) -> Mapping[str, Any]:
        session = self._session
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise IssueError(f"{session.name}: {path!r} is no path")
        answer = await self._ask(method, quote(path), headers={**session.headers, **headers}, **options)
        return _members(answer, f"{session.name}: {path}")


class OpenBaoSession:
    """One identity in one role at one OpenBao.

    *identity* gives a token for *audience* (one of the role's `bound_audiences`). The session logs in
    with it at the JWT auth method that is mounted at ``auth/<mount>``. *address* is https, or http on
    this machine. The session does not follow a standby's redirect, so *address* names the active node
    or a proxy that forwards to it. *verify* is an `ssl.SSLContext` for a certificate authority of your
    own. *http* sends the requests; by default it is made from *address* and *verify*.
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
        verify: ssl.SSLContext | bool = True,
        http: Outbound | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.role, self.audience, self.mount, self.clock = "openbao", role, audience, mount, clock
        self.headers = {"X-Vault-Request": "true"}
        if namespace is not None:
            self.headers["X-Vault-Namespace"] = namespace
        self.shared_login: Login | None = None
        url = f"{_require_confidential(address)}/v1"
        self._http = http or Outbound(self.name, url, verify=verify)
        ask, prove, share = self._http.ask, operation_pair(identity, "token"), SingleFlight().share
        self.sync = OpenBaoOperations(self, ask.sync, prove.sync, share.sync)
        self.async_ = OpenBaoOperations(self, ask.async_, prove.async_, share.async_)

    def check(self) -> None:
        """Log in, and have that login revoked.

        Raises:
            IssueError: OpenBao does not answer, or refuses.
        """
        drive(self._check())

    async def _check(self) -> None:
        login = await self.sync.login()
        await self.sync.revoke(login)

    @property
    def http(self) -> Outbound:
        """What sends the requests."""
        return self._http

    def close(self) -> None:
        """Revoke the shared login if OpenBao answers, and close the connections."""
        login, self.shared_login = self.shared_login, None
        if login is not None:
            with suppress(IssueError):  # it ends by its expiry
                drive(self.sync.revoke(login))
        self._http.close()

    def __repr__(self) -> str:
        return f"<OpenBaoSession {self._http.base_url} as {self.role}>"


def _require_confidential(address: str) -> str:
    if is_confidential_url(address):
        return address.rstrip("/")
    raise ConfigurationError(
        "the address of OpenBao is not confidential", hint="use https; http is for this machine only"
    )


def _members(answer: Answer, request: str) -> Mapping[str, Any]:
    """Return the answer's JSON object; *request* names the request in errors."""
    if answer.status == _EMPTY:
        return {}
    if answer.status != httpx.codes.OK:
        reasons = (reason for part, reason in _REASONS if part in answer.content)
        reason = next(reasons, "no known reason")
        raise RequestRefused(f"{request} answered {answer.status}: {reason}", answer.status)
    try:
        members = strict_json(answer.content)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise IssueError(f"{request}: the answer is not a JSON object")
    return members


def lease_seconds(value: object) -> float:
    """Return the seconds of a lease in an answer, at most a year's; 0 if the value is no whole number."""
    return float(min(value, _LONGEST)) if isinstance(value, int) else 0.0
