"""Read the parts of an object, and make an empty one of its class, without calling the class's code."""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import socket
import ssl
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextvars import Context, ContextVar
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from io import BytesIO
from selectors import BaseSelector
from threading import Lock, RLock, Thread
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    NoneType,
    TracebackType,
)
from typing import Any

from agentguard.model.inside import has_hidden_state, is_tracked, members, referents, variables

__all__ = ["ATOMS", "INERT", "PLAIN", "blank", "children", "slots"]

ITEMS = (list, tuple, set, frozenset, deque)
PLAIN = frozenset((dict, list, tuple, set, frozenset))
ATOMS = frozenset((bool, int, float, complex, NoneType, Decimal, date, datetime, time, timedelta))
# these show only a name, or exist once in the program; walking into them would walk the whole program
INERT = (
    type, Enum, ModuleType, FunctionType, BuiltinFunctionType, MethodType, CodeType, FrameType,
    TracebackType, logging.Logger, logging.Handler,
    # what runs: a copy of it would take part in what runs, and close its files when it is collected
    asyncio.AbstractEventLoop, asyncio.Future, Executor, Future, Thread, BaseSelector, Context, ContextVar,
)  # fmt: skip
# extension types that hold no text, or show all of it
EMPTY = (
    type(Lock()), type(RLock()), re.Pattern, range, slice, tzinfo, socket.socket, ssl.SSLContext,
    weakref.ReferenceType, int, float, complex, Decimal, date, time, timedelta,
)  # fmt: skip
LARGEST = 16 * 1024 * 1024  # bytes of a pickled object that are searched


def children(value: Any) -> Iterable[object]:
    """Return the items and attributes of *value*, and what an object of an extension type holds.

    Raises:
        Exception: It cannot be read, whatever its class raises.
    """
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
    return _inside(value) if _opaque(value) else ()


def _inside(value: Any) -> Iterable[object]:
    """Return what an object of an extension type holds, as far as Python shows it: as it would be pickled.

    Raises:
        TypeError: It cannot be looked into, so that a secret in it would not be seen.
        ValueError: It is too large.
    """
    kind = type(value)
    if issubclass(kind, EMPTY):
        return (repr(value),)
    pickled = _Bounded()
    pickle.Pickler(pickled, protocol=5).dump(value)
    parts = referents(value) if is_tracked(kind) else (repr(value),)
    return (*parts, pickled.getvalue())


class _Bounded(BytesIO):
    """A buffer that refuses to grow beyond what is searched for a secret."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > LARGEST:
            raise ValueError("too large to be looked into")
        return super().write(data)


def blank(value: object) -> Any:
    """Make an empty object of the same class, without calling its constructor."""
    kind: Any = type(value)
    if isinstance(value, dict | list | set | deque):
        return kind.__new__(kind)
    if _opaque(value):
        raise TypeError("an object of this class cannot be filled")
    return object.__new__(kind)


def slots(value: Any) -> Iterator[tuple[Any, object]]:
    """Yield the descriptors of the slots that are set, with their values."""
    kind: Any = type(value)
    for member in members(kind):
        try:
            yield member, member.__get__(value)
        except AttributeError:
            continue


def _opaque(value: Any) -> bool:
    """Return whether an object has a state that is in no attribute, slot or item: an extension's type."""
    if isinstance(value, (dict, *ITEMS)):
        return False
    kind: Any = type(value)
    return has_hidden_state(kind)
