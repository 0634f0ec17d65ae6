"""A file that holds a key: it is made once, and only its owner can read it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agentguard.errors import ConfigurationError
from agentguard.files import require_own
from agentguard.jose import Algorithm, PrivateKey, Signer

__all__ = ["load_key", "new_pem", "parse_pem", "read_key", "read_or_make", "write_new"]


def read_or_make(path: str | Path, make: Callable[[], bytes]) -> bytes:
    """Read the file. If there is none, write what *make* returns into a new one with mode 0600.

    Processes that start at the same moment read the same content.

    Raises:
        ConfigurationError: Other users may read or write the file, it belongs to another user, or it cannot
            be read or made.
    """
    file = Path(path)
    try:
        if not file.exists():
            write_new(file, make())
        return _read(file)
    except OSError as error:
        raise ConfigurationError(
            f"the key file cannot be read or made: {error.strerror}", hint="check the directory", file=file
        ) from error


def write_new(file: Path, content: bytes, owner: tuple[int, int] | None = None) -> None:
    """Write a new file with mode 0600, unless there is one already. It is there whole, or not at all.

    *owner* is the user and the group that it is for, if root writes it for another user.

    Raises:
        OSError: It cannot be written.
    """
    # mkstemp opens with O_EXCL and mode 0600; the link shows the whole file, or fails if another was first
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # else a power failure could leave an empty key
            if owner is not None:
                # not by its name, in place of which the owner of the directory could put a link
                os.fchown(stream.fileno(), *owner)
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        os.unlink(temporary)


def load_key(path: str | Path, algorithm: Algorithm = "ES256") -> Signer:
    """Read a private key in PEM. If there is no file, make one that only this user can read (mode 0600).

    A new key is for *algorithm*; an existing file keeps its own algorithm. Processes that start at the
    same moment read the same key.

    Raises:
        ConfigurationError: Other users may read the file, it cannot be read or made, or it does not
            hold an unencrypted P-256 or Ed25519 key.
    """
    return parse_pem(read_or_make(path, lambda: new_pem(algorithm)), path)


def read_key(path: Path, *, owner: int | None = None) -> Signer:
    """Read a private key in PEM, as `load_key` does, and make none. It may belong to the user *owner*.

    Raises:
        ConfigurationError: As in `load_key`; or there is no file.
    """
    try:
        return parse_pem(_read(path, owner), path)
    except OSError as error:
        raise ConfigurationError(
            f"the key file cannot be read: {error.strerror}", hint="put it back", file=path
        ) from error


def parse_pem(pem: bytes, path: str | Path) -> Signer:
    """Return the signer of a private key in PEM. *path* is for the error.

    Raises:
        ConfigurationError: It is no unencrypted P-256 or Ed25519 key.
    """
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


def new_pem(algorithm: Algorithm) -> bytes:
    """Return a new private key in PEM."""
    key: PrivateKey = (
        Ed25519PrivateKey.generate() if algorithm == "EdDSA" else ec.generate_private_key(ec.SECP256R1())
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(file: Path, owner: int | None = None) -> bytes:
    with file.open("rb") as stream:
        status = os.fstat(stream.fileno())
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigurationError(
                "other users may read or write this private key", hint=f"chmod 600 {file}", file=file
            )
        if status.st_uid != owner:
            require_own(file, status)
        return stream.read()
