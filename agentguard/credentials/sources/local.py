"""Secrets of this machine: in a private file, or in an environment variable."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from agentguard.errors import IssueError
from agentguard.model import Secret

__all__ = ["EnvironmentSecret", "FileSecret"]

_LIMIT = 1_048_576


class FileSecret:
    """A `SecretSource`: a file that only its owner may read (mode 0600). The owner is this user or root.

    One newline at the end, which editors add, is not part of the secret. A file that is not a regular
    file, or has more than 1 MiB, is refused; `read` does not wait for a pipe. It may wait for a mount.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name, self._path = f"file:{os.fspath(path)}", path

    def read(self) -> Secret:
        """Read the file."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise IssueError(f"{self.name}: {error.strerror}") from None
        try:
            self._require_private(os.fstat(descriptor))
            secret = _secret(os.read(descriptor, _LIMIT + 1))
        finally:
            os.close(descriptor)
        if secret is None:
            raise IssueError(f"{self.name}: empty, more than 1 MiB, or not text in UTF-8")
        return secret

    def _require_private(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise IssueError(f"{self.name}: not a regular file")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise IssueError(f"{self.name}: other users may read it; chmod 600")
        if status.st_uid not in (os.geteuid(), 0):
            raise IssueError(f"{self.name}: it belongs to another user")


class EnvironmentSecret:
    """A `SecretSource`: an environment variable, which every child of this program inherits."""

    inline = True

    def __init__(self, variable: str, environ: Mapping[str, str] = os.environ) -> None:
        self.name, self._variable, self._environ = f"env:{variable}", variable, environ

    def read(self) -> Secret:
        """Read the variable."""
        value = Secret(self._environ.get(self._variable, ""))
        if not value.reveal():
            raise IssueError(f"{self.name}: not set, or empty")
        return value


def _secret(data: bytes) -> Secret | None:
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        return None
    return Secret(text) if text and len(data) <= _LIMIT else None
