"""Who may ask for the introspection of tokens, and the proof of who asks."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from jwt import PyJWK

from agentguard.concurrency.drive import Operation
from agentguard.errors import ConfigurationError, VerificationError
from agentguard.jose import Json, decode, number_claim, text_claim, unverified_parts
from agentguard.jose.key_source import KeySource
from agentguard.jose.key_table import KeyTable
from agentguard.model import Resource, Secret, ToolPath

__all__ = ["Caller", "Callers"]

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 section 2.2
_TYP = frozenset({"client-authentication+jwt"})  # draft-ietf-oauth-rfc7523bis
_LONGEST = 300.0  # seconds for which an assertion may be valid
_LEEWAY = 5.0  # seconds
_SHORTEST = 16  # characters of a bearer secret


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Caller:
    """A resource server that may ask about tokens for its *resources*, and about no others.

    It authenticates with *bearer*, a secret in the Authorization header, or with an assertion that one of its
    *keys* has signed and whose `iss` and `sub` are *name*, as `oauth.PrivateKeyJwt` makes them.

    Raises:
        ConfigurationError: There is none or both of them, no resource, or the secret is shorter than 16
            characters.
    """

    name: str
    resources: tuple[Resource, ...]
    bearer: Secret | None = None
    keys: Mapping[str, Json] | KeySource | None = None

    def __post_init__(self) -> None:
        if not self.resources or (self.bearer is None) == (self.keys is None):
            raise ConfigurationError(
                f"the caller {self.name} needs resources, and a bearer secret or keys",
                hint='such as resources = ["orders"], bearer = "env:ORDERS_SECRET"',
            )
        if self.bearer is not None and len(self.bearer.reveal()) < _SHORTEST:
            raise ConfigurationError(
                f"the bearer secret of {self.name} is too short to be secret",
                hint=f"use at least {_SHORTEST} random characters",
            )

    def audiences(self, path: ToolPath) -> list[str]:
        """Return the audiences of the caller's resources on a path."""
        return [resource.audience(path) for resource in self.resources]


class Callers:
    """Finds out who asks, and lets each ask *rate* times a second.

    *audiences* are the names that an assertion may have as its audience. *remember* is the store's operation,
    by which an assertion is accepted once.

    Raises:
        ConfigurationError: Two callers have one name, or a key is unusable.
    """

    def __init__(
        self,
        callers: Iterable[Caller],
        *,
        audiences: frozenset[str],
        remember: Operation,
        rate: float,
        clock: Callable[[], float],
    ) -> None:
        self._callers: dict[str, Caller] = {}
        for caller in callers:
            if self._callers.setdefault(caller.name, caller) is not caller:
                raise ConfigurationError(f"two callers are named {caller.name}", hint="rename one")
        self._tables = {
            name: KeyTable(caller.keys, name)
            for name, caller in self._callers.items()
            if caller.keys is not None
        }
        self._audiences, self._remember, self._clock = audiences, remember, clock
        self._rates = {name: _Rate(rate) for name in self._callers}

    async def authenticate(self, authorizations: list[bytes], form: Mapping[str, str]) -> Caller:
        """Return the caller that has made a request, by its Authorization headers and its form.

        Raises:
            VerificationError: 401, nobody who may ask; 400, the request proves it in two ways (RFC 6749
                section 2.3); 429, the caller asks too often; 503, its keys cannot be read.
        """
        has_assertion = "client_assertion" in form or "client_assertion_type" in form
        if len(authorizations) + has_assertion > 1:
            raise VerificationError("invalid_request", "a caller authenticates in one way", status=400)
        caller = await self._by_assertion(form) if has_assertion else self._by_bearer(authorizations)
        if caller is None:
            raise VerificationError("invalid_client", "the caller is not known", status=401)
        if not self._rates[caller.name].take():
            raise VerificationError("temporarily_unavailable", f"{caller.name} asks too often", status=429)
        return caller

    def _by_bearer(self, authorizations: list[bytes]) -> Caller | None:
        scheme, _, value = (authorizations or [b""])[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        match = None
        for caller in self._callers.values():  # all of them, so that the time says nothing
            secret = caller.bearer
            if secret is not None and hmac.compare_digest(value.strip(b" "), secret.reveal().encode()):
                match = caller
        return match

    async def _by_assertion(self, form: Mapping[str, str]) -> Caller | None:
        assertion = form.get("client_assertion", "")
        parts = unverified_parts(assertion)
        if form.get("client_assertion_type") != _ASSERTION or parts is None:
            return None
        kid, name = parts[0].get("kid"), parts[1].get("iss")
        table = self._tables.get(name) if isinstance(name, str) else None
        key = None if table is None or not isinstance(kid, str) else await table.find(kid)
        if key is None or form.get("client_id", name) != name:
            return None
        claims = _verified(assertion, key)
        if claims is None or not self._is_current(claims, str(name)):
            return None
        until = float(claims["exp"]) + 2 * _LEEWAY
        is_first = await self._remember(f"assertion:{len(str(name))}:{name}#{claims['jti']}", until)
        return self._callers[str(name)] if is_first is True else None

    def _is_current(self, claims: Mapping[str, Json], name: str) -> bool:
        now, expires = self._clock(), number_claim(claims, "exp")
        issued = number_claim(claims, "iat") if "iat" in claims else now
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        # one audience alone: else another server that gets the assertion could use it here
        is_ours = len(audiences) == 1 and isinstance(audiences[0], str) and audiences[0] in self._audiences
        if not is_ours or claims.get("iss") != name or claims.get("sub") != name:
            return False
        if expires is None or issued is None or text_claim(claims, "jti") is None:
            return False
        return issued - _LEEWAY <= now < expires + _LEEWAY and expires <= now + _LONGEST + _LEEWAY


def _verified(assertion: str, key: PyJWK) -> Mapping[str, Json] | None:
    try:
        return decode(assertion, lambda _header: key, typ=_TYP).claims
    except VerificationError:
        return None


class _Rate:
    """A token bucket: *rate* requests a second, and as many at once. It is used on one event loop."""

    def __init__(self, rate: float) -> None:
        self._rate, self._level, self._at = rate, rate, time.monotonic()

    def take(self) -> bool:
        """Take one request out of the bucket; return whether there was one."""
        now = time.monotonic()
        self._level = min(self._rate, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True
