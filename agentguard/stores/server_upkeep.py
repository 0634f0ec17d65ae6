"""The upkeep of a store on a server, which looks after its own files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from agentguard.errors import ConfigurationError
from agentguard.model import LiveCredential
from agentguard.ports import Store
from agentguard.stores.upkeep import Compaction, Condition, Migration

if TYPE_CHECKING:  # each needs an extra
    from agentguard.stores.postgres import PostgresStore
    from agentguard.stores.redis import RedisStore

__all__ = ["ServerUpkeep", "postgres_upkeep", "redis_upkeep"]


class ServerStore(Store, Protocol):
    """A store on a server."""

    def check(self) -> None:
        """Look at the server now."""

    def close(self) -> None:
        """Close the connections."""


class ServerUpkeep:
    """The upkeep of one store on a server; see `Upkeep`.

    *version* is the schema version that this agentguard knows. *migrate* returns the one that was there, or
    None if there was no store. Each method closes the store. `check` makes a store that is not there, as each
    guard does. Damage is found by the server itself, so `check` finds none. *counts* returns the numbers of
    a `Condition`; without it, they are not known.
    """

    def __init__(
        self,
        store: ServerStore,
        version: int,
        migrate: Callable[[], int | None],
        *,
        space: str,
        counts: Callable[[], Mapping[str, int]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._version, self._migrate, self._space = store, version, migrate, space
        self._counts, self._clock = counts, clock

    def migrate(self) -> Migration:
        """Bring the store to the newest schema, or make it."""
        try:
            return Migration(self._migrate(), self._version)
        finally:
            self._store.close()

    def check(self) -> Condition:
        """Look at the server and its schema, and at what is live.

        Raises:
            ConfigurationError: The store has another schema version, or the server may lose what it keeps.
            StoreError: The server cannot be reached.
        """
        try:
            self._store.check()
            live, counts = self._store.live(), self._counts()
            active = {id_ for id_ in {one.task_id for one in live} if self._is_active(id_)}
        finally:
            self._store.close()
        now = self._clock()
        in_use = {one for one in live if one.task_id in active and one.expires_at > now}
        return Condition(
            schema=self._version,
            newest=self._version,
            in_use=_by_expiry(in_use),
            outbox=_by_expiry(set(live) - in_use),
            counts=counts,
        )

    def compact(self) -> Compaction:
        """Say who gives the space back.

        Raises:
            ConfigurationError: Always: it is not for a client of the server to do.
        """
        raise ConfigurationError("a store on a server is not compacted from here", hint=self._space)

    def _is_active(self, task_id: str) -> bool:
        state = self._store.task(task_id)
        return state is not None and state.ended(self._clock()) is None


def _by_expiry(credentials: set[LiveCredential]) -> tuple[LiveCredential, ...]:
    return tuple(sorted(credentials, key=lambda credential: (credential.expires_at, credential.call_id)))


def redis_upkeep(store: RedisStore) -> ServerUpkeep:
    """Return the upkeep of a store in Redis or Valkey."""
    from agentguard.stores.redis.session import SCHEMA

    space = "Redis and Valkey delete what is over by themselves, once the time of [store] keep has passed"
    return ServerUpkeep(store, int(SCHEMA), store.migrate, space=space)


def postgres_upkeep(store: PostgresStore) -> ServerUpkeep:
    """Return the upkeep of a store in PostgreSQL."""
    from agentguard.stores.postgres._tables import VERSION

    space = (
        "guards delete what is over, and the server's autovacuum makes the room free for new rows; to give it"
        " back to the disk, an owner runs VACUUM FULL while no guard runs"
    )
    return ServerUpkeep(store, VERSION, store.migrate, space=space, counts=store.counts)
