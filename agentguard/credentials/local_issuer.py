"""The embedded issuer: mints a short token for one call, with no server at all.

One issuer serves one path with a key of its own, so that a READ issuer cannot sign what a WRITE
endpoint believes. Its tokens are RFC 9068 `at+jwt`, bound to a `ProofKey` (RFC 9449), and carry
the exact call in `authorization_details` (RFC 9396) of the type ``agentguard_tool_call``, which is
ours: tool, path, and the digest of its arguments.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agentguard.concurrency.drive import drive, operation_pair
from agentguard.credentials.keyfile import read_or_make
from agentguard.credentials.presentation import Presentation, ProofKey
from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import Algorithm, Json, PrivateKey, Signer, revocation_key
from agentguard.model import Credential, Grant, ToolPath
from agentguard.ports import Store

__all__ = ["LocalIssuer", "TokenSigner", "jwks", "load_key"]


class TokenSigner(Protocol):
    """What signs an issuer's tokens: a `Signer`, or one that asks whoever holds the key."""

    @property
    def algorithm(self) -> Algorithm:
        """The one algorithm of its key."""

    @property
    def kid(self) -> str:
        """The thumbprint of its key."""

    @property
    def public_jwk(self) -> Mapping[str, str]:
        """What verifies its signatures."""

    def head(self, **members: Json) -> str:
        """Return the encoded header."""

    def sign(self, head: str, claims: Mapping[str, Json]) -> str:
        """Return the compact serialization; raises IssueError where it cannot be had."""


class LocalIssuer:
    """A `Broker` for one path that signs its tokens itself.

    Revocation is a note in *store*, which each verifier that shares the store reads; it is kept for
    *leeway* seconds beyond the token's end, which must not be less than a verifier's own leeway.
    *key* is generated unless given (see `load_key`): never give two issuers the same. One that is
    held elsewhere, a `TransitSigner`, is waited for, on an event loop in a thread.
    """

    def __init__(
        self,
        path: ToolPath,
        *,
        issuer: str,
        store: Store,
        proof_key: ProofKey | None = None,
        key: TokenSigner | None = None,
        leeway: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path, self.paths = path, frozenset({path})
        self.issuer = issuer
        self._signer: TokenSigner = key or Signer.generate()
        # issuing waits for its signer at most; revoking may wait, and has its own `arevoke`
        self.inline = isinstance(self._signer, Signer)
        self._proofs = proof_key or ProofKey(clock=clock)
        self._leeway, self._clock = leeway, clock
        self.store, self._remember = store, operation_pair(store, "remember", shielded=True)
        self._head = self._signer.head(typ="at+jwt", kid=self._signer.kid)
        self._cnf = {"jkt": self._proofs.thumbprint}

    @property
    def public_jwk(self) -> dict[str, str]:
        """The key that verifies its tokens, pinned to its path and algorithm."""
        return {
            **self._signer.public_jwk,
            "kid": self._signer.kid,
            "alg": self._signer.algorithm,
            "use": "sig",
            "agentguard_path": self.path.value,
        }

    def issue(self, grant: Grant) -> Credential:
        """Mint a token for exactly this call; no proof is made before a request is sent.

        Raises:
            IssueError: The grant is for another path, its lifetime is below one second, or the signer
                refuses.
        """
        if grant.path is not self.path:
            raise IssueError(f"the issuer of the {self.path} path does not mint for {grant.path}")
        now = self._clock()
        claims = self._claims(grant, now)
        if claims["exp"] <= now:
            raise IssueError("a lifetime of less than one second is over before it begins")
        token = self._signer.sign(self._head, claims)
        return Credential(
            token, id=grant.id, expires_at=float(claims["exp"]), headers=Presentation(token, self._proofs)
        )

    def _claims(self, grant: Grant, now: float) -> dict[str, Json]:
        return {
            "iss": self.issuer,
            "sub": grant.identity.subject,
            "act": grant.identity.act(),
            "client_id": grant.identity.actor,
            "aud": grant.audience,
            "scope": " ".join(sorted(grant.scopes)),
            "iat": int(now),
            "exp": math.floor(now + grant.lifetime),
            "jti": grant.id,
            "txn": grant.task_id,
            "cnf": self._cnf,
            "authorization_details": [grant.detail()],
        }

    def revoke(self, handle: str, expires_at: float) -> None:
        """Note the token as revoked.

        Raises:
            IssueError: The store did not answer, so it is not known to be revoked.
        """
        drive(self._revoke(self._remember.sync, handle, expires_at))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """As `revoke`, without blocking the event loop; finishes even when cancelled."""
        await self._revoke(self._remember.async_, handle, expires_at)

    def note(self, handle: str, expires_at: float) -> tuple[str, float]:
        """Return what the store is to remember for the token to be revoked, and until when."""
        return revocation_key(self.issuer, handle), expires_at + self._leeway

    async def _revoke(self, remember: Callable[..., Awaitable[Any]], handle: str, expires_at: float) -> None:
        try:
            await remember(*self.note(handle, expires_at))
        except Exception as error:  # whatever a store raises: it is not known to be revoked
            raise IssueError(f"{handle} is not known to be revoked: the store did not answer") from error

    def __repr__(self) -> str:
        return f"<LocalIssuer {self.issuer} {self.path}>"


def jwks(*issuers: LocalIssuer) -> dict[str, Json]:
    """Return the JWK Set (RFC 7517 section 5) for a verifier; ``agentguard_path`` is our member.

    Raises:
        ConfigurationError: Two issuers share a key.
    """
    keys = [issuer.public_jwk for issuer in issuers]
    if len({key["kid"] for key in keys}) != len(keys):
        raise ConfigurationError("two issuers share a key", hint="give each path a key file of its own")
    return {"keys": keys}


def load_key(path: str | Path, algorithm: Algorithm = "ES256") -> Signer:
    """Read a PEM private key, or make one for this user alone (mode 0600) if the file is absent.

    *algorithm* says what to make; an existing file decides for itself. Processes that start at the
    same moment read the same key.

    Raises:
        ConfigurationError: Others may read the file, it cannot be read or made, or holds no
            unencrypted P-256 or Ed25519 key.
    """
    pem = read_or_make(path, lambda: _generated(algorithm))
    try:
        key = load_pem_private_key(pem, password=None)
        if isinstance(key, PrivateKey):
            return Signer(key)
    except (ValueError, TypeError):
        pass
    raise ConfigurationError(
        "not an unencrypted P-256 or Ed25519 private key in PEM",
        hint="remove the file to have one made",
        file=path,
    )


def _generated(algorithm: Algorithm) -> bytes:
    key: PrivateKey = (
        Ed25519PrivateKey.generate() if algorithm == "EdDSA" else ec.generate_private_key(ec.SECP256R1())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
