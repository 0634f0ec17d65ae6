"""A handle that holds what it takes to revoke, and shows it to nobody.

Some issuers revoke by the secret itself: RFC 7009 wants the token. A handle is stored in clear, and
must work in another process after a crash. A sealed one is the secret under AES-256-GCM (NIST SP
800-38D), with a key that is not in the store.
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

__all__ = ["Seal"]

_KEY = 32
_NONCE = 12
_OVERHEAD = _NONCE + 16
_LIMIT = 64 * 1024


class Seal:
    """Seals short texts, and opens what was sealed with the same key for the same context.

    Processes that clean up for each other share the *key* (32 bytes). The nonces are random, so a key
    is good for 2**32 seals (section 8.3). *entropy(n)* gives n random bytes. Whoever holds both key
    and store can open what is in it: keep them apart.

    Raises:
        ConfigurationError: The key is of another length.
    """

    __slots__ = ("__key", "_entropy")

    def __init__(self, key: bytes, *, entropy: Callable[[int], bytes] = secrets.token_bytes) -> None:
        if len(key) != _KEY:
            raise ConfigurationError(f"a key for sealing is {_KEY} bytes", hint="let Seal.from_file make one")
        self.__key, self._entropy = AESGCM(key), entropy

    @classmethod
    def from_file(cls, path: str | Path, *, entropy: Callable[[int], bytes] = secrets.token_bytes) -> Self:
        """Read the key, or make one for this user alone (mode 0600) if the file is absent.

        Raises:
            ConfigurationError: Others may read the file, it cannot be read or made, or holds no key.
        """
        key = read_or_make(path, lambda: entropy(_KEY))
        if len(key) != _KEY:
            raise ConfigurationError(
                "not a key for sealing", hint="remove the file to have one made", file=path
            )
        return cls(key, entropy=entropy)

    def seal(self, text: str, *, context: str) -> str:
        """Return *text* as a handle that opens for *context*, such as an issuer, and nowhere else.

        It is base64url, a third longer than the text, and tells its length. The same text gives
        another handle each time.

        Raises:
            ValueError: It is above 64 KiB.
        """
        data = text.encode()
        if len(data) > _LIMIT:
            raise ValueError("too long to be sealed")
        nonce = self._entropy(_NONCE)
        return b64url(nonce + self.__key.encrypt(nonce, data, context.encode()))

    def open(self, handle: str, *, context: str) -> str | None:
        """Return the text, or None for what was changed, cut, or not sealed with this key and context."""
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
        return "<Seal>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a seal cannot be pickled or copied")
