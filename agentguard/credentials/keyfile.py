"""A file that holds a key: it is made once, and only its owner can read it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agentguard.errors import ConfigurationError
from agentguard.files import require_own

__all__ = ["read_or_make"]


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
            _create(file, make())
        return _read(file)
    except OSError as error:
        raise ConfigurationError(
            f"the key file cannot be read or made: {error.strerror}", hint="check the directory", file=file
        ) from error


def _create(file: Path, content: bytes) -> None:
    # mkstemp opens with O_EXCL and mode 0600; the link shows the whole file, or fails if another was first
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        os.unlink(temporary)


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        status = os.fstat(stream.fileno())
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigurationError(
                "other users may read or write this private key", hint=f"chmod 600 {file}", file=file
            )
        require_own(file, status)
        return stream.read()
