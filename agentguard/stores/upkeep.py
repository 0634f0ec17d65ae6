"""What an operator does to a store: bring it to the newest schema, check it, and make it smaller.

Each kind of store has an `Upkeep` of its own. It needs what agentguard.toml says of the store, and no guard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agentguard.model import LiveCredential

__all__ = ["Compaction", "Condition", "Migration", "Upkeep"]


@dataclass(frozen=True, slots=True)
class Migration:
    """The schema version that a store had, if there was a store, and the one that it has now."""

    before: int | None
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a store holds, and what is wrong with it.

    `faults` say what is damaged. `foreign` says which rows belong to no task. `outbox` are the credentials
    that a guard has yet to revoke, as their task is over or they have expired. `in_use` are all other live
    credentials; the process of their call may be gone all the same. `counts` has numbers of rows by what they
    are. All but `faults` is empty if this agentguard does not know the schema version.
    """

    schema: int
    newest: int
    faults: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    in_use: tuple[LiveCredential, ...] = ()
    outbox: tuple[LiveCredential, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """The size of a store in bytes before and after, and how many rows were deleted, by what they are."""

    before: int
    now: int
    deleted: Mapping[str, int]


class Upkeep(Protocol):
    """The upkeep of one store. Each method may run beside guards that use the store.

    Raises:
        ConfigurationError: There is no store at the place, or this agentguard does not know its schema.
        StoreError: The store cannot be read or written.
    """

    def migrate(self) -> Migration:
        """Bring the store to the newest schema. Guards of an older agentguard deny each call from then on."""

    def check(self) -> Condition:
        """Look into the whole store, and change nothing."""

    def compact(self) -> Compaction:
        """Delete all that is over for longer than the retention, and give the space back."""
