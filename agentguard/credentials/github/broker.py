"""The broker for GitHub: an installation token of an App, for one call's repositories and permissions.

The App's key signs a short-lived JWT for each request (RFC 7519, RS256). GitHub answers with an
installation token, which always lives for one hour, unless it is deleted:
https://docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app

What the tests do not show: they do not use GitHub. They use a strict local server that verifies the JWT
and its times, narrows tokens and deletes them, as GitHub's documentation says that GitHub does.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final

from agentguard.concurrency.drive import Operation, drive
from agentguard.concurrency.fork import ProcessLock
from agentguard.credentials.github.key import AppKey
from agentguard.credentials.github.terms import check_configuration, is_within, members_of, permissions_for
from agentguard.credentials.presentation import Bearer
from agentguard.credentials.revoked import RevokedHandles
from agentguard.credentials.sealing import SealingKey
from agentguard.errors import IssueError, RevocationUnknown
from agentguard.jose import b64url
from agentguard.model import Credential, Grant, ToolPath
from agentguard.outbound.client import Answer, Outbound
from agentguard.outbound.services import AsksServices
from agentguard.ports import BrokerTraits

__all__ = ["AppKey", "GitHubApp"]

HOUR: Final = 3600.0

_BACK, _AHEAD = 60, 120  # seconds; GitHub takes at most ten minutes ahead
_SKEW = 60.0
_SEALED = "github:"
_HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}


class GitHubApp(AsksServices):
    """A `Broker` for one installation of an App and the paths of *permissions*.

    *permissions* limits, for each path, what the broker asks for, such as ``{"contents": "read"}``. A
    call's scopes, such as ``contents:read``, must be within the limits. READ may have no level but
    ``read``. *repositories* names, for each resource, the repositories that its tokens reach, without
    their owner. A token never reaches all repositories.

    GitHub revokes a token by the token itself, so the handle is the token, encrypted with *seal*. If
    *seal* is None, only this process knows the token: after a crash nobody can revoke it, and it lives
    for the rest of its hour. A seal cannot prevent this for a token whose request got no answer, or
    whose process died before the handle was recorded: GitHub names a token only when it issues it.

    A credential's `expires_at` is the end of GitHub's hour; the lease ends with the call. git accepts
    `username` and `password` over HTTPS, and `env` has ``GH_TOKEN``.

    Raises:
        ConfigurationError: READ has more than ``read``, a level is unknown, a resource has no
            repository, or a name is misspelt.
    """

    # of a token whose answer was lost, only the end of the grant is known: GitHub's tokens live an hour
    traits = BrokerTraits(outlives=HOUR + _SKEW)

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
        check_configuration(permissions, repositories)
        self._client_id, self._installation, self._key = client_id, int(installation_id), key
        self._permissions = {path: dict(levels) for path, levels in permissions.items()}
        self._repositories = {resource: sorted(names) for resource, names in repositories.items()}
        self.paths = frozenset(permissions)
        self._seal, self._clock = seal, clock
        self._http = http or Outbound("github", "https://api.github.com")
        self._context = f"{self._http.base_url}/app/installations/{self._installation}"
        self._instance = b64url(entropy(12))
        self._tokens: dict[str, tuple[str, float]] = {}
        self._revoked = RevokedHandles()
        self._lock = ProcessLock()

    # --- the port

    def issue(self, grant: Grant) -> Credential:
        """Get a token for the grant's scopes and its resource's repositories.

        Raises:
            IssueError: The path, a scope or the resource is not configured, GitHub gave no token, or the
                token had more than was asked for and was revoked.
        """
        return drive(self._issue(grant, self._http.ask.sync))

    async def aissue(self, grant: Grant) -> Credential:
        """Do the same as `issue`, without blocking the event loop."""
        return await self._issue(grant, self._http.ask.async_)

    def revoke(self, handle: str, expires_at: float) -> None:
        """Delete the token at GitHub.

        Raises:
            IssueError: The token is not known to be deleted, or another process or key has sealed it.
        """
        drive(self._revoke(handle, expires_at, self._http.ask.sync))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """Do the same as `revoke`, without blocking the event loop."""
        await self._revoke(handle, expires_at, self._http.ask.async_)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- issuing

    async def _issue(self, grant: Grant, ask: Operation) -> Credential:
        self._revoked.add(grant.id)  # nothing is asked for yet
        permissions = permissions_for(grant, self._permissions)
        repositories = self._repositories.get(grant.resource.name)
        if repositories is None:
            raise IssueError(f"github: no repositories belong to {grant.resource.name}")
        body = {"repositories": repositories, "permissions": permissions}
        url = f"/app/installations/{self._installation}/access_tokens"
        self._revoked.discard(grant.id)  # an answer that is lost may have had a token
        answer: Answer = await ask("POST", url, json=body, headers=self._app_headers())
        if answer.status != 201:
            if 400 <= answer.status < 500:
                self._revoked.add(grant.id)
            raise IssueError(f"github: answered {answer.status}")
        members = members_of(answer)
        token = members["token"]
        # stored under the grant's id: the guard revokes by that id a token that it did not receive
        self._add(grant.id, token, self._clock() + HOUR + _SKEW)
        expires_at = self._expiry(members)
        if expires_at is None or not is_within(members, permissions, repositories):
            await self._revoke(grant.id, self._clock() + HOUR, ask)
            raise IssueError("github: the token had more rights, or a longer life, than asked; it is revoked")
        return self._credential(grant, token, expires_at)

    def _app_headers(self) -> dict[str, str]:
        now = int(self._clock())
        claims = {"iat": now - _BACK, "exp": now + _AHEAD, "iss": self._client_id}
        return {**_HEADERS, "Authorization": f"Bearer {self._key.sign(claims)}"}

    def _expiry(self, members: Mapping[str, Any]) -> float | None:
        try:
            end = datetime.fromisoformat(members["expires_at"])
        except (KeyError, TypeError, ValueError):
            return None
        now = self._clock()
        is_plausible = end.tzinfo is not None and now < end.timestamp() <= now + HOUR + _SKEW
        return end.timestamp() if is_plausible else None

    def _credential(self, grant: Grant, token: str, expires_at: float) -> Credential:
        if self._seal is None:
            handle = f"{grant.id}@{self._process()}"
            self._add(handle, token, expires_at)
        else:
            handle = _SEALED + self._seal.seal(token, context=self._context)
        self._remove(grant.id)
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
        if answer.status not in (204, 401):  # 401: the token has ended already
            raise IssueError(f"github: not known to be revoked: answered {answer.status}")
        self._remove(handle)
        self._revoked.add(handle)

    def _token(self, handle: str, expires_at: float) -> str | None:
        """Return the token of the handle, or None if there was none or it has ended."""
        with self._lock:
            entry = self._tokens.get(handle)
        if entry is not None:
            return entry[0]
        if handle.startswith(_SEALED):
            text = handle.removeprefix(_SEALED)
            if self._seal and (token := self._seal.open(text, context=self._context)):
                return token
            reason = "the handle is sealed with another key, or for another installation"
        elif "@" in handle and not handle.endswith(f"@{self._process()}"):
            reason = "only another process knows the token"
        elif handle in self._revoked or self._clock() >= expires_at + self.traits.outlives:
            return None
        else:
            raise RevocationUnknown("github: a handle is unknown here")
        if self._clock() >= expires_at + _SKEW:
            return None
        raise RevocationUnknown(f"github: not known to be revoked: {reason}")

    def _process(self) -> str:
        return f"{self._instance}.{os.getpid()}"  # a forked process has the same instance

    def _add(self, handle: str, token: str, until: float) -> None:
        now = self._clock()
        with self._lock:
            self._tokens = {name: entry for name, entry in self._tokens.items() if entry[1] > now}
            self._tokens[handle] = (token, until)

    def _remove(self, handle: str) -> None:
        with self._lock:
            self._tokens.pop(handle, None)

    def __repr__(self) -> str:
        return f"<GitHubApp {self._client_id} {self._installation}>"
