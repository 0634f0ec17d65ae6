"""Which limits of a mandate have a value in them, and who put it there."""

from __future__ import annotations

from collections.abc import Iterator

from agentguard.model import Json, Mandate, ToolSpec
from agentguard.model.mandate import IF_TAKEN, VOUCHES
from agentguard.provenance.leaves import Leaf, leaves

__all__ = ["LimitsOfCall"]

Place = tuple[str, str]
"""The name of a limit, and who vouches for the value by it."""


class LimitsOfCall:
    """The limits of a mandate, for the values in one call of a tool."""

    def __init__(self, spec: ToolSpec, mandate: Mandate) -> None:
        self._spec, self._mandate = spec, mandate
        self._has_any = bool(mandate.args) or mandate.counterparties is not None
        self._with_fields = frozenset(self._arguments_with_fields())
        self._paths: dict[tuple[bool, Leaf], set[str]] = {}

    def enter(self, name: str, value: Json) -> None:
        """Note where each value in an argument stands, if a field inside of it is limited."""
        self._paths = {}
        if name in self._with_fields:
            for path, leaf in leaves(value):
                place = f"{name}.{path}" if path else name
                self._paths.setdefault((isinstance(leaf, bool), leaf), set()).add(place)

    def places(self, name: str, value: str | int | float) -> tuple[Place, ...]:
        """Return each limit that has this value for an argument, or for a field ``argument.field``.

        A limit of a field vouches for a value of the argument if the value stands in such fields alone.
        """
        if not self._has_any:
            return ()
        places = list(self._places(name, value))
        paths = self._paths.get((isinstance(value, bool), value), set())
        of_fields = [list(self._places(path, value)) for path in paths - {name}]
        if len(of_fields) == len(paths) and all(of_fields):
            places += [place for of_field in of_fields for place in of_field]
        return tuple(places)

    def _places(self, name: str, value: str | int | float) -> Iterator[Place]:
        place_for_tool = f"args.{self._spec.name}.{name}"
        for place in (f"args.{name}", place_for_tool, f"{place_for_tool}{IF_TAKEN}", "counterparties"):
            if place != "counterparties" or name in self._spec.sinks:
                author = self._mandate.authors.get(place, {}).get(value, "").partition(" ")[0]
                if author in VOUCHES:
                    yield place, VOUCHES[author]

    def _arguments_with_fields(self) -> Iterator[str]:
        """Yield the arguments of which a field is limited."""
        for key in self._mandate.args:
            argument, field, _ = key.removeprefix(f"{self._spec.name}.").partition(".")
            if field:
                yield argument
