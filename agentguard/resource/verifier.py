"""Verify one request: the token, the proof, and that they are for exactly this call.

Nothing is believed for its place: a READ token is refused at a WRITE endpoint because its key is
pinned to READ, its audience is another, and its details name another path.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from agentguard.concurrency.drive import Operation, drive, operation_pair
from agentguard.errors import ConfigurationError, VerificationError
from agentguard.jose import ALGORITHMS, Json, decode, htu, number_claim, revocation_key, token_hash
from agentguard.model import Resource, ToolPath
from agentguard.ports import Store
from agentguard.resource.claims import Claims, invalid, read_claims
from agentguard.resource.introspection import Introspection
from agentguard.resource.keys import Keys
from agentguard.resource.proof import Nonces, verify_proof

__all__ = ["Headers", "Verifier", "challenge"]

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_TYP = frozenset({"at+jwt"})
_OPAQUE = re.compile(r"[A-Za-z0-9._~+/-]{1,16384}=*")  # RFC 6750 section 2.1
_UNQUOTABLE = re.compile(r"[^ !#-\[\]-~]")  # RFC 6750 section 3: what error_description may not hold


class _Memory(NamedTuple):
    """What a verification asks of others, on one of the two paths; None where there is nobody."""

    known: Operation | None
    remember: Operation | None
    introspect: Operation | None


class Verifier:
    """Believes tokens of one issuer for one resource.

    *keys* is a JWK Set whose keys each name their ``agentguard_path`` (see `credentials.jwks`).
    *store* remembers proofs and knows revocations; ``None`` says aloud that neither is noticed here.
    With *signals*, a token of a task that a signal has ended is refused (see `signals.Revocations`),
    and so is one that names no task (`txn`).
    *introspection* asks the issuer in addition. With *nonces*, each proof must carry one. *leeway*
    and *proof_lifetime* are seconds; so is *timeout*, after which a silent store is a refusal.

    *by_audience* is for an issuer whose keys name no path: these paths are told apart by audience
    alone, of which each has its own, and the issuer is believed on no other. *opaque* takes tokens
    that are no JWT, too, and believes what the introspection, which it needs, says of them. For an
    issuer of these alone, *keys* is ``{"keys": []}``. Keys are not fetched: when they change, make a
    new verifier.

    Raises:
        ConfigurationError: A key is not a public P-256 or Ed25519 key pinned to a path, or there are
            to be signals and no store that knows them; two paths share an audience; opaque tokens
            cannot be introspected.
    """

    def __init__(
        self,
        *,
        issuer: str,
        keys: Mapping[str, Json],
        resource: Resource,
        store: Store | None,
        introspection: Introspection | None = None,
        by_audience: Iterable[ToolPath] = (),
        opaque: bool = False,
        nonces: Nonces | None = None,
        signals: bool = False,
        leeway: float = 5.0,
        proof_lifetime: float = 60.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.resource, self.nonces = resource, nonces
        self._issuer, self._signals, self._opaque = issuer, signals, opaque
        self._keys = Keys(keys, by_audience=frozenset(by_audience), resource=resource)
        if opaque and introspection is None:
            raise ConfigurationError("opaque tokens say nothing", hint="give an introspection")
        if signals and store is None:
            raise ConfigurationError("signals need a store", hint="give the verifier the receiver's store")
        self._leeway, self._proof_lifetime, self._clock = leeway, proof_lifetime, clock
        asked = (
            None if store is None else operation_pair(store, "known", timeout=timeout),
            None if store is None else operation_pair(store, "remember", timeout=timeout),
            None if introspection is None else operation_pair(introspection, "claims", timeout=timeout),
        )
        self._sync = _Memory(*(None if pair is None else pair.sync for pair in asked))
        self._async = _Memory(*(None if pair is None else pair.async_ for pair in asked))

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
        if self._opaque and token.count(".") != 2:
            claims = await self._introspected(memory, token, path, now)
        else:
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
        if (known := memory.known) is not None:
            for name in self._names(claims):
                if await _answer(known(revocation_key(claims.issuer, name))):
                    raise invalid("the token is revoked")
        if memory.introspect is not None and claims.signed and await _said(memory.introspect(token)) is None:
            raise invalid("the token is revoked")

    def _names(self, claims: Claims) -> Iterable[str]:
        if not self._signals:
            return (claims.id,)
        if claims.task_id is None:
            raise invalid("the token names no task, which no signal could end")
        return (claims.id, f"txn:{claims.task_id}")

    async def _introspected(self, memory: _Memory, token: str, path: ToolPath, now: float) -> Claims:
        """Believe the issuer's word on a token that says nothing by itself (RFC 7662 section 2.2)."""
        self._keys.require(path)
        if not _OPAQUE.fullmatch(token):
            raise invalid("the token is misspelled")
        assert memory.introspect is not None  # noqa: S101  opaque tokens need one, says the constructor
        said = await _said(memory.introspect(token))
        if said is None:
            raise invalid("the token is not active")
        # an issuer may leave out its own name, and has no other name for what has one spelling only
        named = {"iss": self._issuer, "jti": f"opaque:{token_hash(token)}", **said}
        return self._claims(named, path, now, signed=False)

    def _token(self, token: str, path: ToolPath, now: float) -> Claims:
        _, claims, _ = decode(token, lambda header: self._keys.find(header, path), typ=_TYP)
        return self._claims(claims, path, now, signed=True)

    def _claims(self, claims: Mapping[str, Json], path: ToolPath, now: float, *, signed: bool) -> Claims:
        if claims.get("iss") != self._issuer:
            raise invalid("the token is by another issuer")
        audience = self.resource.audience(path)
        if claims.get("aud") not in (audience, [audience]):
            raise invalid("the token is for another audience")
        self._timely(claims, now)
        return read_claims(claims, path, signed=signed)

    def _timely(self, claims: Mapping[str, Json], now: float) -> None:
        expires, issued = number_claim(claims, "exp"), number_claim(claims, "iat")
        begins = number_claim(claims, "nbf") if "nbf" in claims else issued
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


async def _said(question: Awaitable[object]) -> Mapping[str, Json] | None:
    try:
        said = await question
    except VerificationError:
        raise
    except Exception as error:  # whatever others raise: what is not known is refused
        raise _unavailable() from error
    if said is not None and not isinstance(said, Mapping):
        raise _unavailable()
    return said


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
