"""What a tool's schema declares at each place of its arguments: names that no model has chosen.

The schema is read once for each tool, in bounded time, since a server may have written it. Where the schema
says nothing, or more than is read of it, nothing is declared: a key there counts as a value.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["Declared", "declared_in"]

_VISITS = 20_000  # parts of a schema at most, each as often as it describes a place; they take about 0.1 s
_EMPTY = frozenset({'""', "null", "[]", "{}"})
_ALL = ("allOf",)
_SOME = ("anyOf", "oneOf")
_SOME_OF_ONE = ("then", "else")
_SOME_BY_NAME = ("dependentSchemas", "dependencies")
_ITEMS = ("items", "prefixItems", "additionalItems", "unevaluatedItems")
_OTHERS = ("additionalProperties", "unevaluatedProperties")
_JSON_NAMES: Mapping[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    type(None): "null",
}
Part = Mapping[str, Any]


class Declared:
    """What a schema declares of one place: of an argument, a property, or the items of a list.

    `properties` holds what is declared of each property, by its name; `items` is what is declared of each
    item of a list, and `others` of each property that has no name in the schema. `optional` names the
    properties that may be left out. `omissions` holds the JSON of each empty value that says nothing, by the
    name of its property: such a value is the default, or may be one that the schema does not name. `kinds`
    are the JSON types that a value here may have, as far as the schema says, and `texts` the texts that it
    lists; where it `lists_texts`, no other text can be here.
    """

    __slots__ = ("items", "kinds", "lists_texts", "omissions", "optional", "others", "properties", "texts")

    def __init__(self) -> None:
        self.properties: dict[str, Declared] = {}
        self.omissions: dict[str, frozenset[str]] = {}
        self.optional: frozenset[str] = frozenset()
        self.kinds: frozenset[str] = frozenset()
        self.texts: frozenset[str] = frozenset()
        self.lists_texts = False
        self.items = self.others = self

    @property
    def is_list(self) -> bool:
        """Whether a value here is a list, or null."""
        return "array" in self.kinds and self.kinds <= {"array", "null"}

    def of(self, name: str) -> Declared:
        """Return what is declared of a property."""
        return self.properties.get(name, self.others)

    def omission_choices(self, name: str, value: object) -> int:
        """Return among how many empty values the model could choose if this one says nothing, else 0."""
        omissions = self.omissions.get(name, ())
        return len(omissions) if json.dumps(value) in omissions else 0


_NOTHING = Declared()


def declared_in(schema: Part | None) -> Declared:
    """Return what the schema of a tool declares of the object that holds all its arguments."""
    return _NOTHING if schema is None else _Reader(schema).read()


class _Reader:
    """Reads one schema place by place. Several parts of the schema can describe the same place."""

    def __init__(self, schema: Part) -> None:
        self._schema, self._visits = schema, _VISITS
        self._places: dict[frozenset[int], Declared] = {}
        self._waiting = deque[tuple[Declared, list[tuple[Part, bool]]]]()

    def read(self) -> Declared:
        root = self._place([self._schema])
        while self._waiting and self._visits >= 0:
            self._fill(*self._waiting.popleft())
        return root

    def _place(self, schemas: list[Any]) -> Declared:
        """Return what is declared where all these schemas apply; it is filled in later."""
        parts = list(self._applying(schemas))
        if not parts or self._visits < 0:
            return _NOTHING
        key = frozenset(id(part) for part, _ in parts)
        if (place := self._places.get(key)) is None:
            place = self._places[key] = Declared()
            place.items = place.others = _NOTHING
            self._waiting.append((place, parts))
        return place

    def _applying(self, schemas: list[Any]) -> Iterator[tuple[Part, bool]]:
        """Yield each part of a schema that is about the same value, and whether it always applies."""
        todo, visited = [(schema, True) for schema in schemas], set[int]()
        while todo and self._visits >= 0:
            part, always = todo.pop()
            self._visits -= 1
            if not isinstance(part, Mapping) or id(part) in visited:
                continue
            visited.add(id(part))
            yield part, always
            todo += [(inner, always) for inner in (*_listed(part, _ALL), *self._referred(part))]
            todo += [(inner, False) for inner in (*_listed(part, _SOME), *_conditional(part))]

    def _referred(self, part: Part) -> Iterator[object]:
        """Yield the part that a reference by a pointer names; of other references nothing is declared."""
        reference = part.get("$ref")
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return
        target: Any = self._schema
        for name in reference.split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        yield target

    def _fill(self, place: Declared, parts: list[tuple[Part, bool]]) -> None:
        needed = frozenset(name for part, always in parts if always for name in _required(part))
        schemas: dict[str, list[Any]] = {}
        for part, _ in parts:
            for name, inner in _properties(part).items():
                self._visits -= 1
                schemas.setdefault(name, []).append(inner)
                omissions = _omissions(inner, name in needed or name in _required(part))
                place.omissions[name] = place.omissions.get(name, frozenset()) | omissions
        place.optional = frozenset(schemas) - needed
        place.kinds = frozenset(kind for part, _ in parts for kind in _kinds(part))
        texts = [_listed_texts(part) for part, _ in parts if "string" in _kinds(part)]
        place.texts = frozenset(text for part in texts for text in part or ())
        place.lists_texts = bool(texts) and None not in texts
        place.properties = {name: self._place(inner) for name, inner in schemas.items()}
        place.items = self._place([inner for part, _ in parts for inner in _listed(part, _ITEMS)])
        place.others = self._place([inner for part, _ in parts for inner in _of_others(part)])


def _properties(part: Part) -> Mapping[str, Any]:
    properties = part.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _kinds(part: Part) -> list[str]:
    """Return the JSON types that a part of a schema names, or those of the values that it lists."""
    kind = part.get("type")
    if kind is not None:
        return [str(name) for name in (kind if isinstance(kind, list | tuple) else (kind,))]
    return [_JSON_NAMES.get(type(value), "object") for value in _values(part) or ()]


def _listed_texts(part: Part) -> list[str] | None:
    """Return the texts that a part of a schema lists; None if it lists no values."""
    values = _values(part)
    return None if values is None else [value for value in values if isinstance(value, str)]


def _values(part: Part) -> Sequence[object] | None:
    if "const" in part:
        return [part["const"]]
    values = part.get("enum")
    return values if isinstance(values, list | tuple) else None


def _required(part: Part) -> list[str] | tuple[str, ...]:
    names = part.get("required")
    return names if isinstance(names, list | tuple) else ()


def _omissions(schema: object, needed: bool) -> frozenset[str]:
    if isinstance(schema, Mapping) and "default" in schema:
        return frozenset({json.dumps(schema["default"], default=repr)}) & _EMPTY
    return frozenset() if needed else _EMPTY


def _listed(part: Part, keywords: tuple[str, ...]) -> Iterator[object]:
    for keyword in keywords:
        value = part.get(keyword, ())
        yield from value if isinstance(value, list | tuple) else (value,)


def _conditional(part: Part) -> Iterator[object]:
    yield from (part[keyword] for keyword in _SOME_OF_ONE if keyword in part)
    yield from _by_name(part, _SOME_BY_NAME)


def _of_others(part: Part) -> Iterator[object]:
    yield from (part[keyword] for keyword in _OTHERS if keyword in part)
    yield from _by_name(part, ("patternProperties",))


def _by_name(part: Part, keywords: tuple[str, ...]) -> Iterator[object]:
    for keyword in keywords:
        if isinstance(value := part.get(keyword), Mapping):
            yield from value.values()
