"""Which broker serves a resource on a path, and what that broker says of itself, read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from agentguard.errors import ConfigurationError
from agentguard.model import Resource, ToolPath
from agentguard.ports import Broker, BrokerTraits, Store

__all__ = ["Brokers", "Route", "Routes"]

Brokers = Mapping[tuple[str | None, ToolPath], Broker]
Note = Callable[[str, float], tuple[str, float]]
DEFAULT_TRAITS = BrokerTraits()


@dataclass(frozen=True, slots=True)
class Route:
    """A broker on one path, and what its `ports.BrokerTraits` mean for that path.

    `note` is set where a note in the guard's own store is all that the broker's `revoke` does. `waits` says
    that a task may end while the broker mints.
    `outlives` is in seconds.
    """

    name: str
    broker: Broker
    legacy: bool
    prepares: bool
    reused: bool
    binds_arguments: bool
    note: Note | None
    waits: bool
    outlives: float

    @classmethod
    def to(cls, broker: Broker, resource: str | None, path: ToolPath, store: Store) -> Self:
        """Read what the broker says of itself to a guard with this store.

        Raises:
            ConfigurationError: It does not serve the path.
        """
        if path not in broker.paths:
            raise ConfigurationError(
                f"the broker for {path} mints only for {sorted(broker.paths)}",
                hint="give each path a broker of its own",
            )
        traits: BrokerTraits = getattr(broker, "traits", DEFAULT_TRAITS)
        return cls(
            name=f"{resource or '*'}/{path}",
            broker=broker,
            legacy=traits.legacy,
            prepares=hasattr(broker, "prepare") or hasattr(broker, "aprepare"),
            reused=path in traits.reuse,
            binds_arguments=traits.binds_arguments,
            note=_note_of(broker) if traits.notes_in is store else None,
            waits=not getattr(broker, "inline", False),
            outlives=traits.outlives,
        )


def _note_of(broker: Broker) -> Note | None:
    """Return the broker's `note`, unless its `revoke` may do more than to note.

    If a subclass overrides `revoke` but inherits `note`, the note may no longer be all that revoke does, so
    it is not used.
    """
    note: Note | None = getattr(broker, "note", None)
    if note is None:
        return None
    methods = [name for name in ("note", "revoke", "arevoke") if hasattr(broker, name)]
    definers = {next((kind for kind in type(broker).__mro__ if name in vars(kind)), None) for name in methods}
    return note if len(definers) == 1 else None


class Routes:
    """All routes of a guard. *brokers* are keyed by resource name (None for any) and path."""

    def __init__(self, brokers: Brokers, store: Store) -> None:
        self._routes = {
            (resource, path): Route.to(broker, resource, path, store)
            for (resource, path), broker in brokers.items()
        }
        self._with_brokers = {resource for resource, _ in brokers if resource is not None}

    def find(self, resource: Resource, path: ToolPath) -> Route | None:
        """Return the route of a resource on a path, or None.

        A resource that has a broker of its own is never served by those for all resources.
        """
        return self._routes.get((resource.name if resource.name in self._with_brokers else None, path))

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())
