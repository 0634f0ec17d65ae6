"""Which places inside of a tool's arguments can be looked at: fields of objects and lists, and texts.

A server may have written the schema, so the number and the depth of the places are bounded. A place beyond
the bounds has no name, so that a rule about it is an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from agentguard.model.declared import Declared

__all__ = ["DEEPEST", "MOST_PLACES", "TEXT_KINDS", "Look", "Looks", "looks_in", "united"]

DEEPEST = 4
"""How many fields inside of each other have a name."""
MOST_PLACES = 200
"""How many fields inside of one tool's arguments have a name."""
TEXT_KINDS = ("links", "addresses", "accounts")
"""What is found inside of texts."""
_ESCAPES = frozenset({"__entity", "__expr", "__extn"})  # as names, Cedar's JSON reads them as values
_WITHOUT_TEXT = frozenset({"integer", "number", "boolean", "null"})


class Look(NamedTuple):
    """One place: the fields inside of it by their names, and the kinds of things in its texts.

    A list is no place of its own. What is inside of it is said of all its entries.
    """

    fields: dict[str, Look]
    texts: tuple[str, ...] = ()


Looks = Mapping[str, Look]
"""Places by the names of the arguments."""


def looks_in(around: Declared) -> dict[str, Look]:
    """Return all places inside of the arguments; *around* is what the schema declares of them together."""
    root, count = Look({}), 0
    waiting = deque([(root, [around], 0)])
    while waiting:
        look, places, depth = waiting.popleft()
        for name, inner in sorted(_fields(places).items()):
            if depth:
                count += 1
                if count > MOST_PLACES:
                    return root.fields
            if depth <= DEEPEST and name not in _ESCAPES:
                child = look.fields[name] = Look({}, _texts(inner))
                waiting.append((child, inner, depth + 1))
    return root.fields


def _fields(places: Iterable[Declared]) -> dict[str, list[Declared]]:
    """Return what is declared of each field of objects at these places, and of those in lists there."""
    fields: dict[str, list[Declared]] = {}
    for place in _unlisted(places):
        for name, inner in place.properties.items():
            fields.setdefault(name, []).append(inner)
    return fields


def _unlisted(places: Iterable[Declared]) -> Iterator[Declared]:
    visited, waiting = set[int](), list(places)
    while waiting:
        place = waiting.pop()
        if id(place) not in visited:
            visited.add(id(place))
            yield place
            waiting.append(place.items)


def _texts(places: Iterable[Declared]) -> tuple[str, ...]:
    kinds = {kind for place in places for kind in place.kinds or ("string",)}
    return () if kinds <= _WITHOUT_TEXT else TEXT_KINDS


def united(parts: Sequence[Looks]) -> Looks:
    """Return the places that are in any of these."""
    if len(parts) == 1:
        return parts[0]
    names = dict.fromkeys(name for looks in parts for name in looks)
    together = {name: [looks[name] for looks in parts if name in looks] for name in names}
    return {
        name: Look(
            dict(united([look.fields for look in looks])),
            tuple(kind for kind in TEXT_KINDS if any(kind in look.texts for look in looks)),
        )
        for name, looks in together.items()
    }
