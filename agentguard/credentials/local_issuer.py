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


class LocalIssuer:
    """A `Broker` for one path that signs its tokens itself.

    It revokes a token by an entry in *store*, which each verifier that shares the store reads. The
    entry is kept until *leeway* seconds after the token's expiry; that must not be less than a
    verifier's own leeway. Without *key* a key is generated (see `load_key`). Two issuers must not have
    the same key. With a `TransitSigner`, another service holds the key; the issuer waits for its
    answer, on an event loop in a thread.
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
        # `issue` waits for nothing but its signer; `revoke` may wait for the store, so there is an `arevoke`
        self.inline = isinstance(self._signer, Signer)
        self._proofs = proof_key or ProofKey(clock=clock)
        self._leeway, self._clock = leeway, clock
        self.traits = BrokerTraits(notes_in=store)
        self._remember = operation_pair(store, "remember", shielded=True)
        self._head = self._signer.head(typ="at+jwt", kid=self._signer.kid)
        self._cnf = {"jkt": self._proofs.thumbprint}

    @property
    def public_jwk(self) -> dict[str, str]:
        """The public key that verifies its tokens, as a JWK that names the path and the algorithm."""
        return {
            **self._signer.public_jwk,
            "kid": self._signer.kid,
            "alg": self._signer.algorithm,
            "use": "sig",
            "agentguard_path": self.path.value,
        }

    def issue(self, grant: Grant) -> Credential:
        """Mint a token for exactly this call. Proofs are made later, one for each request.

        Raises:
            IssueError: The grant is for another path, its lifetime is less than one second, or the
                signer refuses.
        """
        if grant.path is not self.path:
            raise IssueError(f"the issuer of the {self.path} path does not mint for {grant.path}")
        now = self._clock()
        claims = self._claims(grant, now)
        if claims["exp"] <= now:
            raise IssueError("a lifetime of less than one second is over before it begins")
        token: str | DeferredSecret
        if self.inline:  # the key is here: the token is signed when the tool first wants it
            token = DeferredSecret(partial(self._signer.sign, self._head, claims))
        else:
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
    keys = [issuer.public_jwk for issuer in issuers]
    if len({key["kid"] for key in keys}) != len(keys):
        raise ConfigurationError("two issuers share a key", hint="give each path a key file of its own")
    return {"keys": keys}


def load_key(path: str | Path, algorithm: Algorithm = "ES256") -> Signer:
    """Read a private key in PEM. If there is no file, make one that only this user can read (mode 0600).

    A new key is for *algorithm*; an existing file keeps its own algorithm. Processes that start at the
    same moment read the same key.

    Raises:
        ConfigurationError: Other users may read the file, it cannot be read or made, or it does not
            hold an unencrypted P-256 or Ed25519 key.
    """
    pem = read_or_make(path, lambda: _new_pem(algorithm))
    try:
        key = load_pem_private_key(pem, password=None)
        if isinstance(key, PrivateKey):
            return Signer(key)
    except (ValueError, TypeError):
        pass
    raise ConfigurationError(
        "not an unencrypted P-256 or Ed25519 private key in PEM",
        hint="remove the file, and a new one is made",
        file=path,
    )


def _new_pem(algorithm: Algorithm) -> bytes:
    key: PrivateKey = (
        Ed25519PrivateKey.generate() if algorithm == "EdDSA" else ec.generate_private_key(ec.SECP256R1())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
