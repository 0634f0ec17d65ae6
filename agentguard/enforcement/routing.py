"""Which broker serves a resource on a path, and what it says of itself, read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from agentguard.errors import ConfigurationError
from agentguard.model import Resource, ToolPath
from agentguard.ports import Broker, Store

__all__ = ["Brokers", "Route", "Routes"]

Brokers = Mapping[tuple[str | None, ToolPath], Broker]
Note = Callable[[str, float], tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Route:
    """A broker on one path; the fields are those of `ports.Broker`, `reused` for this path alone."""

    name: str
    broker: Broker
    legacy: bool
    prepares: bool
    reused: bool
    binds_arguments: bool
    note: Note | None

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
        return cls(
            name=f"{resource or '*'}/{path}",
            broker=broker,
            legacy=bool(getattr(broker, "legacy", False)),
            prepares=hasattr(broker, "prepare") or hasattr(broker, "aprepare"),
            reused=path in getattr(broker, "reuse", ()),
            binds_arguments=bool(getattr(broker, "binds_arguments", True)),
            note=_note_of(broker, store),
        )


def _note_of(broker: Broker, store: Store) -> Note | None:
    """Return the broker's `note`, if a note in this store is all that its `revoke` does.

    Of one whose class has a `revoke` of its own above an inherited `note`, nobody knows.
    """
    note: Note | None = getattr(broker, "note", None)
    if note is None or getattr(broker, "store", None) is not store:
        return None
    own = [name for name in ("note", "revoke", "arevoke") if hasattr(broker, name)]
    homes = {next((each for each in type(broker).__mro__ if name in vars(each)), None) for name in own}
    return note if len(homes) == 1 else None


class Routes:
    """All routes of a guard; *brokers* are keyed by resource name (None for any) and path."""

    def __init__(self, brokers: Brokers, store: Store) -> None:
        self._routes = {
            (resource, path): Route.to(broker, resource, path, store)
            for (resource, path), broker in brokers.items()
        }
        self._own = {resource for resource, _ in brokers if resource is not None}

    def find(self, resource: Resource, path: ToolPath) -> Route | None:
        """Return the route of a resource on a path, or None.

        A resource that has any of its own is never served by those for all resources.
        """
        return self._routes.get((resource.name if resource.name in self._own else None, path))

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())
