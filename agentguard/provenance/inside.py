"""What stands inside of the arguments of a call, at the places at which rules look."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from agentguard.model.arguments import Json
from agentguard.model.declared import Declared
from agentguard.model.looks import Look, Looks
from agentguard.provenance.items import UNKNOWN, Item, items_in
from agentguard.provenance.leaves import DEEPEST, MOST, Leaf, leaves
from agentguard.provenance.structure import take_apart

__all__ = ["Place", "forms_of", "places_in"]


class Place(NamedTuple):
    """What stands at one place: its values, the fields inside of it, and the things in its texts by kind.

    None among the values stands for one for which nobody vouches, as in `take_apart`. `values` is None where
    no value has the place. `path` are the names from the argument to it.
    """

    path: str
    values: list[Leaf] | None
    inside: Mapping[str, Place]
    texts: Mapping[str, tuple[Item, ...]]


def places_in(values: Mapping[str, Json], looks: Looks, around: Declared) -> dict[str, Place]:
    """Return what stands at the places in *looks*, by the names of the arguments."""
    items_by_text = _Found()
    return {name: _place(name, [(values, around)], name, look, items_by_text) for name, look in looks.items()}


class _Found(dict[str, Mapping[str, tuple[Item, ...]]]):
    """What was found in each text of one call: a text may be looked through for several places."""

    def __missing__(self, text: str) -> Mapping[str, tuple[Item, ...]]:
        self[text] = items = items_in(text)
        return items


Holder = tuple[Mapping[str, Json], Declared] | None
"""An object, and what is declared of it. None stands for all objects beyond the bounds."""


def _place(name: str, holders: Collection[Holder], path: str, look: Look, items_by_text: _Found) -> Place:
    """Return what the field *name* of these objects holds."""
    there = [(holder[0][name], holder[1]) for holder in holders if holder is not None and name in holder[0]]
    inner, values = list[Holder](), list[Leaf]()
    for value, around in there:
        values += take_apart(name, value, around)[0]
        inner += _objects(value, around.of(name)) if look.fields else ()
    texts = {kind: _items(kind, (value for value, _ in there), items_by_text) for kind in look.texts}
    if None in holders:
        values.append(None)
        inner.append(None)
        texts = {kind: {**items, UNKNOWN: None} for kind, items in texts.items()}
    return Place(
        path,
        values if there or values else None,
        {
            field: _place(field, inner, f"{path}.{field}", part, items_by_text)
            for field, part in look.fields.items()
        },
        {kind: tuple(items) for kind, items in texts.items()},
    )


def _objects(value: Json, place: Declared) -> Iterator[Holder]:
    """Yield the objects in a value: itself, or those in a list, each with what is declared of it."""
    waiting, count = [(value, place, 0)], 0
    while waiting:
        value, place, depth = waiting.pop()
        count += 1
        if count > MOST or depth > DEEPEST:
            yield None
            return
        if isinstance(value, dict):
            yield value, place
        elif isinstance(value, list):
            waiting += ((entry, place.items, depth + 1) for entry in reversed(value))


def _items(kind: str, values: Iterable[Json], items_by_text: _Found) -> dict[Item, None]:
    items: dict[Item, None] = {}
    for value in values:
        for _, leaf in leaves(value):
            if leaf is None:
                items[UNKNOWN] = None
            elif isinstance(leaf, str):
                items.update(dict.fromkeys(items_by_text[leaf][kind]))
    return items


def forms_of(places: Iterable[Place]) -> Iterator[str]:
    """Yield the forms of all things in the texts at places, and inside of these."""
    for place in places:
        yield from (form for items in place.texts.values() for item in items for form in item)
        yield from forms_of(place.inside.values())
