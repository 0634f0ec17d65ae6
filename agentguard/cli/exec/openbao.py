"""What one run of a command has at OpenBao: a login, its leases, and a record of what must be revoked.

Our own token is written to the outbox, sealed, before anything is read with it. The token can revoke
itself, and its leases end with it; every later run that finds the entry can do so. A token that the
user passed is not ours to revoke: its leases are written to the outbox one by one.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentguard.concurrency.drive import drive
from agentguard.credentials.openbao.session import FORBIDDEN, Login, OpenBaoSession, RequestRefused
from agentguard.credentials.sealing import SealingKey
from agentguard.credentials.sources.openbao import OpenBaoSecret
from agentguard.enforcement.process import gone, owner
from agentguard.errors import IssueError, TaskNotActive
from agentguard.model import LiveCredential, Secret
from agentguard.stores.sqlite import SqliteStore

__all__ = ["Leases", "OpenBaoClient", "Outbox"]

_RENEW_AFTER = 2 / 3  # of a lifetime


class Outbox:
    """What is to be revoked at the OpenBao *address*, in a directory of this user."""

    def __init__(self, directory: Path, address: str) -> None:
        self._store = SqliteStore(directory / "exec.db")
        self._seal, self._address = SealingKey.from_file(directory / "exec.key"), address

    def put(self, id: str, text: str, expires_at: float) -> None:
        """Write an entry, or replace the one with this id.

        Raises:
            StoreError: The entry is not written.
        """
        entry = LiveCredential(
            call_id=id,
            task_id="exec",
            broker=f"exec {self._address}",
            handle=self._seal.seal(text, context=self._address),
            expires_at=expires_at,
            owner=owner(),
        )
        self._store.forget(id)  # the same text has another handle each time
        with suppress(TaskNotActive):  # the store records it all the same; a command is no task
            self._store.track(entry)

    def remove(self, id: str) -> None:
        """Remove an entry, which is revoked now."""
        self._store.forget(id)

    def orphans(self) -> Iterator[tuple[str, str]]:
        """Yield id and text of the entries of processes that no longer run."""
        for entry in self._store.live():
            if entry.broker == f"exec {self._address}" and gone(entry.owner):
                text = self._seal.open(entry.handle, context=self._address)
                if text is not None:
                    yield entry.call_id, text

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class OpenBaoClient:
    """OpenBao, as this user reaches it: with a login of *session*, or with a *token* that the user passed."""

    def __init__(self, session: OpenBaoSession, token: Secret | None, outbox: Outbox) -> None:
        self.session, self.outbox = session, outbox
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
            StoreError: The login could not be written to the outbox. It ends by its expiry, and nothing
                was read with it.
        """
        return Leases(self)

    def sweep(self) -> list[str]:
        """Revoke what killed runs have left. Return the ids of the entries that could not be revoked."""
        failed = []
        for id, text in self.outbox.orphans():
            try:
                self.revoke(text)
                self.outbox.remove(id)
            except IssueError:
                failed.append(id)
        return failed

    def revoke(self, text: str) -> None:
        """Revoke the token or the lease of an entry. One that has ended already is no error.

        Raises:
            IssueError: It is not known to be revoked.
        """
        kind, _, id = text.partition(" ")
        if kind == "lease":
            login = self.user_login or drive(self.session.sync.shared_login())
            self.post("sys/leases/revoke", login, lease_id=id, sync=True)
            return
        try:
            self.post("auth/token/revoke-self", Login(Secret(id), "", 0.0))
        except RequestRefused as refusal:
            if refusal.status != FORBIDDEN:  # OpenBao's answer for a token that has ended
                raise


class Leases:
    """One login and its leases. `due` says when to extend them, in seconds since the epoch."""

    def __init__(self, client: OpenBaoClient) -> None:
        self._client, self._id = client, secrets.token_urlsafe(12)
        self._lifetimes: dict[str, float] = {}  # seconds, by the text of the entry
        self._is_our_token = client.user_login is None
        self.due = math.inf
        self._login = client.user_login or drive(client.session.sync.login())
        if self._is_our_token:
            self._add(f"token {self._login.token.reveal()}", self._login.expires_at - time.time())

    def read(self, id: str) -> tuple[Secret, bool]:
        """Read the secret at a path. Return it, and whether it has a lease, which `revoke` ends.

        Raises:
            IssueError: OpenBao gave no secret.
            StoreError: The lease could not be written to the outbox; `revoke` knows it.
        """
        leased = OpenBaoSecret(id, self._client.session, self._login).read_with_lease()
        if leased.lease:
            self._add(f"lease {leased.lease}", leased.seconds)
        return leased.secret, bool(leased.lease)

    def extend(self) -> bool:
        """Extend the login and the leases. Return False if one nears the end of its longest life.

        Raises:
            IssueError: OpenBao did not answer.
            StoreError: An extension could not be written to the outbox.
        """
        self.due = math.inf
        for text, lifetime in self._lifetimes.items():
            try:
                seconds = self._renew(text, lifetime)
            except RequestRefused:
                return False
            if seconds < lifetime / 2:
                return False
            self._add(text, lifetime, seconds)
        return True

    def revoke(self) -> None:
        """Revoke the leases and our own token.

        When this returns, the database has dropped the roles, if the policy lets us wait for that.

        Raises:
            IssueError: Some are not known to be revoked; they stay in the outbox.
        """
        failure: IssueError | None = None
        for text in reversed(self._lifetimes):  # the token last, since it revokes the leases
            try:
                self._revoke(text)
            except IssueError as error:
                failure = error
        if failure is not None:
            raise failure

    def _add(self, text: str, lifetime: float, remaining: float | None = None) -> None:
        seconds = lifetime if remaining is None else remaining
        self._lifetimes[text] = lifetime
        self.due = min(self.due, time.time() + seconds * _RENEW_AFTER)
        if self._has_entry(text):
            self._client.outbox.put(self._entry_id(text), text, time.time() + seconds)

    def _renew(self, text: str, lifetime: float) -> float:
        kind, _, id = text.partition(" ")
        if kind == "token":
            answer = self._client.post("auth/token/renew-self", self._login)
            seconds = (answer.get("auth") or {}).get("lease_duration")
        else:
            increment = int(lifetime)
            answer = self._client.post("sys/leases/renew", self._login, lease_id=id, increment=increment)
            seconds = answer.get("lease_duration")
        return float(seconds) if isinstance(seconds, int) else 0.0

    def _revoke(self, text: str) -> None:
        if self._has_entry(text):
            self._client.revoke(text)
            self._client.outbox.remove(self._entry_id(text))
        else:
            id = text.partition(" ")[2]
            with suppress(RequestRefused):  # the policy does not permit it: the lease ends with the token
                self._client.post("sys/leases/revoke", self._login, lease_id=id, sync=True)

    def _has_entry(self, text: str) -> bool:
        """Return whether it has its own entry in the outbox. A lease of our own token ends with the token."""
        return not self._is_our_token or text.startswith("token ")

    def _entry_id(self, text: str) -> str:
        return f"{self._id}/{[*self._lifetimes].index(text)}"
