"""Tokens that a platform gives its workload, and which this process only carries.

They are read without being verified: whoever receives one verifies it, and what is read here says
only whether it is worth sending, which is a matter of its audience and its end.
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

__all__ = ["LIMIT", "Denial", "Token", "Tokens"]

LIMIT: Final = 16 * 1024
_RSA: Final = (256, 384, 512)  # keys of 2048, 3072 and 4096 bits
_SIGNATURES: Final = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), _RSA),
    **dict.fromkeys(("ES256", "EdDSA", "Ed25519"), (64,)),
    "ES384": (96,),
    "ES512": (132,),
}


class Denial(IdentityError):
    """The platform was asked, and says that this workload has no identity (any more)."""


@dataclass(frozen=True, slots=True)
class Token:
    """A JWT (RFC 7519): whose it is, for whom, and until when in seconds since the epoch."""

    secret: Secret
    subject: str
    audiences: frozenset[str]
    expires_at: float

    @classmethod
    def read(cls, text: object) -> Token:
        """Read a compact JWT. It is refused unless complete: a signature has the length of its kind.

        Raises:
            ValueError: It is malformed; the message repeats nothing of it.
        """
        if not isinstance(text, str) or len(text) > LIMIT:
            raise ValueError("is no text of a bearable length")
        try:
            head, body, signature = map(unb64url, text.split("."))
            header, claims = strict_json(head), strict_json(body)
            complete = len(signature) in _SIGNATURES[header["alg"]]
            subject, audience, end = claims["sub"], claims["aud"], claims["exp"]
        except (ValueError, KeyError, TypeError):
            raise ValueError("is no signed JWT with sub, aud and exp") from None
        audiences = [audience] if isinstance(audience, str) else audience
        if not complete or not _name(subject) or type(end) not in (int, float):
            raise ValueError("is no complete JWT")
        if not isinstance(audiences, list) or not audiences or not all(map(_name, audiences)):
            raise ValueError("names no audience")
        return cls(Secret(text), subject, frozenset(audiences), float(end))


def _name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


class _Kept(NamedTuple):
    token: Token
    renew_at: float


class Tokens:
    """Tokens by audience, one for each: fetched by one for all, and renewed at half of their life.

    When one cannot be renewed it serves while it lives, and a further attempt is made after *pause*
    seconds; a `Denial` ends all of them at once.
    """

    def __init__(self, name: str, *, clock: Callable[[], float], pause: float = 1.0) -> None:
        self._name, self._clock, self._pause = name, clock, pause
        self._kept: dict[str, _Kept] = {}
        self.share = SingleFlight().share

    def forget(self) -> None:
        """Forget all, and whatever is being fetched now."""
        self._kept = {}

    async def get(self, audience: str, fetch: Operation, share: Share) -> Secret:
        """Return the token for *audience*; ``fetch(audience)`` obtains a `Token`.

        Raises:
            IdentityError: As *fetch* does, or what it obtained is for another audience or over.
        """
        if (found := self._fresh(audience)) is not None:
            return found.secret
        secret: Secret = await share(audience, self._renewing(audience, fetch))
        return secret

    def _renewing(self, audience: str, fetch: Operation) -> Callable[[], Awaitable[Secret]]:
        async def renew() -> Secret:
            # asked again, since another one may have landed meanwhile
            token = self._fresh(audience) or await self._renewed(audience, fetch)
            return token.secret

        return renew

    async def _renewed(self, audience: str, fetch: Operation) -> Token:
        keep = self._kept  # which `forget` exchanges for another
        try:
            token: Token = await fetch(audience)
            self._judge(token, audience)
        except Denial:
            self.forget()
            raise
        except IdentityError:
            older, now = keep.get(audience), self._clock()
            if older is None or older.token.expires_at <= now or keep is not self._kept:
                raise
            keep[audience] = older._replace(renew_at=now + self._pause)
            return older.token
        self._keep(keep, audience, token)
        return token

    def _judge(self, token: Token, audience: str) -> None:
        if token.audiences != {audience}:
            raise IdentityError(f"{self._name}: its token is not for the audience that was asked, alone")
        if token.expires_at <= self._clock():
            raise IdentityError(f"{self._name}: its token has expired")

    def _keep(self, keep: dict[str, Any], audience: str, token: Token) -> None:
        now = self._clock()
        for over in [name for name, (kept, _) in list(keep.items()) if kept.expires_at <= now]:
            keep.pop(over, None)
        keep[audience] = _Kept(token, now + (token.expires_at - now) / 2)

    def _fresh(self, audience: str) -> Token | None:
        found, now = self._kept.get(audience), self._clock()
        # a renewal that is put off must not outlive the token
        if found is None or now >= min(found.renew_at, found.token.expires_at):
            return None
        return found.token
