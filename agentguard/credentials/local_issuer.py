"""The embedded issuer: it mints a short-lived token for one call, without any server.

An issuer serves one path with its own key, so a READ issuer cannot sign a token that a WRITE endpoint
accepts. Its tokens are RFC 9068 `at+jwt` and bound to a `ProofKey` (RFC 9449). They name the exact
call in `authorization_details` (RFC 9396), of our type ``agentguard_tool_call``: the tool, the path,
and the digest of the arguments.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from jwt import PyJWK

from agentguard.concurrency.drive import drive, operation_pair
from agentguard.credentials.key_folder import published_jwk
from agentguard.credentials.key_ring import KeyRing
from agentguard.credentials.keyfile import load_key
from agentguard.credentials.presentation import Presentation, ProofKey
from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import Algorithm, Json, Signer, public_key, revocation_key
from agentguard.model import Credential, DeferredSecret, Grant, ToolPath
from agentguard.ports import BrokerTraits, Store

__all__ = ["LocalIssuer", "TokenSigner", "jwks", "load_key"]


class TokenSigner(Protocol):
    """Signs an issuer's tokens: a `Signer`, or an object that asks another service to sign."""

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm of the key."""

    @property
    def kid(self) -> str:
        """The thumbprint of the key."""

    @property
    def public_jwk(self) -> Mapping[str, str]:
        """The public key, which verifies the signatures."""

    def head(self, **members: Json) -> str:
        """Return the encoded header."""

    def sign(self, head: str, claims: Mapping[str, Json]) -> str:
        """Return the compact serialization, or raise IssueError."""


class _Signing(NamedTuple):
    """The key that signs now, and the encoded header of its tokens."""

    signer: TokenSigner
    head: str

    @classmethod
    def by(cls, signer: TokenSigner) -> _Signing:
        return cls(signer, signer.head(typ="at+jwt", kid=signer.kid))


class LocalIssuer:
    """A `Broker` for one path that signs its tokens itself.

    It revokes a token by an entry in *store*, which each verifier that shares the store reads. The
    entry is kept until *leeway* seconds after the token's expiry; that must not be less than a
    verifier's own leeway. Without *key* a key is generated (see `load_key`). Two issuers must not have
    the same key. With a `KeyRing`, the issuer signs with the key of the ring whose turn it is. With a
    `TransitSigner`, another service holds the key; the issuer waits for its answer, on an event loop in a
    thread.
    """

    def __init__(
        self,
        path: ToolPath,
        *,
        issuer: str,
        store: Store,
        proof_key: ProofKey | None = None,
        key: TokenSigner | KeyRing | None = None,
        leeway: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path, self.paths = path, frozenset({path})
        self.issuer = issuer
        self._ring = key if isinstance(key, KeyRing) else None
        signer = key.signer(clock()) if isinstance(key, KeyRing) else key or Signer.generate()
        self._signing = _Signing.by(signer)
        self._readers: dict[str, PyJWK] = {}
        # `issue` waits for nothing but its signer; `revoke` may wait for the store, so there is an `arevoke`
        self.inline = isinstance(signer, Signer)
        self._proofs = proof_key or ProofKey(clock=clock)
        self._leeway, self._clock = leeway, clock
        self.traits = BrokerTraits(notes_in=store)
        self._remember = operation_pair(store, "remember", shielded=True)
        self._cnf = {"jkt": self._proofs.thumbprint}

    @property
    def public_jwk(self) -> dict[str, str]:
        """The public key of the tokens that it signs now, as a JWK with the path and the algorithm."""
        return published_jwk(self.path, self._signing_at(self._clock()).signer)

    @property
    def public_jwks(self) -> list[dict[str, str]]:
        """The public keys that verify its tokens: those that have signed, that sign, and that will sign."""
        if self._ring is None:
            return [self.public_jwk]
        self._ring.signer(self._clock())
        return [published_jwk(self.path, signer) for signer in self._ring.signers]

    def verification_key(self, kid: str) -> PyJWK | None:
        """Return the public key with this `kid`, or None if it is no key of this issuer.

        A key that is not known yet is looked for in the folder, since another process may sign with it. A
        key that was removed from the folder is none any more, at the latest after `key_ring.LOOK` seconds.
        """
        if self._ring is not None:
            self._ring.signer(self._clock())  # looks at the folder, if that was long ago
            if not self._ring.has(kid):
                return None
        if kid not in self._readers:
            self._readers = {jwk["kid"]: public_key(jwk) for jwk in self.public_jwks}
        return self._readers.get(kid)

    def _signing_at(self, now: float) -> _Signing:
        if self._ring is not None and (signer := self._ring.signer(now)) is not self._signing.signer:
            self._signing = _Signing.by(signer)
        return self._signing

    def issue(self, grant: Grant) -> Credential:
        """Mint a token for exactly this call. Proofs are made later, one for each request.

        Raises:
            IssueError: The grant is for another path, its lifetime is less than one second, or the
                signer refuses.
        """
        if grant.path is not self.path:
            raise IssueError(f"the issuer of the {self.path} path does not mint for {grant.path}")
        now = self._clock()
        expiry = math.floor(grant.ends_at(now))
        if expiry <= now:
            raise IssueError("a lifetime of less than one second is over before it begins")
        sign = partial(self._signed, self._signing_at(now), grant, now)
        # where the key is here, the token is signed when the tool first wants it
        token = DeferredSecret(sign) if self.inline else sign()
        return Credential(
            token, id=grant.id, expires_at=float(expiry), headers=Presentation(token, self._proofs)
        )

    def _signed(self, signing: _Signing, grant: Grant, now: float) -> str:
        signer, head = signing
        return signer.sign(head, self._claims(grant, now))

    def _claims(self, grant: Grant, now: float) -> dict[str, Json]:
        return {
            "iss": self.issuer,
            "sub": grant.identity.subject,
            "act": grant.identity.act(),
            "client_id": grant.identity.actor,
            "aud": grant.audience,
            "scope": " ".join(sorted(grant.scopes)),
            "iat": int(now),
            "exp": math.floor(grant.ends_at(now)),
            "jti": grant.id,
            "txn": grant.task_id,
            "cnf": self._cnf,
            "authorization_details": [grant.detail()],
        }

    def revoke(self, handle: str, expires_at: float) -> None:
        """Write to the store that the token is revoked.

        Raises:
            IssueError: The store did not answer, so the token is not known to be revoked.
        """
        drive(self._revoke(self._remember.sync, handle, expires_at))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """Do the same as `revoke`, without blocking the event loop. It finishes even when cancelled."""
        await self._revoke(self._remember.async_, handle, expires_at)

    def note(self, handle: str, expires_at: float) -> tuple[str, float]:
        """Return the store's key for the revoked token, and until when the store must keep it."""
        return revocation_key(self.issuer, handle), expires_at + self._leeway

    async def _revoke(self, remember: Callable[..., Awaitable[Any]], handle: str, expires_at: float) -> None:
        try:
            await remember(*self.note(handle, expires_at))
        except Exception as error:  # whatever a store raises: the token is not known to be revoked
            raise IssueError(f"{handle} is not known to be revoked: the store did not answer") from error

    def __repr__(self) -> str:
        return f"<LocalIssuer {self.issuer} {self.path}>"


def jwks(*issuers: LocalIssuer) -> dict[str, Json]:
    """Return the JWK Set (RFC 7517 section 5) for a verifier; the member ``agentguard_path`` is our own.

    Raises:
        ConfigurationError: Two issuers share a key.
    """
    keys = [jwk for issuer in issuers for jwk in issuer.public_jwks]
    if len({key["kid"] for key in keys}) != len(keys):
        raise ConfigurationError("two issuers share a key", hint="give each path a key file of its own")
    return {"keys": keys}
