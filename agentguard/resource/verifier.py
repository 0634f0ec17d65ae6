"""Verify one request: the token, the proof, and that both are for exactly this call.

Three checks keep the paths apart. A READ token is refused at a WRITE endpoint because its key is valid for
READ only, because it has another audience, and because its details name another path.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agentguard.concurrency.drive import Operation, drive, operation_pair
from agentguard.errors import ConfigurationError, VerificationError
from agentguard.jose import Json, decode, number_claim, revocation_key, token_hash
from agentguard.jose.key_source import KeySource
from agentguard.model import Resource, ToolPath
from agentguard.ports import Store
from agentguard.resource.claims import Claims, Issuer, invalid, read_claims
from agentguard.resource.headers import Headers, absolute_url, token_and_proof
from agentguard.resource.introspection import Introspection
from agentguard.resource.keys import Keys, TrustedKeys
from agentguard.resource.proof import Nonces, verify_proof

__all__ = ["Limits", "Verifier"]

log = logging.getLogger("agentguard")

_TYP = frozenset({"at+jwt"})
_OPAQUE = re.compile(r"[A-Za-z0-9._~+/-]{1,16384}=*")  # RFC 6750 section 2.1

_UNBOUND = (
    "tokens of %s are bound to no call: at the resource %s, one token is good for every tool and all "
    "arguments of its path and its scopes"
)


class _Operations(NamedTuple):
    """The operations of what a verifier asks, all sync or all async; None for what it does not ask."""

    is_known: Operation | None
    remember: Operation | None
    introspect: Operation | None
    load_keys: Operation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The seconds that a verifier allows.

    `leeway` is for clocks that differ, `proof_lifetime` for the age of a proof, and `timeout` for an answer
    of the store or of the introspection.
    """

    leeway: float = 5.0
    proof_lifetime: float = 60.0
    timeout: float = 5.0


DEFAULT_LIMITS = Limits()


class Verifier:
    """Verifies requests whose tokens one issuer made for one resource.

    *keys* is a JWK Set in which each key names its ``agentguard_path`` (see `credentials.jwks`), or where it
    is: the path of a file, an https URL of the set or of the issuer's discovery document, or a `KeySource`,
    which says when it is read again. A set that is passed as a mapping stays as it is.

    *store* remembers proofs and knows which tokens are revoked. An API that shares no store with the guard
    passes a `MemoryStore` for the proofs and an *introspection* for the revocations: then a proof can be
    replayed at another process of the API, within the seconds in which a proof is accepted, for the one call
    of its token and while the token lives. With ``None``, a replayed proof is accepted at this process too,
    and without *introspection* a revoked token. A store that is late causes a refusal.

    With *signals*, it refuses a token of a task that a signal has ended (see `signals.Revocations`), and a
    token that names no task (`txn`). *introspection* also asks the issuer about each token. With
    *nonces*, each proof must have one.

    *by_audience* is for an issuer whose keys name no path. It lists the paths that are told apart by the
    audience alone; each needs its own audience, and the issuer's tokens are accepted on no other path.
    *issuer* is the issuer's identifier, or an `Issuer` that says what its tokens lack.
    For an issuer of opaque tokens only, *keys* is ``{"keys": []}``, and the introspection says that it is for
    opaque tokens.

    Raises:
        ConfigurationError: A key is not a public P-256 or Ed25519 key of one path; *signals* without a
            store; two paths share an audience; the URL of the keys is not https.
    """

    def __init__(
        self,
        *,
        issuer: str | Issuer,
        keys: Mapping[str, Json] | str | Path | KeySource,
        resource: Resource,
        store: Store | None,
        introspection: Introspection | None = None,
        by_audience: Iterable[ToolPath] = (),
        nonces: Nonces | None = None,
        signals: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.resource, self.nonces = resource, nonces
        self._issuer = issuer = Issuer(issuer) if isinstance(issuer, str) else issuer
        self._signals = signals
        if not issuer.binds_calls:
            log.warning(_UNBOUND, issuer.name, resource.name)
        self._opaque = introspection is not None and introspection.opaque
        self._keys = TrustedKeys(keys, issuer=issuer.name, by_audience=by_audience, resource=resource)
        if signals and store is None:
            raise ConfigurationError("signals need a store", hint="give the verifier the receiver's store")
        self._leeway, self._proof_lifetime, self._clock = limits.leeway, limits.proof_lifetime, clock
        timeout = limits.timeout
        pairs = (
            None if store is None else operation_pair(store, "known", timeout=timeout),
            None if store is None else operation_pair(store, "remember", timeout=timeout),
            None if introspection is None else operation_pair(introspection, "claims", timeout=timeout),
            None if self._keys.source is None else self._keys.source.load,
        )
        self._sync = _Operations(*(None if pair is None else pair.sync for pair in pairs))
        self._async = _Operations(*(None if pair is None else pair.async_ for pair in pairs))

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
        """Verify a request at an endpoint on *path*. *url* is the absolute URL that the client used.

        If *scope*, *tool* or *arguments* are given, the token must be for exactly these.

        Raises:
            VerificationError: The request is refused; it has the code and status for the response (see
                `challenge`).
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
        """Do as `verify`, without blocking the event loop."""
        call = (path, scope, tool, arguments)
        return await self._verify(self._async, method, url, headers, call)

    async def _verify(
        self,
        operations: _Operations,
        method: str,
        url: str,
        headers: Headers,
        call: tuple[ToolPath, str | None, str | None, Mapping[str, Json] | None],
    ) -> Claims:
        path, scope, tool, arguments = call
        token, proof = token_and_proof(headers)
        now = self._clock()
        if self._opaque and token.count(".") != 2:
            claims = await self._opaque_claims(operations, token, path, now)
        else:
            claims = await self._signed_claims(operations, token, path, now)
        jti = verify_proof(
            proof,
            method=method,
            url=absolute_url(url),
            token=token,
            bound_to=claims.thumbprint,
            now=now,
            lifetime=self._proof_lifetime,
            leeway=self._leeway,
            nonces=self.nonces,
        )
        claims.require(scope=scope, tool=tool, arguments=arguments)
        await self._check_revocation(operations, token, claims)
        if operations.remember is not None:
            until = now + self._proof_lifetime + 2 * self._leeway + 1
            if not await _yes_or_no(operations.remember(f"dpop:{claims.thumbprint}:{jti}", until)):
                raise VerificationError("invalid_dpop_proof", "the proof was used before")
        return claims

    async def _check_revocation(self, operations: _Operations, token: str, claims: Claims) -> None:
        if (is_known := operations.is_known) is not None:
            for id_ in self._revocable_ids(claims):
                if await _yes_or_no(is_known(revocation_key(claims.issuer, id_))):
                    raise invalid("the token is revoked")
        if operations.introspect is None or not claims.signed:  # an unsigned token was just introspected
            return
        if await _introspection(operations.introspect(token)) is None:
            raise invalid("the token is revoked")

    def _revocable_ids(self, claims: Claims) -> Iterable[str]:
        if not self._signals:
            return (claims.id,)
        if claims.task_id is None:
            raise invalid("the token names no task, so no signal could end it")
        return (claims.id, f"txn:{claims.task_id}")

    async def _opaque_claims(self, operations: _Operations, token: str, path: ToolPath, now: float) -> Claims:
        """Return what the issuer says about a token that is not a JWT (RFC 7662 section 2.2)."""
        self._keys.require(path)
        if not _OPAQUE.fullmatch(token):
            raise invalid("the token is misspelled")
        assert operations.introspect is not None  # noqa: S101  the constructor requires one for opaque tokens
        answer = await _introspection(operations.introspect(token))
        if answer is None:
            raise invalid("the token is not active")
        # an issuer may leave out iss and jti; an opaque token has one spelling, so its hash is its id
        claims = {"iss": self._issuer.name, "jti": f"opaque:{token_hash(token)}", **answer}
        return self._claims(claims, path, now, signed=False)

    async def _signed_claims(self, operations: _Operations, token: str, path: ToolPath, now: float) -> Claims:
        self._keys.require(path)

        def verify(keys: Keys) -> Mapping[str, Json]:
            return decode(token, lambda header: keys.find(header, path), typ=_TYP).claims

        return self._claims(await self._keys.verify(operations.load_keys, verify), path, now, signed=True)

    def _claims(self, claims: Mapping[str, Json], path: ToolPath, now: float, *, signed: bool) -> Claims:
        if claims.get("iss") != self._issuer.name:
            raise invalid("the token is of another issuer")
        audience = self.resource.audience(path)
        if claims.get("aud") not in (audience, [audience]):
            raise invalid("the token is for another audience")
        self._check_times(claims, now)
        return read_claims(claims, path, issuer=self._issuer, signed=signed)

    def _check_times(self, claims: Mapping[str, Json], now: float) -> None:
        expires, issued = number_claim(claims, "exp"), number_claim(claims, "iat")
        begins = number_claim(claims, "nbf") if "nbf" in claims else issued
        if expires is None or issued is None or begins is None:
            raise invalid("the token lacks a valid exp, iat or nbf")
        if now >= expires + self._leeway:
            raise invalid("the token has expired")
        if max(issued, begins) > now + self._leeway:
            raise invalid("the token is not valid yet")


async def _answer(operation: Awaitable[object]) -> object:
    try:
        return await operation
    except VerificationError:
        raise
    except Exception as error:  # whatever the store or the introspection raises, the state is unknown
        raise _unavailable() from error


async def _yes_or_no(operation: Awaitable[object]) -> bool:
    answer = await _answer(operation)
    if not isinstance(answer, bool):
        raise _unavailable()
    return answer


async def _introspection(operation: Awaitable[object]) -> Mapping[str, Json] | None:
    answer = await _answer(operation)
    if answer is not None and not isinstance(answer, Mapping):
        raise _unavailable()
    return answer


def _unavailable() -> VerificationError:
    return VerificationError("temporarily_unavailable", "the state of the token is unknown", status=503)
