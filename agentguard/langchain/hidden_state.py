"""What an argument's value holds beside that which its JSON form shows.

A rule, a digest and a person do not see it, and the tool does. So an argument with such state is refused.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from pydantic.fields import ModelPrivateAttr

__all__ = ["class_name", "hidden_state"]

_KNOWN = frozenset({"pydantic", "pydantic_core", *sys.stdlib_module_names})
# where pydantic's own kinds of values keep the value itself
_ATOMS = frozenset(  # their repr says all of them
    {*(str, int, float, bool, bytes, type(None)), *(date, datetime, timedelta, Decimal, UUID)}
)
_TEXTS = frozenset({IPv4Network, IPv6Network, IPv4Interface, IPv6Interface, ZoneInfo})
"""Classes whose text says all of an object, although its attributes stand in a dict."""
_DEEPEST = 20
_VALUE_OF_PYDANTIC = frozenset({"_url", "_secret_value"})


def class_name(kind: type) -> str:
    """Return the full name of a class; a built-in one has no module before its name."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def hidden_state(value: Any) -> tuple[str, ...]:
    """Return the names of attributes whose values are not shown; none if all is shown.

    A private attribute that has its default tells no call from another, and is not named. The default has to
    be the same object, or made of texts, numbers, lists and dicts: of any other, nobody can say that it is.
    What a `cached_property` keeps follows from the rest, and is not named either.
    """
    kind: Any = type(value)
    if isinstance(value, Enum) or kind in _TEXTS:  # a member is the same object in each call
        return ()
    slots = _slots(kind)
    names = [name for name in slots if hasattr(value, name)] if slots else []
    if isinstance(value, BaseModel):
        if private := value.__pydantic_private__:
            names += _changed(kind.__private_attributes__, private)
        if not value.__dict__.keys() <= (attributes := _kept(kind)):
            names += (name for name in value.__dict__.keys() - attributes if not _is_cached(kind, name))
    elif not dataclasses.is_dataclass(value):  # of which the canonical form shows each attribute
        names += getattr(value, "__dict__", {}).keys() - _VALUE_OF_PYDANTIC
    return tuple(sorted(names))


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(getattr(kind, name, None), cached_property)


def _changed(attributes: Mapping[str, ModelPrivateAttr], private: Mapping[str, Any]) -> list[str]:
    """Name the private attributes that do not have their default."""
    return [
        name
        for name, value in private.items()
        if name not in attributes or not _is_default(attributes[name], value)
    ]


def _is_default(attribute: ModelPrivateAttr, value: Any) -> bool:
    factory: Any = attribute.default_factory
    default = attribute.default if factory is None else factory()
    return default is value or _same(default, value, 0)


def _same(one: Any, other: Any, depth: int) -> bool:
    """Return whether two values hold the same, without asking them: an ``__eq__`` may leave state out."""
    if type(one) is not type(other) or depth > _DEEPEST:
        return False
    if type(one) in _ATOMS:
        return repr(one) == repr(other)  # -0.0 is no 0.0
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(_same(a, b, depth + 1) for a, b in zip(one, other, strict=True))
    if type(one) is dict:
        return _same(list(one.items()), list(other.items()), depth + 1)
    return type(one) in (set, frozenset) and not one and not other


@lru_cache(1024)
def _kept(kind: type[BaseModel]) -> frozenset[str]:
    """Name what the ``__dict__`` of a model holds; that of a RootModel holds the private attributes too."""
    return frozenset((*kind.model_fields, "__pydantic_private__"))


@lru_cache(1024)
def _slots(kind: type) -> tuple[str, ...]:
    """Name the slots of a class that come neither from Python nor from pydantic, nor are fields."""
    names: list[str] = []
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in _KNOWN:
            continue
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            hidden = name.startswith("__") and not name.endswith("__")
            names.append(f"_{base.__name__.lstrip('_')}{name}" if hidden else name)
    not_state = {"__dict__", "__weakref__", *getattr(kind, "__dataclass_fields__", ())}
    return tuple(name for name in names if name not in not_state)
