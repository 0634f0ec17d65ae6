"""What one run of a command holds at OpenBao: a login, what was minted with it, and its certain end.

A token of our own is noted in the outbox, sealed, before anything is minted with it; it revokes
itself, and what was minted ends with it, by whoever finds the note. A token that was given is not
ours to end: its leases are noted one by one as they are minted.
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

__all__ = ["Bao", "Leases", "Outbox"]

_SHARE = 2 / 3  # of a lifetime, after which it is extended


class Outbox:
    """Notes, in a directory of this user, of what is to be revoked at *place*."""

    def __init__(self, directory: Path, place: str) -> None:
        self._store = SqliteStore(directory / "exec.db")
        self._seal, self._place = SealingKey.from_file(directory / "exec.key"), place

    def note(self, id: str, text: str, expires_at: float) -> None:
        """Note it, or that it lives longer now.

        Raises:
            StoreError: It is not noted.
        """
        held = LiveCredential(
            call_id=id,
            task_id="exec",
            broker=f"exec {self._place}",
            handle=self._seal.seal(text, context=self._place),
            expires_at=expires_at,
            owner=owner(),
        )
        self._store.forget(id)  # a sealed text is another each time
        with suppress(TaskNotActive):  # it is recorded all the same; a command is no task
            self._store.track(held)

    def strike(self, id: str) -> None:
        """Strike it out: it is revoked."""
        self._store.forget(id)

    def orphans(self) -> Iterator[tuple[str, str]]:
        """Yield what processes that are gone have noted, by id."""
        for held in self._store.live():
            if held.broker == f"exec {self._place}" and gone(held.owner):
                text = self._seal.open(held.handle, context=self._place)
                if text is not None:
                    yield held.call_id, text

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class Bao:
    """OpenBao, as one user of this machine reaches it: by logging in, or with a *token* that was given."""

    def __init__(self, session: OpenBaoSession, token: Secret | None, outbox: Outbox) -> None:
        self.session, self.outbox = session, outbox
        self.given = None if token is None else Login(token, "", math.inf)

    def ask(self, path: str, login: Login, **json: Any) -> Any:
        """Send what may be sent twice.

        Raises:
            IssueError: It was refused, or not answered.
        """
        body = json or None
        return drive(self.session.sync.request("POST", path, login, json=body, repeatable=True))

    def lease(self) -> Leases:
        """Begin with a login, and nothing minted.

        Raises:
            IssueError: The login was refused.
            StoreError: It could not be noted; it ends by its expiry, and nothing was minted with it.
        """
        return Leases(self)

    def sweep(self) -> list[str]:
        """Revoke what runs that were killed have left; returns the ids of what is still left."""
        left = []
        for id, text in self.outbox.orphans():
            try:
                self.revoke(text)
                self.outbox.strike(id)
            except IssueError:
                left.append(id)
        return left

    def revoke(self, text: str) -> None:
        """Revoke what a note is for; what has ended already is no error.

        Raises:
            IssueError: It is not known to be revoked.
        """
        kind, _, rest = text.partition(" ")
        if kind == "lease":
            login = self.given or drive(self.session.sync.shared_login())
            self.ask("sys/leases/revoke", login, lease_id=rest, sync=True)
            return
        try:
            self.ask("auth/token/revoke-self", Login(Secret(rest), "", 0.0))
        except RequestRefused as refused:
            if refused.status != FORBIDDEN:  # which is what OpenBao says to a token that is no more
                raise


class Leases:
    """One login and its leases. `due` is when, in seconds since the epoch, they should be extended."""

    def __init__(self, bao: Bao) -> None:
        self._bao, self._id = bao, secrets.token_urlsafe(12)
        self._lives: dict[str, float] = {}  # what is to be extended, as in a note, and for how many seconds
        self._ours = bao.given is None
        self.due = math.inf
        self._login = bao.given or drive(bao.session.sync.login())
        if self._ours:
            self._live(f"token {self._login.token.reveal()}", self._login.expires_at - time.time())

    def mint(self, id: str) -> tuple[Secret, bool]:
        """Read what is at the path; returns also whether it was minted, and ends with this.

        Raises:
            IssueError: It gave nothing.
            StoreError: The lease could not be noted; it is known to `end`.
        """
        minted = OpenBaoSecret(id, self._bao.session, self._login).read_with_lease()
        if minted.lease:
            self._live(f"lease {minted.lease}", minted.seconds)
        return minted.secret, bool(minted.lease)

    def extend(self) -> bool:
        """Extend all of it; False if something nears the end of what OpenBao allows it.

        Raises:
            IssueError: OpenBao did not answer.
            StoreError: It could not be noted.
        """
        self.due = math.inf
        for text, wanted in self._lives.items():
            try:
                left = self._renewed(text, wanted)
            except RequestRefused:
                return False
            if left < wanted / 2:
                return False
            self._live(text, wanted, left)
        return True

    def end(self) -> None:
        """Revoke all of it. What was minted is gone when this returns, if the policy lets us wait for it.

        Raises:
            IssueError: Some of it is not known to be revoked; it stays in the outbox.
        """
        failed: IssueError | None = None
        for text in reversed(self._lives):  # the token last: it is what the leases are revoked with
            try:
                self._revoke(text)
            except IssueError as error:
                failed = error
        if failed is not None:
            raise failed

    def _live(self, text: str, wanted: float, left: float | None = None) -> None:
        seconds = wanted if left is None else left
        self._lives[text] = wanted
        self.due = min(self.due, time.time() + seconds * _SHARE)
        if self._noted(text):
            self._bao.outbox.note(self._note_id(text), text, time.time() + seconds)

    def _renewed(self, text: str, wanted: float) -> float:
        kind, _, rest = text.partition(" ")
        if kind == "token":
            answer = self._bao.ask("auth/token/renew-self", self._login)
            found = (answer.get("auth") or {}).get("lease_duration")
        else:
            answer = self._bao.ask("sys/leases/renew", self._login, lease_id=rest, increment=int(wanted))
            found = answer.get("lease_duration")
        return float(found) if isinstance(found, int) else 0.0

    def _revoke(self, text: str) -> None:
        if self._noted(text):
            self._bao.revoke(text)
            self._bao.outbox.strike(self._note_id(text))
        else:
            with suppress(RequestRefused):  # no policy for this: it ends with the token
                self._bao.ask("sys/leases/revoke", self._login, lease_id=text.partition(" ")[2], sync=True)

    def _noted(self, text: str) -> bool:
        """Whether it has a note of its own, and does not end with our token."""
        return not self._ours or text.startswith("token ")

    def _note_id(self, text: str) -> str:
        return f"{self._id}/{[*self._lives].index(text)}"
