"""What one run of a command has at OpenBao: a login, its leases, and what must be revoked if it dies.

The token of our login stays in this process. Its accessor is in the `Outbox` before anything is read with
the token. A token that the user passed is not ours to revoke: its leases are written to the outbox one by
one.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from agentguard.cli.exec.outbox import Entry, Outbox
from agentguard.concurrency.drive import drive
from agentguard.credentials.openbao.session import FORBIDDEN, Login, OpenBaoSession, RequestRefused
from agentguard.credentials.sources.openbao import OpenBaoSecret
from agentguard.errors import IssueError, StoreError
from agentguard.model import Secret
from agentguard.text import printable

__all__ = ["Leases", "OpenBaoClient"]

_RENEW_AFTER = 2 / 3  # of a lifetime
_MOST = 64  # entries that a run asks OpenBao about
_UNKNOWN = frozenset({400, 404})  # what OpenBao answers about an accessor that no token has


class OpenBaoClient:
    """OpenBao, as this user reaches it: with a login of *session*, or with a *token* that the user passed.

    A login that cannot revoke itself is revoked by its accessor, with a login of *revoker*. So is one that a
    killed run has left. The role of *revoker* needs ``auth/token/revoke-accessor`` for both, and
    ``auth/token/lookup-accessor`` for the second.
    """

    def __init__(
        self, session: OpenBaoSession, revoker: OpenBaoSession, token: Secret | None, outbox: Outbox
    ) -> None:
        self.session, self.outbox, self._revoker = session, outbox, revoker
        self.user_login = None if token is None else Login(token, "", math.inf)

    def post(self, path: str, login: Login, **json: Any) -> Any:
        """Send a POST that may be repeated.

        Raises:
            IssueError: OpenBao refused or did not answer.
        """
        body = json or None
        return drive(self.session.sync.request("POST", path, login, json=body, repeatable=True))

    def login(self) -> Leases:
        """Log in, and return the login without leases.

        Raises:
            IssueError: OpenBao refused the login.
            StoreError: The login could not be written to the outbox. It is revoked again, and nothing was
                read with it.
        """
        return Leases(self)

    def sweep(self) -> list[str]:
        """Revoke what killed runs have left. Return a sentence for each entry that was not obeyed.

        OpenBao is asked about at most 64 entries; the others are left to the next run. An entry that names
        the token of somebody else is removed.
        """
        problems: list[str] = []
        entries = [entry for entry in self.outbox.orphans() if not self._has_ended(entry)]
        for entry in entries[:_MOST]:
            try:
                problem = self._revoke_orphan(entry)
            except IssueError as error:
                problem = f"is not revoked yet, and ends by itself at {_moment(entry.expires_at)}: {error}"
            if problem is not None:
                problems.append(f"what the run {printable(entry.id)} left at OpenBao {problem}")
        if len(entries) > _MOST:
            problems.append(f"{len(entries) - _MOST} entries of killed runs are left to the next run")
        return problems

    def revoke_lease(self, id: str) -> None:
        """Revoke a lease of the token that the user passed. One that has ended already is no error.

        Raises:
            IssueError: It is not known to be revoked.
        """
        assert self.user_login is not None  # noqa: S101  only then are there such leases
        self.post("sys/leases/revoke", self.user_login, lease_id=id, sync=True)

    def revoke_accessor(self, accessor: str) -> None:
        """Revoke a login of ours by its accessor, and with it its leases. One that has ended is no error.

        Raises:
            IssueError: It is not known to be revoked.
        """
        self._ask_revoker("POST", "auth/token/revoke-accessor", accessor=accessor)

    def _has_ended(self, entry: Entry) -> bool:
        if entry.expires_at > time.time():
            return False
        self.outbox.remove(entry.id)
        return True

    def _revoke_orphan(self, entry: Entry) -> str | None:
        """Revoke what the entry names, and remove the entry. Return what is wrong with it, or None."""
        problem = None
        if entry.name is None:
            return "was not written with this BAO_TOKEN, and is left alone"
        if self.user_login is not None:
            self.revoke_lease(entry.name)
        elif (facts := self._find_token(entry.name)) is None:
            pass  # no token has this accessor any more
        elif self._is_ours(facts):
            self.revoke_accessor(entry.name)
        else:
            problem = "is the token of somebody else, and is left alone"
        self.outbox.remove(entry.id)
        return problem

    def _find_token(self, accessor: str) -> Any:
        """Return what OpenBao says of the token with this accessor, or None if there is none."""
        try:
            answer = self._ask_revoker("POST", "auth/token/lookup-accessor", accessor=accessor)
        except RequestRefused as refusal:
            if refusal.status in _UNKNOWN:
                return None
            raise
        return answer.get("data") or {}

    def _is_ours(self, token: Any) -> bool:
        """Return whether OpenBao says that the token is a login of our identity in our role.

        Whoever can write to our outbox could otherwise have us revoke any token.
        """
        revoker_token = self._ask_revoker("GET", "auth/token/lookup-self").get("data")
        match token, revoker_token:
            case (
                {"entity_id": str(entity), "path": str(path), "meta": {"role": str(role)}},
                {"entity_id": str(own_entity)},
            ):
                expected = (own_entity, f"auth/{self.session.mount}/login", self.session.role)
                return bool(entity) and (entity, path, role) == expected
        return False

    def _ask_revoker(self, method: str, path: str, **json: Any) -> Mapping[str, Any]:
        return drive(self._revoker.sync.request(method, path, json=json or None, repeatable=True))


class Leases:
    """One login and its leases. `due` says when to extend them, in seconds since the epoch."""

    def __init__(self, client: OpenBaoClient) -> None:
        self._client, self._id = client, secrets.token_urlsafe(12)
        self._lifetimes: dict[str, float] = {}  # seconds, by the id of a lease, or by the login's accessor
        self._is_our_token = client.user_login is None
        self.due = math.inf
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

    def extend(self) -> bool:
        """Extend the login and the leases. Return False if one nears the end of its longest life.

        Raises:
            IssueError: OpenBao did not answer.
            StoreError: An extension could not be written to the outbox.
        """
        self.due = math.inf
        for name, lifetime in self._lifetimes.items():
            try:
                seconds = self._renew(name, lifetime)
            except RequestRefused:
                return False
            if seconds < lifetime / 2:
                return False
            self._add(name, lifetime, seconds)
        return True

    def revoke(self) -> None:
        """Revoke the leases and our own token.

        When this returns, the database has dropped the roles, if the policy lets us wait for that.

        Raises:
            IssueError: Some are not known to be revoked; they stay in the outbox.
        """
        failure: IssueError | None = None
        for name in reversed(self._lifetimes):  # our token last, since it revokes the leases
            try:
                self._revoke(name)
            except IssueError as error:
                failure = error
        if failure is not None:
            raise failure

    def _add(self, name: str, lifetime: float, remaining: float | None = None) -> None:
        seconds = lifetime if remaining is None else remaining
        self._lifetimes[name] = lifetime
        self.due = min(self.due, time.time() + seconds * _RENEW_AFTER)
        if self._has_entry(name):
            self._client.outbox.put(self._entry_id(name), name, time.time() + seconds)

    def _renew(self, name: str, lifetime: float) -> float:
        if self._is_login(name):
            answer = self._client.post("auth/token/renew-self", self._login)
            seconds = (answer.get("auth") or {}).get("lease_duration")
        else:
            increment = int(lifetime)
            answer = self._client.post("sys/leases/renew", self._login, lease_id=name, increment=increment)
            seconds = answer.get("lease_duration")
        return float(seconds) if isinstance(seconds, int) else 0.0

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
        if self._has_entry(name):
            self._client.outbox.remove(self._entry_id(name))

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


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # the command can write what it likes there
        return "an unknown moment"
