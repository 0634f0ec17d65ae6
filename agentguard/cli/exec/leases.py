"""What one run of a command has at OpenBao: a login, its leases, and what must be revoked if the run dies.

The token of our login stays in this process. Its accessor is in the `Outbox` before anything is read with
the token. A token that the user passed is not ours to revoke: its leases are written to the outbox one by
one.
"""

from __future__ import annotations

import math
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from agentguard.concurrency.drive import drive
from agentguard.credentials.openbao.session import FORBIDDEN, RequestRefused, lease_seconds
from agentguard.credentials.sources.openbao import OpenBaoSecret
from agentguard.errors import IssueError, StoreError
from agentguard.model import Secret

if TYPE_CHECKING:  # it imports this module
    from agentguard.cli.exec.openbao import OpenBaoClient

__all__ = ["Leases"]

_RENEW_AFTER = 2 / 3  # of a lifetime


class Leases:
    """One login and its leases."""

    def __init__(self, client: OpenBaoClient) -> None:
        self._client, self._id = client, secrets.token_urlsafe(12)
        self._lifetimes: dict[str, float] = {}  # seconds, by the id of a lease, or by the login's accessor
        self._is_our_token = client.user_login is None
        self._due: dict[str, float] = {}  # seconds since the epoch, by the same
        self._login = client.user_login or drive(client.session.sync.login())
        if self._is_our_token:
            try:
                self._add(self._login.accessor, self._login.expires_at - time.time())
            except StoreError:
                with suppress(IssueError):  # it then ends by its expiry
                    self._revoke_login()
                raise

    def read(self, id: str) -> tuple[Secret, bool]:
        """Read the secret at a path. Return it, and whether it has a lease, which `revoke` ends.

        Raises:
            IssueError: OpenBao gave no secret.
            StoreError: The lease could not be written to the outbox; `revoke` knows it.
        """
        leased = OpenBaoSecret(id, self._client.session, self._login).read_with_lease()
        if leased.lease:
            self._add(leased.lease, leased.seconds)
        return leased.secret, bool(leased.lease)

    @property
    def due(self) -> float:
        """When a lease is to be extended next, in seconds since the epoch; infinity means never."""
        return min(self._due.values(), default=math.inf)

    def extend(self) -> bool:
        """Extend the login and the leases. Return False if one nears the end of its longest life.

        An error at one lease keeps no other one from being extended.

        Raises:
            IssueError: OpenBao did not answer about one of them. It stays due.
            StoreError: All are extended, but a note of that could not be written.
        """
        failure: IssueError | None = None
        extensions: dict[str, float] = {}
        for name, lifetime in self._lifetimes.items():
            try:
                seconds = self._renew(name, lifetime)
            except RequestRefused:
                return False
            except IssueError as error:
                failure = error
                continue
            if seconds < lifetime / 2:
                return False
            extensions[name] = seconds
            self._set_due(name, seconds)
        if failure is not None:
            raise failure
        for name, seconds in extensions.items():
            self._note(name, seconds)
        return True

    def revoke(self) -> list[IssueError | StoreError]:
        """Revoke the leases and our own token, then remove the notes of them. Return what went wrong.

        An IssueError is about what is not known to be revoked, and says whether the next run tries it again.
        A StoreError is about a note that could not be removed. For what is not in the list, the database has
        dropped the roles, if the policy lets us wait for that.
        """
        failures: dict[str, IssueError] = {}
        for name in reversed(self._lifetimes):  # our token last, since it revokes the leases
            try:
                self._revoke(name)
            except IssueError as error:
                failures[name] = error
        problems: list[IssueError | StoreError] = []
        try:  # the notes last: the command may have taken the file away, or hold its lock
            for name in self._lifetimes.keys() - failures.keys():
                if self._has_entry(name):
                    self._client.outbox.remove(self._entry_id(name))
        except StoreError as error:
            problems.append(StoreError(f"a lease is revoked, but the note of it cannot be removed: {error}"))
        return problems + [self._describe_failure(name, error) for name, error in failures.items()]

    def _describe_failure(self, name: str, error: IssueError) -> IssueError:
        """Return the error with the truth about the next run: it only knows what a note still names."""
        noted = name if self._has_entry(name) else self._login.accessor
        try:
            stands = self._client.outbox.holds(self._entry_id(noted))
        except StoreError:
            stands = False
        prospect = (
            "; the next run tries it again" if stands else ", and no note of it is left: it ends by its ttl"
        )
        return IssueError(f"not known to be revoked{prospect}: {error}")

    def _add(self, name: str, lifetime: float) -> None:
        self._lifetimes[name] = lifetime
        self._set_due(name, lifetime)
        self._note(name, lifetime)

    def _set_due(self, name: str, seconds: float) -> None:
        self._due[name] = time.time() + seconds * _RENEW_AFTER

    def _note(self, name: str, seconds: float) -> None:
        if self._has_entry(name):
            self._client.outbox.put(self._entry_id(name), name, time.time() + seconds)

    def _renew(self, name: str, lifetime: float) -> float:
        if self._is_login(name):
            answer = self._client.post("auth/token/renew-self", self._login)
            auth = answer.get("auth")
            seconds = auth.get("lease_duration") if isinstance(auth, dict) else None
        else:
            increment = int(lifetime)
            answer = self._client.post("sys/leases/renew", self._login, lease_id=name, increment=increment)
            seconds = answer.get("lease_duration")
        return lease_seconds(seconds)

    def _revoke(self, name: str) -> None:
        if self._is_login(name):
            self._revoke_login()
        elif not self._is_our_token:
            self._client.revoke_lease(name)
        else:
            try:
                self._client.post("sys/leases/revoke", self._login, lease_id=name, sync=True)
            except RequestRefused as refusal:
                if refusal.status != FORBIDDEN:  # else the policy does not permit it: it ends with the token
                    raise

    def _revoke_login(self) -> None:
        try:
            self._client.post("auth/token/revoke-self", self._login)
        except RequestRefused as refusal:
            if refusal.status != FORBIDDEN:
                raise
            # the token has ended, or may not do this and lives: the revocation by accessor tells which
            self._client.revoke_accessor(self._login.accessor)

    def _is_login(self, name: str) -> bool:
        return self._is_our_token and name == self._login.accessor

    def _has_entry(self, name: str) -> bool:
        """Return whether it has its own entry in the outbox. A lease of our own token ends with the token."""
        return not self._is_our_token or self._is_login(name)

    def _entry_id(self, name: str) -> str:
        return f"{self._id}/{[*self._lifetimes].index(name)}"
