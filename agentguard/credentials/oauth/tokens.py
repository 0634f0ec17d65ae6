"""Tokens that an authorization server has issued and that are not yet revoked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from agentguard.concurrency.fork import ProcessLock
from agentguard.credentials.oauth.response import claims_of
from agentguard.credentials.revoked import RevokedHandles
from agentguard.credentials.sealing import SealingKey
from agentguard.jose import Json, number_claim, text_claim
from agentguard.model import Secret

__all__ = ["LIMIT", "LiveToken", "LiveTokens"]

LIMIT = 10_000  # tokens of one broker in this process

_JWT_HANDLE = re.compile(r"(\d{1,16})\.([ -~]{1,512})")


class LiveToken(NamedTuple):
    """What is needed to revoke a token: the token, if it is known, and the `jti` of a JWT.

    `expires_at` is in seconds since the epoch. `name` is the `jti` that the issuer's introspection tells of
    an opaque token: a signal about the token names it so.
    """

    token: Secret | None
    jti: str | None
    expires_at: float
    name: str | None = None

    @classmethod
    def of(cls, token: Secret, expires_at: float, introspection: Mapping[str, Json] | None = None) -> Self:
        """Read the token's own claims, or of an opaque one its *introspection*.

        *expires_at* holds for a token without a claim `exp`.
        """
        if (claims := claims_of(token)) is None:
            return cls(token, None, expires_at, text_claim(introspection or {}, "jti"))
        return cls(token, text_claim(claims, "jti"), number_claim(claims, "exp") or expires_at)


class LiveTokens:
    """Finds a token by its handle.

    With *seal*, the handle is the encrypted token, so every process that has the key can find it.
    Without *seal*, the handle of a JWT is its expiry and its `jti`. The handle of an opaque token is
    then the grant's id, and only this process finds the token by it.
    """

    def __init__(self, seal: SealingKey | None, *, context: str) -> None:
        self._seal, self._context = seal, context
        self._tokens: dict[str, LiveToken] = {}
        self.revoked = RevokedHandles()
        self._lock = ProcessLock()

    def is_full(self, now: float) -> bool:
        """Drop the tokens that have expired at *now*, and return whether the limit is still reached."""
        with self._lock:
            if len(self._tokens) >= LIMIT:
                self._tokens = {
                    handle: token for handle, token in self._tokens.items() if token.expires_at > now
                }
            return len(self._tokens) >= LIMIT

    def add(self, handle: str, token: LiveToken) -> None:
        """Store the token under *handle* in this process."""
        with self._lock:
            self._tokens[handle] = token

    def handle(self, id: str, token: LiveToken) -> str:
        """Return the final handle of the token that was added as *id*.

        The token is then no longer stored as *id*. It is stored under the new handle unless that is
        sealed.
        """
        if self._seal is not None and token.token is not None:
            text = f"{token.expires_at} {token.token.reveal()} {token.name or ''}".rstrip(" ")
            self._drop(id)
            return self._seal.seal(text, context=self._context)
        handle = id if token.jti is None else f"{token.expires_at:.0f}.{token.jti}"
        self._drop(id)
        self.add(handle, token)
        return handle

    def find(self, handle: str) -> LiveToken | None:
        """Return the token of *handle*, or None if this process cannot find it."""
        with self._lock:
            live = self._tokens.get(handle)
        if live is not None:
            return live
        if self._seal is not None and (text := self._seal.open(handle, context=self._context)):
            expires_at, token, name = (*text.split(" ", 2), "")[:3]  # no token has a blank (RFC 6750)
            return LiveToken.of(Secret(token), float(expires_at))._replace(name=name or None)
        match = _JWT_HANDLE.fullmatch(handle)
        return None if match is None else LiveToken(None, match[2], float(match[1]))

    def remove(self, handle: str) -> None:
        """Remove from this process a token that is revoked or has expired."""
        self._drop(handle)
        self.revoked.add(handle)

    def _drop(self, handle: str) -> None:
        with self._lock:
            self._tokens.pop(handle, None)
