"""GitHub: an installation token of a GitHub App, narrowed to one call's repositories and permissions.

The App's key signs a short JWT for each request (RFC 7519, RS256); what it obtains is an installation
token, which GitHub gives for one hour whatever is asked, and which DELETE ends:
https://docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app

What the tests do not show: there is no GitHub to be had in them. They speak to a strict local server that
verifies the JWT and its times, narrows, and ends tokens, as GitHub's documentation says that it does.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from threading import Lock
from typing import Any, Final

from agentguard.concurrency.drive import Operation, drive
from agentguard.credentials.github.key import AppKey
from agentguard.credentials.github.terms import given_by, permitted, sound, within
from agentguard.credentials.presentation import Bearer
from agentguard.credentials.sealing import SealingKey
from agentguard.errors import IssueError
from agentguard.jose import b64url
from agentguard.model import Credential, Grant, ToolPath
from agentguard.outbound.client import Answer, Outbound

__all__ = ["AppKey", "GitHubApp"]

HOUR: Final = 3600.0

_BACK, _AHEAD = 60, 120  # seconds; GitHub takes at most ten minutes ahead
_SKEW = 60.0
_SEALED = "github:"
_HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}


class GitHubApp:
    """A `Broker` for one installation of an App; it serves the paths of *permissions*.

    *permissions* is, for each path, the most that is ever asked: ``{"contents": "read"}``. A call's
    scopes, such as ``contents:read``, must lie within; READ has nothing but ``read``. *repositories*
    names, for each resource, those that its tokens reach, without their owner; never all.

    GitHub revokes by the token itself, so that the handle is the token, sealed by *seal*. With None
    it is kept in this process alone: after a crash nobody can revoke, and the token lives for the rest
    of its hour. With a seal too, that is what happens to a token whose issue got no answer, or whose
    process died before it was on record: GitHub names it only as it gives it.

    A credential's `expires_at` is GitHub's hour; the lease ends with the call. As `username` and
    `password` it is what git takes over HTTPS; `env` has ``GH_TOKEN``.

    Raises:
        ConfigurationError: READ would have more than ``read``, or there is an unknown level, no
            repository, or a name that is none.
    """

    def __init__(
        self,
        client_id: str,
        installation_id: int,
        key: AppKey,
        *,
        permissions: Mapping[ToolPath, Mapping[str, str]],
        repositories: Mapping[str, Collection[str]],
        seal: SealingKey | None,
        http: Outbound | None = None,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        sound(permissions, repositories)
        self._client_id, self._installation, self._key = client_id, int(installation_id), key
        self._permissions = {path: dict(most) for path, most in permissions.items()}
        self._repositories = {name: sorted(each) for name, each in repositories.items()}
        self.paths = frozenset(permissions)
        self._seal, self._clock = seal, clock
        self._http = http or Outbound("github", "https://api.github.com")
        self._context = f"{self._http.base_url}/app/installations/{self._installation}"
        self._instance = b64url(entropy(12))
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = Lock()

    # --- the port

    def issue(self, grant: Grant) -> Credential:
        """Obtain a token for the grant's scopes, on its resource's repositories.

        Raises:
            IssueError: The path, a scope or the resource is not provided for, GitHub gave no token, or
                it gave more than was asked, which was then revoked.
        """
        return drive(self._issue(grant, self._http.ask.sync))

    async def aissue(self, grant: Grant) -> Credential:
        """As `issue`, without blocking the event loop."""
        return await self._issue(grant, self._http.ask.async_)

    def revoke(self, handle: str, expires_at: float) -> None:
        """End the token at GitHub.

        Raises:
            IssueError: It is not known to have ended, or another process or key has sealed it.
        """
        drive(self._revoke(handle, expires_at, self._http.ask.sync))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """As `revoke`, without blocking the event loop."""
        await self._revoke(handle, expires_at, self._http.ask.async_)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    # --- issuing

    async def _issue(self, grant: Grant, ask: Operation) -> Credential:
        permissions = permitted(grant, self._permissions)
        repositories = self._repositories.get(grant.resource.name)
        if repositories is None:
            raise IssueError(f"github: no repositories belong to {grant.resource.name}")
        asked = {"repositories": repositories, "permissions": permissions}
        url = f"/app/installations/{self._installation}/access_tokens"
        answer: Answer = await ask("POST", url, json=asked, headers=self._as_app())
        if answer.status != 201:
            raise IssueError(f"github: answered {answer.status}")
        given = given_by(answer)
        token = given["token"]
        # held under the grant's id, by which the guard revokes what it was not given
        self._hold(grant.id, token, self._clock() + HOUR + _SKEW)
        expires_at = self._expiry(given)
        if expires_at is None or not within(given, permissions, repositories):
            await self._revoke(grant.id, self._clock() + HOUR, ask)
            raise IssueError("github: gave more, or for longer, than was asked; it is revoked")
        return self._credential(grant, token, expires_at)

    def _as_app(self) -> dict[str, str]:
        now = int(self._clock())
        claims = {"iat": now - _BACK, "exp": now + _AHEAD, "iss": self._client_id}
        return {**_HEADERS, "Authorization": f"Bearer {self._key.sign(claims)}"}

    def _expiry(self, given: Mapping[str, Any]) -> float | None:
        try:
            at = datetime.fromisoformat(given["expires_at"])
        except (KeyError, TypeError, ValueError):
            return None
        now = self._clock()
        timely = at.tzinfo is not None and now < at.timestamp() <= now + HOUR + _SKEW
        return at.timestamp() if timely else None

    def _credential(self, grant: Grant, token: str, expires_at: float) -> Credential:
        if self._seal is None:
            handle = f"{grant.id}@{self._process()}"
            self._hold(handle, token, expires_at)
        else:
            handle = _SEALED + self._seal.seal(token, context=self._context)
        self._drop(grant.id)
        return Credential(
            token,
            id=grant.id,
            handle=handle,
            expires_at=expires_at,
            headers=Bearer(token),
            fields={"username": "x-access-token", "password": token},
            env={"GH_TOKEN": token},
        )

    # --- revoking

    async def _revoke(self, handle: str, expires_at: float, ask: Operation) -> None:
        token = self._token(handle, expires_at)
        if token is None:
            return
        headers = {**_HEADERS, "Authorization": f"Bearer {token}"}
        answer: Answer = await ask("DELETE", "/installation/token", headers=headers, repeatable=True)
        if answer.status not in (204, 401):  # 401: it has ended already
            raise IssueError(f"github: not known to be revoked: answered {answer.status}")
        self._drop(handle)

    def _token(self, handle: str, expires_at: float) -> str | None:
        """Return the token of the handle; None if there was none, or it has ended."""
        with self._lock:
            held = self._held.get(handle)
        if held is not None:
            return held[0]
        if handle.startswith(_SEALED):
            sealed = handle.removeprefix(_SEALED)
            if self._seal and (token := self._seal.open(sealed, context=self._context)):
                return token
            reason = "the handle is sealed with another key, or for another installation"
        elif "@" in handle and not handle.endswith(f"@{self._process()}"):
            reason = "the token is known to another process alone"
        else:
            return None
        if self._clock() >= expires_at + _SKEW:
            return None
        raise IssueError(f"github: not known to be revoked: {reason}")

    def _process(self) -> str:
        return f"{self._instance}.{os.getpid()}"  # a forked one has the same instance

    def _hold(self, handle: str, token: str, until: float) -> None:
        now = self._clock()
        with self._lock:
            self._held = {name: held for name, held in self._held.items() if held[1] > now}
            self._held[handle] = (token, until)

    def _drop(self, handle: str) -> None:
        with self._lock:
            self._held.pop(handle, None)

    def __repr__(self) -> str:
        return f"<GitHubApp {self._client_id} {self._installation}>"
