"""A signer whose key stays in the transit secrets engine of OpenBao or Vault."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic_core import to_json

from agentguard.concurrency.drive import drive
from agentguard.credentials.openbao.session import OpenBaoOperations, OpenBaoSession
from agentguard.errors import IssueError
from agentguard.jose import Algorithm, b64url, public_jwk, thumbprint, unb64url

__all__ = ["TransitSigner"]

_SIGNATURE = 64


class TransitSigner:
    """Signs with ES256, like a `jose.Signer`, but OpenBao makes the signature: Python never holds the key.

    Make one with `load` or `aload`. Each signature costs one request, sent with the session's shared
    login. A signer keeps the key version that was the newest when it was loaded. After a rotation,
    load it again, and publish both public keys while tokens of the older key live. The role's policy
    needs ``read`` of ``<mount>/keys/<name>`` and ``update`` of ``<mount>/sign/<name>``, and no more.
    """

    algorithm: Algorithm = "ES256"

    def __init__(
        self, session: OpenBaoSession, name: str, *, mount: str, version: int, public_jwk: Mapping[str, str]
    ) -> None:
        self._session, self._name, self._mount, self._version = session, name, mount, version
        self.public_jwk = public_jwk
        self.kid = thumbprint(public_jwk)

    @classmethod
    def load(cls, session: OpenBaoSession, name: str, *, mount: str = "transit") -> Self:
        """Read the public part of the key *name*, of type ``ecdsa-p256``.

        Raises:
            IssueError: The key cannot be read, or is of another type.
        """
        return drive(cls._load(session, name, mount, session.sync))

    @classmethod
    async def aload(cls, session: OpenBaoSession, name: str, *, mount: str = "transit") -> Self:
        """Do the same as `load`, without blocking the event loop."""
        return await cls._load(session, name, mount, session.async_)

    @classmethod
    async def _load(
        cls, session: OpenBaoSession, name: str, mount: str, operations: OpenBaoOperations
    ) -> Self:
        match (await operations.request("GET", f"{mount}/keys/{name}", repeatable=True)).get("data"):
            case {"type": "ecdsa-p256", "latest_version": int(version), "keys": dict(keys)}:
                jwk = _jwk(keys.get(str(version)))
                if jwk is not None:
                    return cls(session, name, mount=mount, version=version, public_jwk=jwk)
        raise IssueError(f"{session.name}: {mount}/keys/{name} is no key of type ecdsa-p256")

    def head(self, **members: Any) -> str:
        """Return the encoded header, to be made once and given to each `sign`."""
        return b64url(to_json({"alg": self.algorithm, **members}))

    def sign(self, head: str, claims: Mapping[str, Any]) -> str:
        """Return the compact serialization. This blocks while OpenBao signs: do not call it on an event loop.

        Raises:
            IssueError: OpenBao did not sign, or signed with another version of the key.
        """
        message, path = f"{head}.{b64url(to_json(claims))}", f"{self._mount}/sign/{self._name}"
        body = {
            "input": b64encode(message.encode()).decode(),
            "marshaling_algorithm": "jws",
            "hash_algorithm": "sha2-256",
            "key_version": self._version,
        }
        answer = drive(self._session.sync.request("POST", path, json=body, repeatable=True))
        match answer.get("data"):
            case {"signature": str(text)}:
                version, _, signature = text.rpartition(":")
                if version == f"vault:v{self._version}" and _is_signature(signature):
                    return f"{message}.{signature}"
        raise IssueError(f"{self._session.name}: {path} gave no signature")

    def __repr__(self) -> str:
        return f"<TransitSigner {self._mount}/{self._name} v{self._version} {self.kid}>"


def _jwk(key: object) -> dict[str, str] | None:
    match key:
        case {"public_key": str(pem)}:
            pass
        case _:
            return None
    try:
        public = load_pem_public_key(pem.encode())
        return public_jwk(public) if isinstance(public, ec.EllipticCurvePublicKey) else None
    except ValueError:  # not a key in PEM, or on another curve
        return None


def _is_signature(text: str) -> bool:
    try:
        return len(unb64url(text)) == _SIGNATURE
    except ValueError:
        return False
