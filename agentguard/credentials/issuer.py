"""The embedded issuer: mints a short token for one call, with no server at all.

One issuer serves one path with a key of its own, so that a READ issuer cannot sign what a WRITE
endpoint believes. Its tokens are RFC 9068 `at+jwt`, bound to a `ProofKey` (RFC 9449), and carry
the exact call in `authorization_details` (RFC 9396) of the type ``agentguard_tool_call``, which is
ours: tool, path, and the digest of its arguments.
"""

from __future__ import annotations

import math
import os
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agentguard._drive import drive, twins
from agentguard.credentials.dpop import ProofKey
from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import Algorithm, Json, PrivateKey, Signer, revocation_key, token_hash
from agentguard.model import Credential, Grant, ToolPath
from agentguard.ports import Store

__all__ = ["LocalIssuer", "jwks", "load_key"]


class LocalIssuer:
    """A `Broker` for one path that signs its tokens itself.

    Revocation is a note in *store*, which each verifier that shares the store reads; it is kept for
    *leeway* seconds beyond the token's end, which must not be less than a verifier's own leeway.
    *key* is generated unless given (see `load_key`): never give two issuers the same.
    """

    inline = True  # issuing waits for nothing; revoking may, and has its own `arevoke`

    def __init__(
        self,
        path: ToolPath,
        *,
        issuer: str,
        store: Store,
        proof_key: ProofKey | None = None,
        key: Signer | None = None,
        leeway: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path, self.paths = path, frozenset({path})
        self.issuer = issuer
        self._signer = key or Signer.generate()
        self._proofs = proof_key or ProofKey(clock=clock)
        self._leeway, self._clock = leeway, clock
        self._remember = twins(store, "remember", settled=True)
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
            IssueError: The grant is for another path, or its lifetime is below one second.
        """
        if grant.path is not self.path:
            raise IssueError(f"the issuer of the {self.path} path does not mint for {grant.path}")
        now = self._clock()
        claims = self._claims(grant, now)
        if claims["exp"] <= now:
            raise IssueError("a lifetime of less than one second is over before it begins")
        token = self._signer.sign(self._head, claims)
        return Credential(
            token, id=grant.id, expires_at=float(claims["exp"]), headers=_Presentation(token, self._proofs)
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
        await self._revoke(self._remember.asynchronous, handle, expires_at)

    async def _revoke(self, remember: Callable[..., Awaitable[Any]], handle: str, expires_at: float) -> None:
        try:
            await remember(revocation_key(self.issuer, handle), expires_at + self._leeway)
        except Exception as error:  # whatever a store raises: it is not known to be revoked
            raise IssueError(f"{handle} is not known to be revoked: the store did not answer") from error

    def __repr__(self) -> str:
        return f"<LocalIssuer {self.issuer} {self.path}>"


class _Presentation:
    """Presents one token, each time with a new proof; a frame of it that fails holds no token."""

    __slots__ = ("__proofs", "__token")

    def __init__(self, token: str, proofs: ProofKey) -> None:
        self.__token, self.__proofs = token, proofs

    def __call__(self, method: str, url: str, nonce: str | None) -> Mapping[str, str]:
        proof = self.__proofs.proof(method, url, ath=token_hash(self.__token), nonce=nonce)
        return {"Authorization": f"DPoP {self.__token}", "DPoP": proof}

    def __repr__(self) -> str:
        return "<presentation redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a presentation cannot be pickled or copied")


def jwks(*issuers: LocalIssuer) -> dict[str, Json]:
    """Return the JWK Set (RFC 7517 section 5) for a verifier; ``agentguard_path`` is our member.

    Raises:
        ConfigurationError: Two issuers share a key.
    """
    keys = [issuer.public_jwk for issuer in issuers]
    if len({key["kid"] for key in keys}) != len(keys):
        raise ConfigurationError("two issuers share a key", mend="give each path a key file of its own")
    return {"keys": keys}


def load_key(path: str | Path, algorithm: Algorithm = "ES256") -> Signer:
    """Read a PEM private key, or make one for this user alone (mode 0600) if the file is absent.

    *algorithm* says what to make; an existing file decides for itself. Processes that start at the
    same moment read the same key.

    Raises:
        ConfigurationError: Others may read the file, it cannot be read or made, or holds no
            unencrypted P-256 or Ed25519 key.
    """
    file = Path(path)
    try:
        if not file.exists():
            _create(file, algorithm)
        return _read(file)
    except OSError as error:
        raise ConfigurationError(
            f"the key cannot be read or made: {error.strerror}", mend="check the directory", file=file
        ) from error


def _create(file: Path, algorithm: Algorithm) -> None:
    key: PrivateKey = (
        Ed25519PrivateKey.generate() if algorithm == "EdDSA" else ec.generate_private_key(ec.SECP256R1())
    )
    # mkstemp opens with O_EXCL and mode 0600; the link appears whole, or not if another was first
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        os.unlink(temporary)


def _read(file: Path) -> Signer:
    with file.open("rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigurationError("others may read this private key", mend=f"chmod 600 {file}", file=file)
        pem = stream.read()
    try:
        key = load_pem_private_key(pem, password=None)
        if isinstance(key, PrivateKey):
            return Signer(key)
    except (ValueError, TypeError):
        pass
    raise ConfigurationError(
        "not an unencrypted P-256 or Ed25519 private key in PEM",
        mend="remove the file to have one made",
        file=file,
    )
