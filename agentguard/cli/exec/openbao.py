"""OpenBao, as one run of a command reaches it, and the revocation of what killed runs have left there."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agentguard.cli.exec.leases import Leases
from agentguard.cli.exec.outbox import Entry, Outbox
from agentguard.concurrency.drive import drive
from agentguard.credentials.openbao.session import Login, OpenBaoSession, RequestRefused
from agentguard.errors import IssueError
from agentguard.model import Secret
from agentguard.text import printable

__all__ = ["OpenBaoClient"]

_MOST = 64  # entries that a run asks OpenBao about
_SWEEP_SECONDS = 15.0
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

        OpenBao is asked about at most 64 entries, and no further one after 15 seconds; the others are left
        to the next run. An entry that names the token of somebody else is removed.
        """
        problems: list[str] = []
        if unreadable := self.outbox.count_unreadable():
            problems.append(f"exec.db holds {unreadable} notes that cannot be read; they are left alone")
        entries = deque(entry for entry in self.outbox.orphans() if not self._has_ended(entry))
        ends, most = time.monotonic() + _SWEEP_SECONDS, len(entries) - _MOST
        while len(entries) > max(0, most) and time.monotonic() < ends:
            entry = entries.popleft()
            try:
                problem = self._revoke_orphan(entry)
            except IssueError as error:
                problem = f"is not revoked yet, and ends by itself at {_moment(entry.expires_at)}: {error}"
            if problem is not None:
                problems.append(f"what the run {printable(entry.id)} left at OpenBao {problem}")
        if entries:
            problems.append(f"{len(entries)} entries of killed runs are left to the next run")
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


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # the command can write what it likes there
        return "an unknown moment"
