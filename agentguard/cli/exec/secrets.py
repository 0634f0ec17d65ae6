"""The secrets of one run: each is read once, renewed while the child lives, and revoked at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from agentguard.cli.exec.reads import StoredReads
from agentguard.credentials.sources import Reference, SecretSource, pick
from agentguard.errors import IssueError, StoreError
from agentguard.model import Secret

if TYPE_CHECKING:  # it needs an extra that other sources do not need
    from agentguard.cli.exec.leases import Leases

__all__ = ["Problems", "Secrets"]

Problems = list[IssueError | StoreError]  # an IssueError: something is not known to be revoked
_RETRY_AFTER = 5.0  # seconds after a failed renewal
_POLL_EVERY = 0.1  # seconds, while stored secrets are read


class Secrets:
    """The values of *references*, by the names of their variables, in `values`.

    Parts of one secret are read together, so a username fits its password. *stored* has the sources
    by `Reference.locator`. A reference without a source there is read at OpenBao, with a login that
    *login* makes. A stored secret is read again after *refresh* seconds; infinity means never.
    *record* is called with what happened and the names of the variables.
    """

    def __init__(
        self,
        references: Mapping[str, Reference],
        stored: Mapping[str, SecretSource],
        login: Callable[[], Leases] | None,
        refresh: float,
        record: Callable[[str, Iterable[str]], None],
    ) -> None:
        self.values: dict[str, Secret] = {}
        self._references, self._stored, self._login, self._record = references, stored, login, record
        self._refresh, self._read_at = refresh, math.inf
        self._leases: list[Leases] = []  # the last is in use, those before it are superseded
        self._leased: set[str] = set()  # locators of secrets with a lease
        self._problems: Problems = []  # of revocations, which nobody was told of yet
        self._reads: StoredReads | None = None  # of stored secrets that are being read again
        self._not_before = 0.0

    def fetch(self, interrupted: Callable[[], object]) -> None:
        """Read all secrets, or none if *interrupted* returns something true while stored ones are read.

        Raises:
            IssueError: One of them cannot be read.
            StoreError: A lease could not be noted.
        """
        reads = StoredReads(self._stored)
        while not reads.wait(_POLL_EVERY):
            if interrupted():
                return
        self._read(set(self._references.values()), reads.values())

    def due(self) -> float | None:
        """Return in how many seconds `renew` has something to do, or None for never."""
        if self._reads is not None:
            return _POLL_EVERY
        at = max(self._not_before, min(self._read_at, self._leases[-1].due if self._leases else math.inf))
        return None if at == math.inf else max(0.0, at - time.time())

    def renew(self) -> bool:
        """Extend, replace or read again the secrets that are due. Return whether a value has changed.

        This does not wait for the vaults of stored secrets: it begins to read, and a later call finishes.
        """
        if self._reads is None and (self.due() or 0.0) > 0:
            return False
        before = dict(self.values)
        try:
            self._renew()
        except (IssueError, StoreError) as error:
            self._not_before = time.time() + _RETRY_AFTER
            self._record(f"not renewed: {error}", self._references)
        changed = [name for name, value in self.values.items() if value.reveal() != before[name].reveal()]
        if changed:
            self._record("replaced", changed)
        return bool(changed)

    @property
    def leased_names(self) -> list[str]:
        """The variables whose values have a lease, which ends with the child."""
        return [name for name, reference in self._references.items() if reference.locator in self._leased]

    def revoke_superseded(self) -> Problems:
        """Revoke the leases that are no longer in use. Return the errors since the last such call."""
        self._revoke(self._leases[:-1])
        problems, self._problems = self._problems, []
        return problems

    def revoke(self) -> Problems:
        """Revoke all leases. Return the errors that no `revoke_superseded` has returned."""
        self._revoke(list(self._leases))
        return self._problems

    def _renew(self) -> None:
        now = time.time()
        if self._leases and max(self._leases[-1].due, self._not_before) <= now:
            self._renew_leases()
        if self._reads is None and self._read_at <= now:
            self._reads = StoredReads(self._stored)
        if self._reads is not None and self._reads.wait(0):
            reads, self._reads = self._reads, None
            values = reads.values()
            references = self._references.values()
            self._read(
                {reference for reference in references if reference.locator not in self._leased}, values
            )

    def _renew_leases(self) -> None:
        if self._leases[-1].extend():
            self._record("extended", self.leased_names)
            return
        self._read(
            {reference for reference in self._references.values() if reference.locator in self._leased}, {}
        )
        self._revoke(self._leases[:-2])  # the last but one may still be in use

    def _read(self, references: set[Reference], stored: Mapping[str, Secret]) -> None:
        """Take the values of *references*: those of *stored*, by their locators, and OpenBao's."""
        ids = {
            reference.locator: reference.id
            for reference in references
            if reference.locator not in self._stored
        }
        wholes = {**stored, **(self._read_at_openbao(ids) if ids else {})}
        for name, reference in self._references.items():
            if reference in references:
                whole, path = wholes[reference.locator], reference.path
                self.values[name] = whole if path is None else pick(whole, path, str(reference))
        if any(locator not in self._leased for locator in wholes):
            self._read_at = time.time() + self._refresh

    def _read_at_openbao(self, ids: Mapping[str, str]) -> dict[str, Secret]:
        assert self._login is not None  # noqa: S101  `command` passes it if a reference is OpenBao's
        leases = self._login()
        self._leases.append(leases)  # from here on `revoke` knows it
        wholes = {}
        try:
            for locator, id in ids.items():
                wholes[locator], is_leased = leases.read(id)
                if is_leased:
                    self._leased.add(locator)
        except BaseException:
            self._revoke([leases])
            raise
        if self._leased.isdisjoint(ids):  # a login that only read stored secrets is not needed any more
            self._revoke([leases])
        return wholes

    def _revoke(self, logins: list[Leases]) -> None:
        for leases in logins:
            self._problems += leases.revoke()
            self._leases.remove(leases)
