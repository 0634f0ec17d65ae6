"""A file without a name in memory, with one secret, which the child can read and not change."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from agentguard.concurrency.file_lock import LockedTooLong, lock_file
from agentguard.errors import IssueError
from agentguard.model import Secret

__all__ = ["SecretFile"]

_MEMORY = Path("/dev/shm")  # noqa: S108  a file made there loses its name before it holds a secret
_LIMIT = 1 << 20  # bytes of a secret; the largest answer of a vault
_CHUNK = 4096  # bytes, which a pipe takes at once
_ATTEMPTS = 100
_SEALS = 0x0001 | 0x0010  # F_SEAL_SEAL | F_SEAL_FUTURE_WRITE, which Python 3.11 does not name


class SecretFile:
    """A secret in a private file without a name, in memory if the system has a place for that.

    The child gets `descriptor`, which is read-only. On Linux since 5.1 the file is sealed: nobody can write
    into it by any descriptor, also not by one that a program of the same user opens anew from ``/proc``. Such
    a program can still cut the file short. Elsewhere `sealed` is False, and such a program can write too.

    The file holds the secret and nothing else. It is written under an exclusive `flock`. A reader that reads
    from the start under a shared lock never sees half a secret.
    """

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        file = _sealed_file() if sys.platform == "linux" else None
        if file is None:
            self._file, self.descriptor = _plain_file()
        else:
            self._file, self.descriptor, self._memory = file

    @property
    def sealed(self) -> bool:
        """Whether nobody but this object can write into the file."""
        return self._memory is not None

    def put(self, secret: Secret) -> None:
        """Replace the secret. Wait one second for a reader that holds its lock, and no longer.

        Raises:
            IssueError: The secret has more than 1 MiB, or another program keeps cutting the file.
        """
        content = secret.reveal().encode()
        if len(content) > _LIMIT:
            raise IssueError("a secret has more than 1 MiB")
        end = time.monotonic() + 1.0
        with suppress(LockedTooLong):
            lock_file(self._file, lambda: end - time.monotonic())
        try:
            if self._memory is None:
                os.pwrite(self._file, content, 0)
            else:
                _write(self._memory, self._file, content)
            os.ftruncate(self._file, len(content))
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; it then no longer exists."""
        if self._memory is not None:
            self._memory.close()
        os.close(self._file)
        os.close(self.descriptor)


def _plain_file() -> tuple[int, int]:
    directory = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
    file, name = tempfile.mkstemp(dir=directory, prefix="agentguard-")
    try:
        return file, os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.unlink(name)


def _sealed_file() -> tuple[int, int, mmap.mmap] | None:
    """Return a file, a descriptor that reads it, and the only memory by which it can be written."""
    file = os.memfd_create("agentguard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, _LIMIT)
    memory = mmap.mmap(file, _LIMIT)  # made before the seal, which forbids all later ways to write
    os.ftruncate(file, 0)
    os.fchmod(file, 0o400)
    with suppress(OSError):  # an older kernel, or one without /proc
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        return file, os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC), memory
    memory.close()
    os.close(file)
    return None


def _write(memory: mmap.mmap, file: int, content: bytes) -> None:
    """Write into *memory* by the kernel: it answers with an error where this process would get SIGBUS.

    That is where another program has cut the file under our feet.
    """
    for _ in range(_ATTEMPTS):
        os.ftruncate(file, max(len(content), os.fstat(file).st_size))
        try:
            with memoryview(memory) as view:
                for start in range(0, len(content), _CHUNK):
                    part = content[start : start + _CHUNK]
                    with view[start : start + len(part)] as place:
                        _copy(part, place)
            return
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
    raise IssueError("another program of this user keeps cutting the file of a secret")


def _copy(content: bytes, place: memoryview) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, content)
        os.readv(reader, [place])
    finally:
        os.close(reader)
        os.close(writer)
