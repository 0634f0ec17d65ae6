"""Verify one request: the token, the proof, and that they are for exactly this call.

Nothing is believed for its place: a READ token is refused at a WRITE endpoint because its key is
pinned to READ, its audience is another, and its details name another path.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from jwt import PyJWK

from agentguard._drive import Asked, drive, twins
from agentguard.errors import ConfigurationError, VerificationError
from agentguard.jose import ALGORITHMS, Json, decode, htu, public_key, revocation_key
from agentguard.model import Resource, ToolPath
from agentguard.ports import Store
from agentguard.resource.claims import Claims, invalid, number, read_claims
from agentguard.resource.introspection import Introspection
from agentguard.resource.proof import Nonces, verify_proof

__all__ = ["Headers", "Verifier", "challenge"]

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_TYP = frozenset({"at+jwt"})
_UNQUOTABLE = re.compile(r"[^ !#-\[\]-~]")  # RFC 6750 section 3: what error_description may not hold


class _Memory(NamedTuple):
    """What a verification asks of others, on one of the two paths; None where there is nobody."""

    known: Asked | None
    remember: Asked | None
    active: Asked | None


class Verifier:
    """Believes tokens of one issuer for one resource.

    *keys* is a JWK Set whose keys each name their ``agentguard_path`` (see `credentials.jwks`).
    *store* remembers proofs and knows revocations; ``None`` says aloud that neither is noticed here.
    *introspection* asks the issuer in addition. With *nonces*, each proof must carry one. *leeway*
    and *proof_lifetime* are seconds; so is *timeout*, after which a silent store is a refusal.

    Raises:
        ConfigurationError: A key is not a public P-256 or Ed25519 key pinned to a path.
    """

    def __init__(
        self,
        *,
        issuer: str,
        keys: Mapping[str, Json],
        resource: Resource,
        store: Store | None,
        introspection: Introspection | None = None,
        nonces: Nonces | None = None,
        leeway: float = 5.0,
        proof_lifetime: float = 60.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.resource, self.nonces = resource, nonces
        self._issuer, self._keys = issuer, _pinned(keys)
        self._leeway, self._proof_lifetime, self._clock = leeway, proof_lifetime, clock
        asked = (
            None if store is None else twins(store, "known", timeout=timeout),
            None if store is None else twins(store, "remember", timeout=timeout),
            None if introspection is None else twins(introspection, "active", timeout=timeout),
        )
        self._sync = _Memory(*(None if pair is None else pair.sync for pair in asked))
        self._async = _Memory(*(None if pair is None else pair.asynchronous for pair in asked))

    def verify(
        self,
        method: str,
        url: str,
        headers: Headers,
        *,
        path: ToolPath,
        scope: str | None = None,
        tool: str | None = None,
        arguments: Mapping[str, Json] | None = None,
    ) -> Claims:
        """Verify a request to *url*, absolute as its client knows it, at an endpoint on *path*.

        Where *arguments* are given, the token is for a call with exactly these.

        Raises:
            VerificationError: With the code and the status of the answer; see `challenge`.
        """
        call = (path, scope, tool, arguments)
        return drive(self._verify(self._sync, method, url, headers, call))

    async def averify(
        self,
        method: str,
        url: str,
        headers: Headers,
        *,
        path: ToolPath,
        scope: str | None = None,
        tool: str | None = None,
        arguments: Mapping[str, Json] | None = None,
    ) -> Claims:
        """As `verify`, without blocking the event loop."""
        call = (path, scope, tool, arguments)
        return await self._verify(self._async, method, url, headers, call)

    async def _verify(
        self,
        memory: _Memory,
        method: str,
        url: str,
        headers: Headers,
        call: tuple[ToolPath, str | None, str | None, Mapping[str, Json] | None],
    ) -> Claims:
        path, scope, tool, arguments = call
        token, proof = _presented(headers)
        now = self._clock()
        claims = self._token(token, path, now)
        jti = verify_proof(
            proof,
            method=method,
            url=_absolute(url),
            token=token,
            bound_to=claims.thumbprint,
            now=now,
            lifetime=self._proof_lifetime,
            leeway=self._leeway,
            nonces=self.nonces,
        )
        claims.require(scope=scope, tool=tool, arguments=arguments)
        await self._living(memory, token, claims)
        if memory.remember is not None:
            until = now + self._proof_lifetime + 2 * self._leeway + 1
            if not await _answer(memory.remember(f"dpop:{claims.thumbprint}:{jti}", until)):
                raise VerificationError("invalid_dpop_proof", "the proof was used before")
        return claims

    async def _living(self, memory: _Memory, token: str, claims: Claims) -> None:
        revoked = memory.known is not None and await _answer(
            memory.known(revocation_key(claims.issuer, claims.id))
        )
        if revoked or (memory.active is not None and not await _answer(memory.active(token))):
            raise invalid("the token is revoked")

    def _token(self, token: str, path: ToolPath, now: float) -> Claims:
        def key(header: Mapping[str, Json]) -> PyJWK:
            kid = header.get("kid")
            pinned = self._keys.get(kid) if isinstance(kid, str) else None
            if pinned is None or pinned[0] is not path:
                raise invalid("the token is not by a key of this endpoint")
            return pinned[1]

        _, claims, _ = decode(token, key, typ=_TYP)
        if claims.get("iss") != self._issuer:
            raise invalid("the token is by another issuer")
        audience = self.resource.audience(path)
        if claims.get("aud") not in (audience, [audience]):
            raise invalid("the token is for another audience")
        self._timely(claims, now)
        return read_claims(claims, path)

    def _timely(self, claims: Mapping[str, Json], now: float) -> None:
        expires, issued = number(claims, "exp"), number(claims, "iat")
        begins = number(claims, "nbf") if "nbf" in claims else issued
        if expires is None or issued is None or begins is None:
            raise invalid("the token lacks a valid exp, iat or nbf")
        if now >= expires + self._leeway:
            raise invalid("the token has expired")
        if max(issued, begins) > now + self._leeway:
            raise invalid("the token is not valid yet")


def _presented(headers: Headers) -> tuple[str, str]:
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    authorizations = [value for name, value in pairs if name.lower() == "authorization"]
    proofs = [value for name, value in pairs if name.lower() == "dpop"]
    if len(authorizations) > 1:
        raise VerificationError("invalid_request", "more than one Authorization header", status=400)
    scheme, _, token = (authorizations or [""])[0].partition(" ")
    if scheme.lower() == "bearer":  # RFC 9449 section 7.2: a bound token is no bearer token
        raise invalid("the token is bound to a key: use the DPoP scheme")
    if scheme.lower() != "dpop":
        raise VerificationError("", "no credential was presented")
    if len(proofs) != 1:
        raise VerificationError("invalid_dpop_proof", "there must be exactly one DPoP header")
    return token, proofs[0]


def _absolute(url: str) -> str:
    try:
        return htu(url)
    except ValueError:
        raise VerificationError("invalid_request", "the URL cannot be proven", status=400) from None


async def _answer(question: Awaitable[object]) -> bool:
    try:
        answer = await question
    except VerificationError:
        raise
    except Exception as error:  # whatever others raise: what is not known is refused
        raise _unavailable() from error
    if not isinstance(answer, bool):
        raise _unavailable()
    return answer


def _pinned(keys: Mapping[str, Json]) -> dict[str, tuple[ToolPath, PyJWK]]:
    pinned: dict[str, tuple[ToolPath, PyJWK]] = {}
    for jwk in keys.get("keys", ()):
        try:
            kid, path, key = str(jwk["kid"]), ToolPath(jwk["agentguard_path"]), public_key(jwk)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the key set holds an unusable key: {error}",
                mend="each key needs kid, agentguard_path, and a public P-256 or Ed25519 key",
            ) from None
        if kid in pinned:
            raise ConfigurationError(f"two keys have the kid {kid}", mend="give each path its own key")
        pinned[kid] = (path, key)
    return pinned


def challenge(
    error: VerificationError, *, scope: str | None = None, nonce: str | None = None
) -> dict[str, str]:
    """Return the headers of a refusal (RFC 6750 section 3, RFC 9449 section 7.1 and 9)."""
    if error.status >= 500:
        return {}
    fields = {"error": error.error, "error_description": error.description} if error.error else {}
    if scope is not None and error.error == "insufficient_scope":
        fields["scope"] = scope
    fields["algs"] = " ".join(ALGORITHMS)
    quoted = ", ".join(f'{name}="{_UNQUOTABLE.sub("?", value)}"' for name, value in fields.items())
    headers = {"WWW-Authenticate": f"DPoP {quoted}"}
    return headers if nonce is None else {**headers, "DPoP-Nonce": nonce}


def _unavailable() -> VerificationError:
    return VerificationError("temporarily_unavailable", "the state of the token is unknown", status=503)
