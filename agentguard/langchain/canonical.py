"""A tool's arguments as JSON: everything that the tool gets, by the names that its schema shows.

Pydantic's own serialization is for output: a field may be left out of it (``exclude``), hidden (`SecretStr`)
or given another form by a serializer. What a policy is not shown and a digest does not cover could be
changed by an injection unseen, so models are taken apart field by field. What a tool can see and JSON does
not say stands beside it in words (`Arguments.distinctions`). State that can be
shown in neither way is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime, time
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from re import Pattern
from types import NoneType
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import AliasChoices, BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agentguard.errors import DenialCode, Denied
from agentguard.langchain.hidden_state import class_name, hidden_state
from agentguard.model import Arguments, CallLimits
from agentguard.model.arguments import canonical_json, digest_of
from agentguard.model.quick import ATOMS

__all__ = ["canonicalize", "require_within"]

FLAT = frozenset((str, int, bool, NoneType))
NONE: frozenset[str] = frozenset()
_ROOM = 200_000  # characters of all distinctions of a call at most
_FEW = 200  # characters of the numbers of one list; more are told by their digest
_REPR = (datetime, time, Pattern)  # their JSON leaves something out: a fold, a time zone's name, flags
Pairs = Iterable[tuple[Any, Any]]
Place = tuple[Any, ...]  # (the place around it, the name or position in that)


def require_within(limits: CallLimits, raw: object) -> None:
    """Require that the arguments of a call are within the limits.

    Raises:
        Denied: They hold more.
    """
    if excess := limits.arguments.excess(raw):
        advice = f"The arguments hold {excess}. Make the call again with less."
        raise Denied.of(DenialCode.INVALID_ARGUMENTS, f"the arguments hold {excess}", advice=advice)


def canonicalize(
    values: Mapping[str, Any],
    *,
    raw: str = "",
    determined: frozenset[str] = NONE,
    order: tuple[str, ...] | None = (),
) -> Arguments:
    """Return Python values as canonical JSON, frozen, with what tells them from others of the same JSON.

    A set is a sorted list. A secret of pydantic's is the SHA-256 of it, so that another one is another
    call; one that is short can be guessed from it. *determined* names the arguments of which the schema
    leaves no choice of a class; of these no class is said. *order* is the usual order of arguments, where the
    tool can see another one. Names that are not in it usually follow in alphabetical order.

    Raises:
        Denied: A value has no JSON form, can be read once only, or has state that cannot be shown.
    """
    try:
        flat = FLAT.issuperset(map(type, values.values()))
        usual = order is None or list(values) == _usual(values, order)
        if flat and usual:
            return Arguments.of(values, (), raw)
        reading = _Reading(determined)
        if not usual:
            reading.note((), f"order {json.dumps(list(values))}")
        plain = reading.object(values.items(), ())
        return Arguments.of(plain, tuple(reading.distinctions), raw)
    except (ValueError, RecursionError, PydanticSerializationError) as error:
        raise Denied.of(DenialCode.INVALID_ARGUMENTS, f"no canonical form: {error}") from None


def _usual(values: Mapping[str, Any], order: tuple[str, ...]) -> list[str]:
    names = [name for name in order if name in values]
    return names if len(names) == len(values) else [*names, *sorted(values.keys() - set(order))]


class _Reading:
    """Takes the arguments of one call apart, and notes what their JSON does not say."""

    def __init__(self, determined: frozenset[str]) -> None:
        self._determined, self._free = determined, True
        self.distinctions: list[str] = []
        self._room = _ROOM

    def note(self, place: Place, text: str) -> None:
        """Note something in words.

        Raises:
            ValueError: It is too much for rules and people to read.
        """
        distinction = f"{_text(place)}: {text}"
        self._room -= len(distinction)
        if self._room < 0:
            raise ValueError(
                f"there is too much in the arguments that JSON does not say ({_ROOM} characters)"
            )
        self.distinctions.append(distinction)

    def object(self, pairs: Pairs, place: Place) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, value in pairs:
            name = key if type(key) is str else self._name(key, place)
            if name in plain:
                raise ValueError(f"{name} stands there twice")
            if not place:
                self._free = name not in self._determined
            plain[name] = value if type(value) in FLAT else self._plain(value, (place, name))
        return plain

    def _note_order(self, keys: Iterable[Any], place: Place) -> None:
        """Note the order of keys, unless it is that of the canonical form."""
        names = list(map(str, keys))
        if len(names) > 1 and names != sorted(names):
            self.note(place, f"order {json.dumps(names)}")

    def _name(self, key: Any, place: Place) -> str:
        """Return the JSON form of a key that is no plain text."""
        if state := hidden_state(key):
            raise ValueError(
                f"a key in {_text(place)[:_FEW]} has state that is not shown: {', '.join(state)}"
            )
        name: str = next(iter(to_jsonable_python({key: None})))
        kind = class_name(type(key))
        self.note((place, name), f"key of {kind} {key!r}" if type(key) in ATOMS else f"key of {kind}")
        return name

    def _plain(self, value: Any, place: Place) -> Any:
        kind = type(value)
        if kind in FLAT:
            return value
        if kind is float:
            if value.is_integer() and (self._free or str(value) == "-0.0"):
                self.note(place, repr(value))  # as JSON it is an integer, and 0
            return value
        if kind is not dict and kind is not list:
            self._distinguish(value, place)
        return self._collection(value, place)

    def _collection(self, value: Any, place: Place) -> Any:
        if isinstance(value, list | tuple | deque):
            return self._list(value, place)
        if isinstance(value, BaseModel):
            return self._model(value, place)
        if isinstance(value, Mapping):
            plain = self.object(value.items(), place)
            self._note_order(plain, place)
            return plain
        if isinstance(value, Set):
            return self._sorted(value, place)
        return self._taken_apart(value, place)

    def _list(self, values: Sequence[Any], place: Place) -> list[Any]:
        if not ATOMS.issuperset(map(type, values)):
            return [self._plain(item, (place, position)) for position, item in enumerate(values)]
        numbers = {
            position: repr(value)
            for position, value in enumerate(values)
            if type(value) is float and value.is_integer() and (self._free or str(value) == "-0.0")
        }
        if numbers:  # one note for all, as a vector has many
            text = json.dumps(numbers)
            self.note(place, f"floats {text if len(text) <= _FEW else digest_of(text.encode())}")
        return list(values)

    def _sorted(self, values: Set[Any], place: Place) -> list[Any]:
        """Return a set as a list that is sorted by JSON, then by what JSON does not say."""
        outer, items = self.distinctions, list[tuple[bytes, list[str], Any]]()
        for value in values:
            self.distinctions = []
            plain = self._plain(value, (place, -1))
            items.append((canonical_json(plain), self.distinctions, plain))
        self.distinctions, text = outer, _text(place)
        items.sort(key=lambda item: item[:2])
        for position, (_, distinctions, _) in enumerate(items):
            outer.extend(f"{text}[{position}]{d.removeprefix(f'{text}[-1]')}" for d in distinctions)
        return [plain for _, _, plain in items]

    def _distinguish(self, value: Any, place: Place) -> None:
        """Note the class of a value, where the schema leaves a choice of it.

        Raises:
            ValueError: It has state that is not shown.
        """
        if state := hidden_state(value):
            raise ValueError(f"{_text(place)[:_FEW]} has state that is not shown: {', '.join(state)}")
        if isinstance(value, Enum):
            if self._free or not _differ_in_json(type(value)):
                self.note(place, f"class {class_name(type(value))}.{value.name}")
        elif self._free:
            self.note(place, f"class {class_name(type(value))}")
        if isinstance(value, _REPR) and self._free:
            self.note(place, repr(value))
        if isinstance(value, deque) and value.maxlen is not None and self._free:
            self.note(place, f"at most {value.maxlen} items")
        if isinstance(value, defaultdict) and self._free:
            factory = value.default_factory
            self.note(place, f"default {class_name(factory) if isinstance(factory, type) else factory!r}")

    def _taken_apart(self, value: Any, place: Place) -> Any:
        if isinstance(value, Enum):
            return self._plain(value.value, place)
        if isinstance(value, float):
            return self._plain(float(value), place)
        if dataclasses.is_dataclass(value):
            self._note_order(_further(value), place)
            return self.object(_attributes(value), place)
        if isinstance(value, Secret | SecretStr | SecretBytes):
            return self._secret(value.get_secret_value(), place)
        if isinstance(value, Iterator):
            raise ValueError("an iterator is gone when it was looked at")
        return str(value) if type(value) is ZoneInfo else to_jsonable_python(value)

    def _secret(self, value: Any, place: Place) -> str:
        """Return a digest that covers also what JSON does not say of the secret, and note none of that."""
        outer, self.distinctions = self.distinctions, []
        plain = self._plain(value, place)
        inner, self.distinctions = self.distinctions, outer
        return f"sha256:{sha256(canonical_json([plain, inner] if inner else plain)).hexdigest()}"

    def _model(self, model: BaseModel, place: Place) -> Any:
        if isinstance(model, RootModel):
            return self._plain(model.root, place)
        kind, extra = type(model), model.model_extra
        # a tool sees by `exclude_unset` what was not set
        if unset := kind.model_fields.keys() - model.model_fields_set:
            self.note(place, f"not set {json.dumps(sorted(unset))}")
        members = [(member, getattr(model, name)) for name, member in _fields(kind)]
        if extra:
            self._note_order(extra, place)
            members += extra.items()
        return self.object(members, place)


def _text(place: Place) -> str:
    parts: list[str] = []
    while place:
        place, part = place
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif part.isidentifier():
            parts.append(f".{part}")
        else:  # quoted, so that no key can pretend to be another place
            parts.append(f"[{json.dumps(part)}]")
    return "".join(reversed(parts)).removeprefix(".") or "arguments"


@lru_cache(256)
def _differ_in_json(kind: type[Enum]) -> bool:
    """Return whether JSON tells the members of an enum apart, as it does not tell "1" and b"1"."""
    forms = {canonical_json(to_jsonable_python(member.value)) for member in kind}
    return len(forms) == len(kind)


@lru_cache(1024)
def _fields(kind: type[BaseModel]) -> tuple[tuple[str, str], ...]:
    """Return the names of a model's fields, each with that in the JSON Schema."""
    return tuple((name, _shown(name, field)) for name, field in kind.model_fields.items())


def _attributes(value: Any) -> Pairs:
    declared: Mapping[str, FieldInfo] = getattr(value, "__pydantic_fields__", {})
    for name in (*(field.name for field in dataclasses.fields(value)), *_further(value)):
        yield _shown(name, declared.get(name)), getattr(value, name)


def _further(value: Any) -> list[str]:
    """Name the attributes of a dataclass that are no fields."""
    names = {field.name for field in dataclasses.fields(value)}
    return [name for name in getattr(value, "__dict__", ()) if name not in names]


def _shown(name: str, field: FieldInfo | None) -> str:
    """Return the name of a field in a JSON Schema that validates."""
    alias = None if field is None else field.validation_alias
    if isinstance(alias, AliasChoices):
        alias = next((choice for choice in alias.choices if isinstance(choice, str)), None)
    return alias if isinstance(alias, str) else name
