"""What must be revoked at OpenBao if this run dies, in a file that the command of a run can read and write.

The command runs as the same user, so no entry holds anything that opens the vault, and no entry is believed
because it stands there.

- Of a login of ours there is the accessor of its token. It revokes the token, if OpenBao permits that, and
  does nothing else. `openbao.OpenBaoClient` asks OpenBao whose token it is before it revokes it.
- A lease of a token that the user passed is sealed with a key that is derived from that token. The command
  does not have the token, so it can neither read nor make such an entry.

The command can remove entries. What they name then ends by its expiry.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from agentguard.credentials.sealing import SealingKey
from agentguard.enforcement.process import gone, owner
from agentguard.errors import TaskNotActive
from agentguard.model import LiveCredential, Secret
from agentguard.stores.sqlite import SqliteStore

__all__ = ["Entry", "Outbox"]

_PURPOSE = b"agentguard exec outbox"
_OWNER_LIMIT = 512  # characters; Python makes no number of thousands of digits


class Entry(NamedTuple):
    """What a process that runs no more has left. `name` is None if it was not written with our token."""

    id: str
    name: str | None
    expires_at: float


class Outbox:
    """What is to be revoked at *place* (an address and a role there), in a directory of this user.

    *token* is what the user passed, if it is what the leases belong to.
    """

    def __init__(self, directory: Path, place: str, token: Secret | None) -> None:
        self._store = SqliteStore(directory / "exec.db")
        self._ids: dict[str, str] = {}  # of the entries in the store, by the ids that callers use
        self._place = f"exec {place}" if token is None else f"exec with a token {place}"
        self._seal = None
        if token is not None:
            self._seal = SealingKey(hmac.digest(token.reveal().encode(), _PURPOSE, "sha256"))

    def put(self, id: str, name: str, expires_at: float) -> None:
        """Write an entry, or replace the one with this id. *name* is an accessor or the id of a lease.

        Raises:
            StoreError: The entry is not written.
        """
        process, previous = owner(), self._ids.get(id)
        if previous is None or self._seal is None:  # the store replaces an equal name in one step
            self._ids[id] = id
        else:  # the seal of a name differs each time: the old entry goes after the new one is there
            self._ids[id] = f"{id}~{secrets.token_urlsafe(6)}"
        entry = LiveCredential(
            call_id=self._ids[id],
            task_id="exec",
            broker=self._place,
            handle=name if self._seal is None else self._seal.seal(name, context=self._context(process)),
            expires_at=expires_at,
            owner=process,
        )
        with suppress(TaskNotActive):  # the store records it all the same; a command is no task
            self._store.track(entry)
        if previous not in (None, entry.call_id):
            self._store.forget(previous)

    def remove(self, id: str) -> None:
        """Remove an entry: what it names is revoked, or has ended.

        Raises:
            StoreError: The entry is not removed.
        """
        self._store.forget(self._ids.get(id, id))

    def holds(self, id: str) -> bool:
        """Return whether an entry of this process stands.

        Raises:
            StoreError: The entries cannot be read.
        """
        return any(entry.call_id == self._ids.get(id) for entry in self._store.live())

    def orphans(self) -> Iterator[Entry]:
        """Yield the entries of processes that no longer run."""
        for entry in filter(_is_readable, self._store.live()):
            if entry.broker == self._place and gone(entry.owner):
                name: str | None = entry.handle
                if self._seal is not None:
                    name = self._seal.open(entry.handle, context=self._context(entry.owner))
                yield Entry(entry.call_id, name, entry.expires_at)

    def count_unreadable(self) -> int:
        """Return how many entries have a form that no run writes."""
        return sum(not _is_readable(entry) for entry in self._store.live())

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _context(self, process: str) -> str:
        return f"{self._place}\n{process}"  # an entry of a run that lives does not open as that of a dead one


def _is_readable(entry: LiveCredential) -> bool:
    """Return whether the values have our types: the command can write any others into the file."""
    texts: list[object] = [entry.call_id, entry.broker, entry.handle, entry.owner]
    expires_at: object = entry.expires_at
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(expires_at, int | float)
        and len(entry.owner) <= _OWNER_LIMIT
    )
