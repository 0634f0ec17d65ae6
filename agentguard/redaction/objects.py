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
    CoroutineType,
    FrameType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    NoneType,
    TracebackType,
)
from typing import Any

from agentguard.model.inside import (
    buffer,
    has_hidden_state,
    inside,
    is_buffer,
    is_tracked,
    members,
    referents,
    variables,
)

__all__ = ["ATOMS", "INERT", "LIVE", "PLAIN", "blank", "children", "slots"]

ITEMS = (list, tuple, set, frozenset, deque)
PLAIN = frozenset((dict, list, tuple, set, frozenset))
ATOMS = frozenset((bool, int, float, complex, NoneType, Decimal, date, datetime, time, timedelta))
# these show only a name, or exist once in the program; walking into them would walk the whole program
INERT = (
    type, ModuleType, CodeType, FrameType, TracebackType, logging.Logger, logging.Handler,
    # what runs: a copy of it would take part in what runs, and close its files when it is collected
    asyncio.AbstractEventLoop, Executor, BaseSelector,
)  # fmt: skip
# these are looked into, and withheld as a whole where they hold a secret: a copy would run too
LIVE = (asyncio.Future, Future, Thread, Context, ContextVar)
OF_THREAD = frozenset(("_stderr", "_started", "_tstate_lock", "_invoke_excepthook"))  # of each thread alike
# extension types that hold no text, or show all of it
EMPTY = (
    type(Lock()), type(RLock()), re.Pattern, range, slice, tzinfo, socket.socket, ssl.SSLContext,
    weakref.ReferenceType, int, float, complex, Decimal, date, time, timedelta,
)  # fmt: skip
VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
OF_PYTHON = frozenset((MappingProxyType, FunctionType, MethodType, BuiltinFunctionType, *VIEWS))
LARGEST = 64 * 1024 * 1024  # bytes of a pickled object that are searched


def children(value: Any) -> Iterable[object]:
    """Return the items and attributes of *value*, and what an object of an extension type holds.

    Raises:
        Exception: It cannot be read, whatever its class raises.
    """
    kind = type(value)
    if kind in PLAIN:
        return (*value, *value.values()) if kind is dict else value
    attributes = variables(value)
    if issubclass(kind, Thread):
        attributes = {name: part for name, part in attributes.items() if name not in OF_THREAD}
    if kind in OF_PYTHON:  # a slot of a function leads to the whole of its module
        return (*_of_python(value), *attributes.values())
    slot_values = (item for _, item in slots(value))
    return (*_items(value), *attributes.keys(), *attributes.values(), *slot_values)


def _items(value: Any) -> Iterable[object]:
    kind: Any = type(value)  # not what the value says that it is
    if issubclass(kind, dict):
        return (*dict.keys(value), *dict.values(value))
    if issubclass(kind, BaseException):
        parts = (value.args, value.__cause__, value.__context__, str(value))
        return (*parts, *value.exceptions) if issubclass(kind, BaseExceptionGroup) else parts
    base: Any = next((base for base in ITEMS if issubclass(kind, base)), None)
    if base is not None:
        return tuple(base.__iter__(value))
    if issubclass(kind, Enum):  # its value is among its attributes
        return ()
    if issubclass(kind, Context):
        return (*value.keys(), *value.values())
    if issubclass(kind, asyncio.Future | ContextVar):
        # what a task still runs is not looked into, nor what it runs in
        return [part for part in referents(value) if not isinstance(part, CoroutineType | Context)]
    return _inside(value) if _opaque(value) else ()


def _of_python(value: Any) -> Iterable[object]:
    """Return what a view, a method or a function leads to."""
    kind = type(value)
    if kind is MappingProxyType:
        return (*value.keys(), *value.values())
    if kind in VIEWS:
        return referents(value)
    if kind is FunctionType:
        return (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
    return (value.__self__, value.__func__) if kind is MethodType else (value.__self__,)


def _memory(value: Any, memory: memoryview) -> Iterable[object]:
    """Return what an array or a view of memory holds: objects, or bytes and the text that these are."""
    if "O" in memory.format:
        return inside(value)
    data = memory.tobytes()
    return (data, data.decode("utf-32", "replace")) if memory.format.endswith(("w", "u")) else (data,)


def _inside(value: Any) -> Iterable[object]:
    """Return what an object of an extension type holds, as far as Python shows it: as it would be pickled.

    Raises:
        TypeError: It cannot be looked into, so that a secret in it would not be seen.
        ValueError: It is too large.
    """
    kind: Any = type(value)
    if issubclass(kind, EMPTY):
        return (repr(value),)
    memory = buffer(value) if is_buffer(kind) else None
    if memory is not None:
        return _memory(value, memory)
    pickled = _Bounded()
    pickle.Pickler(pickled, protocol=5).dump(value)
    parts = referents(value) if is_tracked(kind) else (repr(value),)
    return (*parts, pickled.getvalue())


class _Bounded(BytesIO):
    """A buffer that refuses to grow beyond what is searched for a secret."""

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > LARGEST:
            raise ValueError("too large to be looked into")
        return super().write(data)


def blank(value: object) -> Any:
    """Make an empty object of the same class, without calling its constructor."""
    kind: Any = type(value)
    if issubclass(kind, dict | list | set | deque):
        return kind.__new__(kind)
    if _opaque(value) or issubclass(kind, (Enum, *LIVE)):
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
    kind: Any = type(value)
    if issubclass(kind, (dict, *ITEMS)):
        return False
    return has_hidden_state(kind)
