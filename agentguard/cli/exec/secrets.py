"""The secrets of one run: read once each, kept alive while the child lives, ended with it."""

from __future__ import annotations

import fcntl
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agentguard.credentials.sources import Reference, SecretSource, pick
from agentguard.errors import IssueError, StoreError
from agentguard.model import Secret

if TYPE_CHECKING:  # it needs extras that a key in a file does not
    from agentguard.cli.exec.openbao import Leases

__all__ = ["Cell", "Supply"]

_MEMORY = Path("/dev/shm")  # noqa: S108  what is made there has no name by the time that it holds a secret
_AGAIN = 5.0  # seconds after which a renewal that failed is tried again


class Cell:
    """A secret in a private file that has no name any more, in memory where the system has a place for it.

    The child gets `descriptor`, which can only be read. It holds the secret and nothing else. It is
    written under an exclusive `flock`; who reads from its start under a shared one never sees half.
    """

    def __init__(self) -> None:
        place = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
        self._writable, name = tempfile.mkstemp(dir=place, prefix="agentguard-")
        try:
            self.descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.unlink(name)

    def put(self, secret: Secret) -> None:
        """Replace what it holds; a reader that keeps its lock is waited for a second, and no longer."""
        for _ in range(100):
            try:
                fcntl.flock(self._writable, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
        try:
            length = os.pwrite(self._writable, secret.reveal().encode(), 0)
            os.ftruncate(self._writable, length)
        finally:
            fcntl.flock(self._writable, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let it go."""
        os.close(self._writable)
        os.close(self.descriptor)


class Supply:
    """The secrets that *wanted* names, by the names of their variables, in `values`.

    Those of one place are read once, and so belong together: a username and its password. *stored*
    has the sources by `Reference.locator`; what is not in it comes from a login that *lease*
    makes. *refresh* is after how
    many seconds what is stored is read again; infinity is never. *tell* is told what happened to
    which variables.
    """

    def __init__(
        self,
        wanted: Mapping[str, Reference],
        stored: Mapping[str, SecretSource],
        lease: Callable[[], Leases] | None,
        refresh: float,
        tell: Callable[[str, Iterable[str]], None],
    ) -> None:
        self.values: dict[str, Secret] = {}
        self._wanted, self._stored, self._lease, self._tell = wanted, stored, lease, tell
        self._refresh, self._read_at = refresh, math.inf
        self._leases: list[Leases] = []  # the last is in use, those before it are superseded
        self._minted: set[str] = set()
        self._not_before = 0.0

    def fetch(self) -> None:
        """Read all of them.

        Raises:
            IssueError: One of them cannot be had.
            StoreError: What was minted cannot be noted.
        """
        self._take(set(self._wanted.values()))

    def due(self) -> float | None:
        """Return in how many seconds `renew` has something to do, or None for never."""
        at = max(self._not_before, min(self._read_at, self._leases[-1].due if self._leases else math.inf))
        return None if at == math.inf else max(0.0, at - time.time())

    def renew(self) -> bool:
        """Extend, replace or read again what is due; returns whether a value is now another."""
        if (self.due() or 0.0) > 0:
            return False
        before = dict(self.values)
        try:
            self._renew()
        except (IssueError, StoreError) as error:
            self._not_before = time.time() + _AGAIN
            self._tell(f"not renewed: {error}", self._wanted)
        changed = [name for name, value in self.values.items() if value.reveal() != before[name].reveal()]
        if changed:
            self._tell("replaced", changed)
        return bool(changed)

    @property
    def leased(self) -> list[str]:
        """The variables whose values are minted, and end with the child."""
        return [name for name, each in self._wanted.items() if each.locator in self._minted]

    def drop(self) -> list[str]:
        """Revoke what is superseded; returns what went wrong, and is left to the outbox."""
        return self._end(self._leases[:-1])

    def end(self) -> list[str]:
        """Revoke all of it; returns what went wrong, and is left to the outbox."""
        return self._end(list(self._leases))

    def _renew(self) -> None:
        now = time.time()
        if self._leases and self._leases[-1].due <= now:
            minted = {each for each in self._wanted.values() if each.locator in self._minted}
            if self._leases[-1].extend():
                self._tell("extended", self.leased)
            else:
                self._take(minted)
                self._end(self._leases[:-2])  # the last but one may still be in use
        if self._read_at <= now:
            self._take({each for each in self._wanted.values() if each.locator not in self._minted})

    def _take(self, references: set[Reference]) -> None:
        wholes = {each.locator: Secret("") for each in references}
        ids = {each.locator: each.id for each in references if each.locator not in self._stored}
        for origin in wholes.keys() - ids.keys():
            wholes[origin] = self._stored[origin].read()
        if ids:
            wholes |= self._from_bao(ids)
        for name, each in self._wanted.items():
            if each in references:
                whole = wholes[each.locator]
                self.values[name] = whole if each.path is None else pick(whole, each.path, str(each))
        if any(origin not in self._minted for origin in wholes):
            self._read_at = time.time() + self._refresh

    def _from_bao(self, ids: Mapping[str, str]) -> dict[str, Secret]:
        assert self._lease is not None  # noqa: S101  whoever wants it has configured it
        leases = self._lease()
        self._leases.append(leases)  # from here on `end` knows it
        wholes = {}
        try:
            for origin, id in ids.items():
                wholes[origin], minted = leases.mint(id)
                if minted:
                    self._minted.add(origin)
        except BaseException:
            self._end([leases])
            raise
        if self._minted.isdisjoint(ids):  # a login that only read is over
            self._end([leases])
        return wholes

    def _end(self, over: list[Leases]) -> list[str]:
        problems = []
        for each in over:
            try:
                each.end()
            except (IssueError, StoreError) as error:
                problems.append(str(error))
            self._leases.remove(each)
        return problems
