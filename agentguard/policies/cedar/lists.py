"""The lengths of lists, and how many of their entries hold a value: Cedar has no operation that counts.

    context.sizes.items <= 5
    context.counts.payments.kind.certificate <= 1

A list has a size if the schema says that it is a list, and stands in no other list. The entries of a list are
counted by each text that a field of them may hold: those that the schema lists for the field, and where it
lists none, those that rules name. A list of texts is counted by these texts themselves. An absent list is
empty.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agentguard.model.arguments import Json
from agentguard.model.declared import Declared
from agentguard.model.looks import DEEPEST, MOST_PLACES
from agentguard.policies.cedar.source import Rule
from agentguard.policies.cedar.syntax import attribute_paths
from agentguard.policies.cedar.values import Refused, quoted

__all__ = ["NO_LISTS", "NO_VALUES", "Lists", "Values", "lists_in", "values_named"]

Values = Mapping[tuple[str, ...], Collection[str]]
"""The texts that rules name, by the path from ``context.counts`` to what may hold them."""


@dataclass(frozen=True, slots=True)
class _List:
    """One list: the texts by which its entries are counted, and those by which fields of them are."""

    texts: tuple[str, ...]
    fields: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists in an object, and those in the objects inside of it, by their names."""

    lists: Mapping[str, _List] = field(default_factory=dict)
    objects: Mapping[str, Lists] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.lists or self.objects)

    def sizes_type(self) -> str:
        """Return the Cedar type of their lengths."""
        types = dict.fromkeys(self.lists, "Long")
        return _record({**types, **{name: inner.sizes_type() for name, inner in self.objects.items()}})

    def counts_type(self) -> str:
        """Return the Cedar type of the counts of their entries; nothing if there are none."""
        types = {name: _count_type(place) for name, place in self.lists.items()}
        types |= {name: inner.counts_type() for name, inner in self.objects.items()}
        types = {name: text for name, text in types.items() if text}
        return _record(types) if types else ""

    def sizes(self, values: Json) -> dict[str, Json]:
        """Return their lengths in an object.

        Raises:
            Refused: There is another value where a list has to be.
        """
        sizes: dict[str, Json] = {name: len(_entries(values, name)) for name in self.lists}
        return sizes | {name: inner.sizes(_of(values, name)) for name, inner in self.objects.items()}

    def counts(self, values: Json) -> dict[str, Json]:
        """Return how many of their entries in an object hold each value.

        Raises:
            Refused: There is another value where a list has to be.
        """
        counts: dict[str, Json] = {}
        for name, place in self.lists.items():
            entries = _entries(values, name)
            if place.fields:
                parts = {key: [_of(entry, key) for entry in entries] for key in place.fields}
                counts[name] = {key: _counted(parts[key], texts) for key, texts in place.fields.items()}
            else:
                counts[name] = _counted(entries, place.texts)
        return counts | {name: inner.counts(_of(values, name)) for name, inner in self.objects.items()}

    def seen(self, is_named: Callable[[str], bool], is_whole: Callable[[str], bool]) -> Lists:
        """Return the lists, objects and fields that are named; all in a record that is named as a whole."""
        lists = {
            name: place
            if is_whole(name)
            else _List(place.texts, {key: texts for key, texts in place.fields.items() if is_named(key)})
            for name, place in self.lists.items()
            if is_named(name)
        }
        objects = {
            name: inner if is_whole(name) else inner.seen(is_named, is_whole)
            for name, inner in self.objects.items()
            if is_named(name)
        }
        return Lists(lists, objects)

    def names_at(self, path: Iterable[str], *, counted: bool) -> tuple[str, ...]:
        """Return the names in the record of sizes or of counts at this path; none if there is no record."""
        names = list(path)
        if not names:
            return (*self.lists, *self.objects)
        if names[0] in self.objects:
            return self.objects[names[0]].names_at(names[1:], counted=counted)
        place = self.lists.get(names[0])
        if place is None or not counted or len(names) > 2:
            return ()
        return place.fields.get(names[1], ()) if len(names) == 2 else (*place.fields, *place.texts)


NO_LISTS = Lists()
NO_VALUES: Values = MappingProxyType({})


def lists_in(around: Declared, texts_of_rules: Values) -> Lists:
    """Return the lists among the arguments; *around* is what the schema declares of them together."""
    return _lists(around, texts_of_rules, (), [MOST_PLACES])


def _lists(around: Declared, texts_of_rules: Values, path: tuple[str, ...], room: list[int]) -> Lists:
    lists, objects = dict[str, _List](), dict[str, Lists]()
    for name, place in sorted(around.properties.items()):
        here = (*path, name)
        room[0] -= 1
        if room[0] < 0:
            break
        if place.is_list:
            inner = place.items.properties.items()
            fields = {key: _texts(part, texts_of_rules, (*here, key)) for key, part in inner}
            texts = () if fields else _texts(place.items, texts_of_rules, here)
            lists[name] = _List(texts, {key: texts for key, texts in sorted(fields.items()) if texts})
        elif place.properties and len(path) < DEEPEST and (part := _lists(place, texts_of_rules, here, room)):
            objects[name] = part
    return Lists(lists, objects)


def _texts(place: Declared, texts_of_rules: Values, path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts by which a place is counted."""
    further = () if place.lists_texts else texts_of_rules.get(path, ())
    return tuple(sorted({*place.texts, *further})) if "string" in place.kinds else ()


def values_named(rules: Iterable[Rule]) -> Values:
    """Return the texts by which rules want entries counted."""
    values: dict[tuple[str, ...], set[str]] = {}
    for rule in rules:
        if "counts" in rule.text or "\\" in rule.text:
            for path in attribute_paths(rule.node):
                if path[:2] == ("context", "counts"):
                    values.setdefault(path[2:-1], set()).add(path[-1])
    return values


def _count_type(place: _List) -> str:
    if place.fields:
        return _record({key: _record(dict.fromkeys(texts, "Long")) for key, texts in place.fields.items()})
    return _record(dict.fromkeys(place.texts, "Long")) if place.texts else ""


def _record(types: Mapping[str, str]) -> str:
    return f"{{ {', '.join(f'{quoted(name)}: {text}' for name, text in sorted(types.items()))} }}"


def _of(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None


def _entries(values: Json, name: str) -> list[Json]:
    entries = _of(values, name)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise Refused(f"{name!r} is not a list")
    return entries


def _counted(values: Iterable[Json], texts: Iterable[str]) -> dict[str, Json]:
    counts: dict[str, Json] = dict.fromkeys(texts, 0)
    for value in values:
        if isinstance(value, str) and value in counts:
            counts[value] += 1
    return counts
