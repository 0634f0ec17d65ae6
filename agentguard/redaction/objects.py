"""Read the parts of an object, and make an empty one of its class, without calling the class's code."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
    TracebackType,
)
from typing import Any

__all__ = ["ATOMS", "INERT", "PLAIN", "blank", "children", "slots", "variables"]

ITEMS = (list, tuple, set, frozenset, deque)
PLAIN = frozenset((dict, list, tuple, set, frozenset))
ATOMS = frozenset((bool, int, float, complex, NoneType, Decimal, date, datetime, time, timedelta))
# these show only a name, or exist once in the program; walking into them would walk the whole program
INERT = (
    type, Enum, ModuleType, FunctionType, BuiltinFunctionType, MethodType, CodeType, FrameType,
    TracebackType, logging.Logger, logging.Handler,
)  # fmt: skip


def children(value: Any) -> Iterable[object]:
    """Return the items and attributes of *value*, or its `repr` if it has neither."""
    kind = type(value)
    if kind in PLAIN:
        return (*value, *value.values()) if kind is dict else value
    attributes = variables(value)
    slot_values = (item for _, item in slots(value))
    return (*_items(value), *attributes.keys(), *attributes.values(), *slot_values)


def _items(value: Any) -> Iterable[object]:
    if isinstance(value, dict):
        return (*dict.keys(value), *dict.values(value))
    if isinstance(value, MappingProxyType):
        return (*value.keys(), *value.values())
    if isinstance(value, memoryview):
        return (value.tobytes(),)
    if isinstance(value, BaseException):
        parts = (value.args, value.__cause__, value.__context__, str(value))
        return (*parts, *value.exceptions) if isinstance(value, BaseExceptionGroup) else parts
    base: Any = next((base for base in ITEMS if isinstance(value, base)), None)
    if base is not None:
        return tuple(base.__iter__(value))
    return (repr(value),) if _opaque(value) else ()


def blank(value: object) -> Any:
    """Make an empty object of the same class, without calling its constructor."""
    kind: Any = type(value)
    if isinstance(value, dict | list | set | deque):
        return kind.__new__(kind)
    if _opaque(value):
        raise TypeError("an object of this class cannot be filled")
    return object.__new__(kind)


def variables(value: object) -> dict[str, Any]:
    """Return the object's own `__dict__`, or an empty one."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return attributes if isinstance(attributes, dict) else {}


def slots(value: Any) -> Iterator[tuple[Any, object]]:
    """Yield the descriptors of the slots that are set, with their values."""
    kind: Any = type(value)
    for member in _members(kind):
        try:
            yield member, member.__get__(value)
        except AttributeError:
            continue


def _opaque(value: Any) -> bool:
    kind: Any = type(value)
    if isinstance(value, (dict, *ITEMS)) or _members(kind):
        return False
    try:
        object.__getattribute__(value, "__dict__")
    except AttributeError:
        return True
    return False


@lru_cache(512)
def _members(kind: type) -> tuple[Any, ...]:
    members = (member for base in kind.__mro__ for member in vars(base).values())
    return tuple(member for member in members if isinstance(member, MemberDescriptorType))
