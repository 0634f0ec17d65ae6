"""A value of a run's state as JSON: two values that a tool can tell apart have two forms.

Texts, numbers, lists and dicts with texts as keys are themselves. Of anything else the form names the class
under the key ``(class)``, and a key that is no text names its class before it. So a key of a form that
begins with a bracket is never a key of a dict. A tuple is written as a list and a subclass of a built-in type
as that type, unless it has attributes: a checkpoint makes the same of them. Private attributes of a model
are written too. One that its class makes at random is another one in each process, and loses a person's yes.

Of a value that has no form here only the class counts. The form says that what it holds is not covered.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from math import isfinite
from pathlib import PurePath
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from agentguard.errors import DenialCode, Denied
from agentguard.model import Json
from agentguard.model.arguments import digest_of
from agentguard.model.inside import members, variables

__all__ = ["BYTES", "PARTS", "StateForm", "digest_text", "key_of", "text_of"]

PARTS = 100_000
"""How many values a state may have that a person is asked about."""
BYTES = 16_777_216
"""How many characters and bytes the texts in it may have together."""
LONG = 2_000
"""How many characters of a text, or bytes, a form holds; of a longer one its size and its digest."""
DEPTH = 100
_CLASS, _VALUE, _LONG = "(class)", "(value)", "(text)"
_EXACT = range(-(2**63), 2**64)  # what any reader of JSON here gives back as it was
_TEXTS = (
    *(date, time, timedelta, Decimal, Fraction, UUID, PurePath, complex),
    *(IPv4Address, IPv6Address, IPv4Network, IPv6Network),
)
_KNOWN = frozenset({"pydantic", *sys.stdlib_module_names})  # whose slots hold what is written already
_URLS = ("pydantic.networks", "pydantic_core._pydantic_core")


def text_of(form: Json) -> str:
    """Return a form as a text, in which keys keep their order."""
    return json.dumps(form, separators=(",", ":"))


def digest_text(data: bytes) -> str:
    """Return what stands for data that is not shown."""
    return f"{len(data)} bytes, SHA-256 {digest_of(data)}"


def key_of(key: object, form: Json) -> str:
    """Return the name under which a form has a key of a dict, whose own form is *form*."""
    if isinstance(form, str):
        return f"(str) {form}" if form.startswith("(") else form
    return f"({type(key).__name__}) {text_of(form)}"


class StateForm:
    """Writes values in their forms, together at most so many as a person is asked about."""

    def __init__(self) -> None:
        self._parts, self._bytes = PARTS, BYTES

    def of(self, value: Any, depth: int = 0) -> Json:
        """Return the form of a value.

        Raises:
            Denied: This value and those before it have too many parts, or texts that are too long.
        """
        kind = type(value)
        self._spend(len(value) if kind is str or kind is bytes else 0)
        if value is None or kind is bool:
            return value
        if depth > DEPTH:
            return {_CLASS: "not covered: too deep"}
        if isinstance(value, Enum):
            return {_CLASS: _name(kind), _VALUE: value.name or self.of(value.value, depth + 1)}
        if isinstance(value, BaseModel):
            return {_CLASS: _name(kind), **self._model(value, depth)}
        if isinstance(value, type):
            return {_CLASS: "type", _VALUE: _name(value)}
        form = self._plain(value, depth)
        if dataclasses.is_dataclass(value):
            items = {} if form is None else {"(items)": form}  # of one that is a dict, a list, a text too
            return {_CLASS: _name(kind), **self._dataclass(value, depth), **items}
        if form is None:
            return self._other(value)
        return self._with_attributes(value, form, depth) if kind.__module__ != "builtins" else form

    def _spend(self, size: int) -> None:
        self._parts -= 1
        self._bytes -= size
        if self._parts < 0 or self._bytes < 0:
            reason = f"the tool is given a state of more than {PARTS} parts or {BYTES} bytes"
            raise Denied.of(DenialCode.APPROVAL_UNAVAILABLE, f"{reason}, too much to ask a person about")

    def _plain(self, value: Any, depth: int) -> Json:
        """Return the form of a value of a built-in type, or None. No code of a subclass runs."""
        if isinstance(value, str):
            return _text(str.__str__(value))
        if isinstance(value, int):
            number = int.__int__(value)
            return number if number in _EXACT else {_CLASS: "int", _VALUE: hex(number)}
        if isinstance(value, float):
            real = float.__float__(value)
            return real if isfinite(real) else {_CLASS: "float", _VALUE: repr(real)}
        if isinstance(value, list):
            return self._items(list.__iter__(value), depth)
        if isinstance(value, tuple):
            items = self._items(tuple.__iter__(value), depth)
            names = getattr(type(value), "_fields", None)
            return items if names is None else {_CLASS: _name(type(value)), "(items)": items}
        if isinstance(value, dict):
            return self._members(dict.items(value), depth)
        return self._collection(value, depth)

    def _collection(self, value: Any, depth: int) -> Json:
        kind = next((kind for kind in (set, frozenset, deque) if isinstance(value, kind)), None)
        if kind is not None:
            items = self._items(value, depth)
            return {_CLASS: _name(kind), "(items)": items if kind is deque else sorted(items, key=text_of)}
        if isinstance(value, bytes | bytearray):
            self._spend(len(value))
            data = bytes(value)
            text = b64encode(data).decode() if len(data) <= LONG else digest_text(data)
            return {
                _CLASS: "bytes",
                _VALUE: text,
            }  # a checkpoint makes bytes of a bytearray in a list or dict
        if isinstance(value, Set):
            return {_CLASS: _name(type(value)), "(items)": sorted(self._items(value, depth), key=text_of)}
        if isinstance(value, Mapping):
            return {_CLASS: _name(type(value)), **self._members(value.items(), depth)}
        return None

    def _items(self, items: Iterable[Any], depth: int) -> list[Json]:
        return [self.of(item, depth + 1) for item in items]

    def _members(self, items: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Json]:
        form: dict[str, Json] = {}
        for name, item in items:  # of keys that have one form, such as NaN, each is there
            key = key_of(name, self.of(name, depth + 1))
            form[key if key not in form else f"(key {len(form)}) {key}"] = self.of(item, depth + 1)
        return form

    def _model(self, value: BaseModel, depth: int) -> dict[str, Json]:
        fields = type(value).model_fields
        stored = {name: item for name, item in variables(value).items() if name in fields}
        form = self._members((stored | (value.__pydantic_extra__ or {})).items(), depth)
        return form | self._hidden((value.__pydantic_private__ or {}) | _beside(value, {*fields}), depth)

    def _dataclass(self, value: Any, depth: int) -> dict[str, Json]:
        names = [field.name for field in dataclasses.fields(value)]
        form = self._members(((name, getattr(value, name, None)) for name in names), depth)
        return form | self._hidden(_beside(value, set(names)), depth)

    def _with_attributes(self, value: Any, form: Json, depth: int) -> Json:
        """Add what an object of a subclass of a built-in type holds beside its items."""
        hidden = self._hidden(_beside(value, set()), depth)
        return {_CLASS: _name(type(value)), _VALUE: form, **hidden} if hidden else form

    def _hidden(self, attributes: Mapping[str, Any], depth: int) -> dict[str, Json]:
        return {f"(attribute) {name}": self.of(item, depth + 1) for name, item in attributes.items()}

    def _other(self, value: Any) -> Json:
        name = _name(type(value))
        try:
            if isinstance(value, datetime):  # without its fold, which a checkpoint does not keep
                return {_CLASS: name, _VALUE: value.isoformat()}
            if isinstance(value, time) and value.fold:
                return {_CLASS: name, _VALUE: str(value), "(fold)": 1}
            if isinstance(value, _TEXTS) or type(value).__module__ in _URLS:
                return {_CLASS: name, _VALUE: str(value)}
        except Exception:  # noqa: BLE001  it may be an object of the application's class
            return {_CLASS: f"not covered: {name}"}
        return {_CLASS: f"not covered: {name}"}


def _beside(value: Any, names: set[str]) -> dict[str, Any]:
    """Return the attributes of an object but those of these names, and but what its properties keep there."""
    kind: Any = type(value)
    attributes = dict(variables(value))
    for slot in members(kind):
        if slot.__objclass__.__module__.partition(".")[0] not in _KNOWN:
            with suppress(AttributeError):  # it is not set
                attributes[slot.__name__] = slot.__get__(value)
    return {
        name: item
        for name, item in attributes.items()
        if name not in names and not isinstance(getattr(kind, name, None), cached_property)
    }


def _text(text: str) -> Json:
    """Return a text; one that is long as a digest, and one with half a character as Python writes it."""
    if len(text) <= LONG and text.isascii():
        return text
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return {_CLASS: "half characters", _VALUE: _text(ascii(text))}
    return text if len(data) <= LONG else {_LONG: digest_text(data)}


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
