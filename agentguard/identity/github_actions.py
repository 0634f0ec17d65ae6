"""The identity of a GitHub Actions job (OpenID Connect), for an agent that runs in a workflow."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, MutableMapping
from typing import Final

import httpx

from agentguard.concurrency.drive import Operation, drive
from agentguard.concurrency.single_flight import Share
from agentguard.errors import ConfigurationError, IdentityError
from agentguard.identity.tokens import Token, Tokens
from agentguard.model import Secret
from agentguard.outbound.client import Outbound
from agentguard.outbound.destinations import is_confidential
from agentguard.outbound.services import AsksServices

__all__ = ["GitHubActionsIdentity"]

_URL: Final = "ACTIONS_ID_TOKEN_REQUEST_URL"
_TOKEN: Final = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105  the name of a variable
_NAME: Final = "GitHub Actions"
_NOBODY: Final = "urn:agentguard:nobody"  # a token for this audience is useless to a thief


class GitHubActionsIdentity(AsksServices):
    """An `IdentitySource` for a job that has ``permissions: id-token: write``.

    The actor is the `sub` of the job's tokens, such as ``repo:org/name:ref:refs/heads/main``. The
    constructor asks GitHub for it, for at most 4.5 seconds: call it before an event loop runs.

    With the job's request token, anyone can get a token for any audience. So the constructor removes it
    from *env*, and no child process inherits it; give a copy of the environment to leave it there. The
    same user can still read it in this process's initial environment (``/proc``).

    Raises:
        ConfigurationError: The variables are missing, or the URL is neither https nor on this machine.
        IdentityError: GitHub gave no token.
    """

    def __init__(
        self,
        env: MutableMapping[str, str] = os.environ,
        *,
        clock: Callable[[], float] = time.time,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not env.get(_URL) or not env.get(_TOKEN):
            raise ConfigurationError(
                f"{_URL} and {_TOKEN} are not both set", hint="give the job `permissions: id-token: write`"
            )
        self._url = _address(env[_URL])
        self._authorization = Secret(f"Bearer {env[_TOKEN]}")
        self._http = Outbound(
            _NAME,
            str(self._url.copy_with(raw_path=b"/")),
            error=IdentityError,
            verify=verify,
            transport=transport,
            async_transport=async_transport,
        )
        self._tokens = Tokens(_NAME, clock=clock)
        self._actor = ""
        try:
            self._actor = drive(self._fetch(_NOBODY, self._http.ask.sync)).subject
        except BaseException:
            self.close()
            raise
        del env[_TOKEN]

    def actor(self) -> str:
        """Return the job's subject, which stays the same while the job runs."""
        return self._actor

    def token(self, audience: str) -> Secret:
        """Return a token for *audience* alone. It is renewed after half of its life.

        Raises:
            IdentityError: GitHub gave no token.
        """
        return drive(self._token(audience, self._http.ask.sync, self._tokens.share.sync))

    async def atoken(self, audience: str) -> Secret:
        """Do the same as `token`, without blocking the event loop."""
        return await self._token(audience, self._http.ask.async_, self._tokens.share.async_)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    async def _token(self, audience: str, ask: Operation, share: Share) -> Secret:
        return await self._tokens.get(audience, lambda name: self._fetch(name, ask), share)

    async def _fetch(self, audience: str, ask: Operation) -> Token:
        url = self._url.copy_add_param("audience", audience)
        headers = {"Authorization": self._authorization.reveal(), "Accept": "application/json"}
        answer = await ask("GET", str(url), headers=headers, repeatable=True)
        if answer.status != httpx.codes.OK:
            raise IdentityError(f"{_NAME}: answered {answer.status}")
        try:
            token = Token.read(answer.json()["value"])
        except (ValueError, KeyError, TypeError):
            raise IdentityError(f"{_NAME}: its answer holds no token") from None
        if self._actor not in ("", token.subject):
            raise IdentityError(f"{_NAME}: its token is for another subject than before")
        return token

    def __repr__(self) -> str:
        return f"<GitHubActionsIdentity {self._actor}>"


def _address(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if not is_confidential(url.scheme, url.host):
        raise ConfigurationError(
            f"{_URL} is not an https URL", hint="the request token is sent over https only"
        )
    return url
