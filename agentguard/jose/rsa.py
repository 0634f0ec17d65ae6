"""An RSA key that signs security event tokens, for receivers that know RS256 alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from pydantic_core import to_json

from agentguard.jose.encoding import Json, b64url, encode
from agentguard.jose.keys import set_key, thumbprint

__all__ = ["RSA_BITS", "RsaSigner"]

RSA_BITS: Final = 3072  # of a new key: as strong as P-256 (NIST SP 800-57 part 1, table 2)


class RsaSigner:
    """An RS256 private key (RFC 7518 section 3.3). It signs, and cannot be read back.

    It is for security event tokens alone: no `resource.Verifier` believes what it signs.

    Raises:
        ValueError: The key has fewer than 2,048 or more than 8,192 bits, or another exponent than 65537.
    """

    __slots__ = ("__key", "algorithm", "kid", "public_jwk")

    def __init__(self, key: RSAPrivateKey) -> None:
        self.__key = key
        numbers = key.public_key().public_numbers()
        self.public_jwk: Mapping[str, str] = {
            "kty": "RSA",
            "n": b64url(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")),
            "e": b64url(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")),
        }
        set_key(self.public_jwk)  # our own receiver would refuse any other
        self.algorithm: Final = "RS256"
        self.kid = thumbprint(self.public_jwk)

    @classmethod
    def generate(cls) -> RsaSigner:
        """Return a signer with a new key of 3,072 bits."""
        return cls(generate_private_key(65537, RSA_BITS))

    def head(self, **members: Json) -> str:
        """Return the encoded header, for each `sign`."""
        return b64url(encode({"alg": self.algorithm, **members}).encode())

    def sign(self, head: str, claims: Mapping[str, Json]) -> str:
        """Return the compact serialization."""
        message = f"{head}.{b64url(to_json(claims))}"
        return f"{message}.{b64url(self.__key.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def __repr__(self) -> str:
        return f"<RsaSigner {self.kid}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a private key cannot be pickled or copied")
