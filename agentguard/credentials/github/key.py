"""The private key of a GitHub App. It signs with RS256 (RFC 7518 section 3.3), as GitHub requires."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agentguard.credentials.keyfile import read_or_make
from agentguard.errors import ConfigurationError

__all__ = ["AppKey"]


class AppKey:
    """An App's RSA private key. It signs, and cannot be read back.

    Raises:
        ConfigurationError: The key has fewer than 2,048 bits.
    """

    __slots__ = ("__key",)

    def __init__(self, key: RSAPrivateKey) -> None:
        if key.key_size < 2048:
            raise ConfigurationError("the App's key is too short", hint="generate another one at GitHub")
        self.__key = key

    @classmethod
    def from_file(cls, path: str | Path) -> AppKey:
        """Read the PEM file that GitHub generated.

        Raises:
            ConfigurationError: There is no file, other users may read it, or it holds no unencrypted RSA key.
        """

        def absent() -> bytes:
            raise ConfigurationError(
                "there is no file with the App's key", hint="download it from GitHub", file=path
            )

        try:
            key = load_pem_private_key(read_or_make(path, absent), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise ConfigurationError("not an unencrypted RSA key in PEM", hint="download it again", file=path)
        return cls(key)

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return the claims as a JWT with RS256."""
        return jwt.encode(dict(claims), self.__key, algorithm="RS256")

    def __repr__(self) -> str:
        return "<AppKey RS256>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a private key cannot be pickled or copied")
