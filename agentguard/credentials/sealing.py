"""Encryption of handles: a sealed handle holds the secret that a revocation needs, and does not show it.

Some issuers revoke a token by the token itself (RFC 7009). The store keeps handles unencrypted, and
another process must be able to revoke by a handle after a crash. So the handle is the secret,
encrypted by AES-256-GCM (NIST SP 800-38D) with a key that is not in the store.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentguard.credentials.keyfile import read_or_make
from agentguard.errors import ConfigurationError
from agentguard.jose import b64url, unb64url

__all__ = ["SealingKey"]

_KEY = 32
_NONCE = 12
_OVERHEAD = _NONCE + 16
_LIMIT = 64 * 1024


class SealingKey:
    """Seals short texts, and opens texts that were sealed with the same key for the same context.

    Processes that revoke for each other share the *key* (32 bytes). The nonces are random, so one key
    may seal 2**32 texts (section 8.3). *entropy(n)* gives n random bytes. Keep the key and the store
    in different places: a thief who has both can open the handles.

    Raises:
        ConfigurationError: The key does not have 32 bytes.
    """

    __slots__ = ("__key", "_entropy")

    def __init__(self, key: bytes, *, entropy: Callable[[int], bytes] = secrets.token_bytes) -> None:
        if len(key) != _KEY:
            raise ConfigurationError(
                f"a sealing key has {_KEY} bytes", hint="let SealingKey.from_file make one"
            )
        self.__key, self._entropy = AESGCM(key), entropy

    @classmethod
    def from_file(cls, path: str | Path, *, entropy: Callable[[int], bytes] = secrets.token_bytes) -> Self:
        """Read the key from *path*. If there is no file, make one that only this user can read (mode 0600).

        Raises:
            ConfigurationError: Other users may read the file, it cannot be read or made, or it does not
                hold a key.
        """
        key = read_or_make(path, lambda: entropy(_KEY))
        if len(key) != _KEY:
            raise ConfigurationError(
                "the file does not hold a sealing key", hint="remove it, and a new one is made", file=path
            )
        return cls(key, entropy=entropy)

    def seal(self, text: str, *, context: str) -> str:
        """Return *text* as a handle that opens only for the same *context*, such as an issuer.

        The handle is base64url, a third longer than the text, so it shows the text's length. The same
        text gives another handle each time.

        Raises:
            ValueError: The text has more than 64 KiB.
        """
        data = text.encode()
        if len(data) > _LIMIT:
            raise ValueError("too long to be sealed")
        nonce = self._entropy(_NONCE)
        return b64url(nonce + self.__key.encrypt(nonce, data, context.encode()))

    def open(self, handle: str, *, context: str) -> str | None:
        """Return the text, or None if the handle was changed, or was sealed with another key or context."""
        if len(handle) > 2 * _LIMIT:
            return None
        try:
            data = unb64url(handle)
            if len(data) < _OVERHEAD:
                return None
            return self.__key.decrypt(data[:_NONCE], data[_NONCE:], context.encode()).decode()
        except (InvalidTag, ValueError):
            return None

    def __repr__(self) -> str:
        return "<SealingKey>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a sealing key cannot be pickled or copied")
