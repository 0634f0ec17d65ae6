"""Tokens that a platform gives its workload: reading, caching and renewing them.

The tokens are read without verification. The service that receives a token verifies it. Here the
claims say only whether a token is worth sending: for which audience it is, and until when.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from agentguard.concurrency.drive import Operation
from agentguard.concurrency.single_flight import Share, SingleFlight
from agentguard.errors import IdentityError
from agentguard.jose import strict_json, unb64url
from agentguard.model import Secret

__all__ = ["LIMIT", "IdentityDenied", "Token", "Tokens"]

LIMIT: Final = 16 * 1024
_RSA: Final = (256, 384, 512)  # keys of 2048, 3072 and 4096 bits
_SIGNATURES: Final = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), _RSA),
    **dict.fromkeys(("ES256", "EdDSA", "Ed25519"), (64,)),
    "ES384": (96,),
    "ES512": (132,),
}


class IdentityDenied(IdentityError):
    """The platform answered that this workload has no identity (any more)."""


@dataclass(frozen=True, slots=True)
class Token:
    """A JWT (RFC 7519): its subject, its audiences, and its expiry in seconds since the epoch."""

    secret: Secret
    subject: str
    audiences: frozenset[str]
    expires_at: float

    @classmethod
    def read(cls, text: object) -> Token:
        """Read a compact JWT. A signature whose length does not fit its algorithm is incomplete.

        Raises:
            ValueError: The token is malformed or incomplete. The message repeats nothing of it.
        """
        if not isinstance(text, str) or len(text) > LIMIT:
            raise ValueError("is not a text, or is too long")
        try:
            head, body, signature = map(unb64url, text.split("."))
            header, claims = strict_json(head), strict_json(body)
            is_complete = len(signature) in _SIGNATURES[header["alg"]]
            subject, audience, end = claims["sub"], claims["aud"], claims["exp"]
        except (ValueError, KeyError, TypeError):
            raise ValueError("is not a signed JWT with sub, aud and exp") from None
        audiences = [audience] if isinstance(audience, str) else audience
        if not is_complete or not _is_name(subject) or type(end) not in (int, float):
            raise ValueError("is not a complete JWT")
        if not isinstance(audiences, list) or not audiences or not all(map(_is_name, audiences)):
            raise ValueError("names no audience")
        return cls(Secret(text), subject, frozenset(audiences), float(end))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


class _CachedToken(NamedTuple):
    token: Token
    renew_at: float


class Tokens:
    """Caches one token for each audience. One caller fetches or renews it for all, after half of its life.

    If a token cannot be renewed, it serves until it expires, and the next attempt is made after *pause*
    seconds. An `IdentityDenied` removes all tokens at once.
    """

    def __init__(self, name: str, *, clock: Callable[[], float], pause: float = 1.0) -> None:
        self._name, self._clock, self._pause = name, clock, pause
        self._cache: dict[str, _CachedToken] = {}
        self.share = SingleFlight().share

    def forget(self) -> None:
        """Remove all tokens. A token that is being fetched now is not cached."""
        self._cache = {}

    async def get(self, audience: str, fetch: Operation, share: Share) -> Secret:
        """Return the token for *audience*; ``fetch(audience)`` gets a `Token` from the platform.

        Raises:
            IdentityError: *fetch* raised it, or its token is for another audience or has expired.
        """
        if (token := self._fresh(audience)) is not None:
            return token.secret
        secret: Secret = await share(audience, self._renewal(audience, fetch))
        return secret

    def _renewal(self, audience: str, fetch: Operation) -> Callable[[], Awaitable[Secret]]:
        async def renew() -> Secret:
            # looked up again, since another caller may have renewed it meanwhile
            token = self._fresh(audience) or await self._renew(audience, fetch)
            return token.secret

        return renew

    async def _renew(self, audience: str, fetch: Operation) -> Token:
        cache = self._cache  # `forget` replaces it
        try:
            token: Token = await fetch(audience)
            self._validate(token, audience)
        except IdentityDenied:
            self.forget()
            raise
        except IdentityError:
            previous, now = cache.get(audience), self._clock()
            if previous is None or previous.token.expires_at <= now or cache is not self._cache:
                raise
            cache[audience] = previous._replace(renew_at=now + self._pause)
            return previous.token
        self._add(cache, audience, token)
        return token

    def _validate(self, token: Token, audience: str) -> None:
        if token.audiences != {audience}:
            raise IdentityError(f"{self._name}: its token is not for the requested audience alone")
        if token.expires_at <= self._clock():
            raise IdentityError(f"{self._name}: its token has expired")

    def _add(self, cache: dict[str, Any], audience: str, token: Token) -> None:
        now = self._clock()
        for name in [name for name, (other, _) in list(cache.items()) if other.expires_at <= now]:
            cache.pop(name, None)
        cache[audience] = _CachedToken(token, now + (token.expires_at - now) / 2)

    def _fresh(self, audience: str) -> Token | None:
        entry, now = self._cache.get(audience), self._clock()
        # a postponed renewal must not be later than the token's expiry
        if entry is None or now >= min(entry.renew_at, entry.token.expires_at):
            return None
        return entry.token
