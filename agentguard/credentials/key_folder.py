"""The folder of the embedded issuer's keys, in which one key replaces another while both are trusted.

A key's file says in its name for which path it is, and from when it signs: ``read.pem`` from the beginning,
``read.1764388800.pem`` from that second of the epoch. Of the keys of a path, the last one whose time has come
signs. So one new file is a whole rotation, processes that look at the folder at different moments agree on
the key, and no other file could say something else than the keys that are there.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from agentguard.concurrency.file_lock import LockedTooLong, lock_file
from agentguard.credentials.keyfile import load_key, new_pem, parse_pem, read_key, write_new
from agentguard.errors import ConfigurationError
from agentguard.files import require_trusted
from agentguard.jose import Algorithm, Json, Signer
from agentguard.model import ToolPath

__all__ = ["KeyFile", "KeyFolder", "end_of", "published_jwk"]

_NAME = re.compile(r"(read|write|escalation)(?:\.([1-9][0-9]{0,11}))?\.pem")
_WAIT = 5.0  # seconds for which a process waits while another one changes the folder


class Published(Protocol):
    """The public part of a key."""

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm of the key."""

    @property
    def kid(self) -> str:
        """The thumbprint of the key."""

    @property
    def public_jwk(self) -> Json:
        """The public key."""


def published_jwk(path: ToolPath, key: Published) -> dict[str, str]:
    """Return the JWK by which others verify the tokens of a path; ``agentguard_path`` is our own member."""
    return {
        **key.public_jwk,
        "kid": key.kid,
        "alg": key.algorithm,
        "use": "sig",
        "agentguard_path": path.value,
    }


class KeyFile(NamedTuple):
    """A key's file; the key signs from *begins*, in seconds since the epoch, until the next one begins."""

    path: ToolPath
    begins: float
    file: Path

    @classmethod
    def of(cls, file: Path) -> KeyFile | None:
        """Read the name of a file; None if it is the name of no key."""
        match = _NAME.fullmatch(file.name)
        return None if match is None else cls(ToolPath(match[1]), float(match[2] or 0), file)


class KeyFolder:
    """The keys of all paths in *directory*, and the JWK Set in *jwks* by which others verify tokens.

    New keys are for *algorithm*. One process at a time changes the folder or writes the JWK Set; the lock
    is `flock` on the directory.
    """

    def __init__(self, directory: Path, algorithm: Algorithm = "ES256", *, jwks: Path | None = None) -> None:
        self.directory, self._algorithm, self._jwks = directory, algorithm, jwks

    def prepare(self) -> None:
        """Make a key for each path that has none, and write the JWK Set.

        Raises:
            ConfigurationError: Others may read or write a key, or write the directory; or a key cannot be
                read or made.
            OSError: The JWK Set cannot be written.
        """
        with self._changing():
            for path in ToolPath:
                if not self.files(path):
                    load_key(self.directory / f"{path.value}.pem", self._algorithm)
            self._publish((key.path, read_key(key.file)) for key in self.all_files())

    def files(self, path: ToolPath) -> list[KeyFile]:
        """Return the keys of a path, in the order in which they sign.

        Raises:
            ConfigurationError: Others may write the directory, or it cannot be read.
        """
        return [key for key in self.all_files() if key.path is path]

    def all_files(self) -> list[KeyFile]:
        """Return the keys of all paths, in the order in which they sign.

        Raises:
            ConfigurationError: Others may write the directory, or it cannot be read.
        """
        try:
            require_trusted(self.directory, self.directory.stat())
            names = os.listdir(self.directory)
        except OSError as error:
            raise ConfigurationError(
                f"the directory of the keys cannot be read: {error.strerror}",
                hint="correct [issuer] keys, or the permissions of the directory",
                file=self.directory,
            ) from error
        keys = (KeyFile.of(self.directory / name) for name in names)
        return sorted((key for key in keys if key is not None), key=lambda key: key.begins)

    def rotate(self, begins: float, *, now: float) -> list[KeyFile]:
        """Make a new key for each path, which signs from *begins*. The JWK Set has it first.

        If it signs at once, as after a theft, keys that still wait for their time are removed: they were in
        the folder too, and nothing is signed by them.

        Raises:
            ConfigurationError: A key that was made earlier still waits for its time, unless the new one is
                to sign at once; or the folder or the JWK Set cannot be written.
        """
        with self._changing():
            files = self.all_files()
            waiting = [key for key in files if key.begins > now]
            if waiting and begins > now:
                raise ConfigurationError(
                    f"{waiting[-1].file.name} waits for its time already",
                    hint="wait until it signs, or rotate with --now",
                )
            files = [key for key in files if key not in waiting]
            second, beginnings = int(begins), {int(key.begins) for key in files}
            while second in beginnings:
                second += 1
            keys = [KeyFile(path, second, self.directory / f"{path.value}.{second}.pem") for path in ToolPath]
            contents = {key.file: new_pem(self._algorithm) for key in keys}
            try:
                self._publish([*self._signers(files), *_new_signers(keys, contents)])
                for file, content in contents.items():
                    write_new(file, content, self._owner())
                for key in waiting:
                    key.file.unlink(missing_ok=True)
            except OSError as error:
                raise _unwritable(self.directory, error) from error
            return keys

    def prune(self, *, now: float, lifetime: float) -> list[KeyFile]:
        """Remove the keys whose last tokens have expired *lifetime* seconds after the next key began.

        Raises:
            ConfigurationError: The folder or the JWK Set cannot be written.
        """
        with self._changing():
            files = self.all_files()
            over = [key for key in files if (end := end_of(key, files)) is not None and end + lifetime < now]
            try:
                self._publish(self._signers(key for key in files if key not in over))
                for key in over:
                    key.file.unlink(missing_ok=True)
            except OSError as error:
                raise _unwritable(self.directory, error) from error
            return over

    def read(self, key: KeyFile) -> Signer:
        """Read a key for an operator: root may read those of the guard's user, who owns the folder.

        Raises:
            ConfigurationError: Others may read or write the key, or it cannot be read.
        """
        user, _ = self._owner() or (None, None)
        return read_key(key.file, owner=user)

    def _signers(self, files: Iterable[KeyFile]) -> list[tuple[ToolPath, Signer]]:
        return [(key.path, self.read(key)) for key in files]

    def _owner(self) -> tuple[int, int] | None:
        """Return for whom root changes the keys: the guard's user and group, who own the directory."""
        if os.geteuid() != 0:
            return None
        status = self.directory.stat()
        return status.st_uid, status.st_gid

    def _publish(self, signers: Iterable[tuple[ToolPath, Signer]]) -> None:
        """Write the JWK Set if there is to be one. A verifier never reads half a file."""
        keys = [published_jwk(path, signer) for path, signer in signers]
        if len({key["kid"] for key in keys}) != len(keys):
            raise ConfigurationError(
                "two files hold the same key", hint="give each path a key of its own", file=self.directory
            )
        if self._jwks is not None:
            temporary = self._jwks.with_name(f".{self._jwks.name}.{os.getpid()}.{time.time_ns()}")
            temporary.write_text(json.dumps({"keys": keys}, indent=2) + "\n", "utf-8")
            temporary.replace(self._jwks)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Let no other process change the folder meanwhile."""
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unwritable(self.directory, error) from error
        end = time.monotonic() + _WAIT
        try:
            try:
                lock_file(descriptor, lambda: end - time.monotonic())
            except LockedTooLong:
                reason = "another process has been changing the keys for too long"
                raise ConfigurationError(reason, hint="end it", file=self.directory) from None
            except OSError as error:
                raise _unwritable(self.directory, error) from error
            yield
        finally:
            os.close(descriptor)  # this also ends the lock


def end_of(key: KeyFile, files: Iterable[KeyFile]) -> float | None:
    """Return when the next key of the same path begins to sign; None if there is none."""
    return min(
        (other.begins for other in files if other.path is key.path and other.begins > key.begins),
        default=None,
    )


def _new_signers(keys: Iterable[KeyFile], contents: dict[Path, bytes]) -> list[tuple[ToolPath, Signer]]:
    return [(key.path, parse_pem(contents[key.file], key.file)) for key in keys]


def _unwritable(directory: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"the keys or their JWK Set cannot be written: {error.strerror}",
        hint="correct [issuer] keys and jwks, or the permissions of their directories",
        file=directory,
    )
