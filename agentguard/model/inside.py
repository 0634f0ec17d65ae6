"""What a value holds that its text may show, read without running the code of its class.

No `__repr__`, `__str__`, `__iter__`, `__len__`, `__getattr__` or property of a class runs here. Items are
read by the methods of the built-in base classes, attributes by the descriptors of `object`, and an object of
an extension type by what it tells Python's garbage collector (`gc.get_referents`).

What remains, because Python shows it to nobody: a method `__repr__` or `__str__` may write a text from
elsewhere, such as a global variable. An extension type may write a text from memory that it manages itself.
The code of a metaclass may run.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextvars import Context
from dataclasses import is_dataclass
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
    NoneType,
    TracebackType,
    WrapperDescriptorType,
)
from typing import Any

from pydantic import BaseModel

__all__ = [
    "NUMBER",
    "Unreadable",
    "attributes",
    "buffer",
    "error_parts",
    "has_hidden_state",
    "inside",
    "is_buffer",
    "is_tracked",
    "length",
    "members",
    "referents",
    "variables",
    "weight",
]

NUMBER = 8  # bytes that a number counts, at least
_Read = Callable[[Any], tuple[object, ...]]
_ITEMS = (list, tuple, set, frozenset, deque)
_TEXTS = (str, bytes, bytearray)
_NUMBERS = (int, float, complex, Decimal, date, time, timedelta, tzinfo)
# these show a name, or are known to write little: what they refer to is no part of their text
_NAMED = (
    type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, FrameType, TracebackType, GeneratorType,
    CoroutineType, AsyncGeneratorType, Enum, weakref.ReferenceType, logging.Logger, logging.Handler,
    asyncio.AbstractEventLoop, asyncio.Future, Executor, Future, Context,
)  # fmt: skip
_IN_C = (WrapperDescriptorType, MethodDescriptorType, MemberDescriptorType, GetSetDescriptorType, NoneType)
_TRACKED = 1 << 14  # Py_TPFLAGS_HAVE_GC: an object of such a type may refer to others
_OF_FILE = ("strerror", "filename", "filename2")  # of an OSError, which its text shows beside its arguments
_BUFFERS = frozenset(("array", "numpy"))  # modules whose arrays show their memory
_DECIMAL = Decimal.__sizeof__(Decimal())


class Unreadable(Exception):
    """Nobody can look into an object of this class."""


def inside(value: Any) -> tuple[object, ...]:
    """Return the parts of a value that is no plain container; none if its text shows no other object.

    Raises:
        Unreadable: It cannot be looked into without its own code, such as a weak proxy.
    """
    kind: Any = type(value)
    return _reader(kind)(value)


def weight(value: Any) -> int:
    """Return the bytes that count for a value itself: those of a text or an array, or of a number."""
    kind: Any = type(value)
    if issubclass(kind, str):
        text = str.__str__(value)
        return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
    if issubclass(kind, bytes | bytearray):
        return (bytes if issubclass(kind, bytes) else bytearray).__len__(value)
    if issubclass(kind, int):
        return max(NUMBER, int.bit_length(value) // 3)
    if issubclass(kind, Decimal):
        return NUMBER + 3 * (Decimal.__sizeof__(value) - _DECIMAL)
    array = buffer(value) if is_buffer(kind) else None
    return NUMBER if array is None else array.nbytes


def length(value: Any) -> int:
    """Return how many items `inside` would read of a container, before it reads them."""
    kind: Any = type(value)
    base: Any = next((base for base in (dict, *_ITEMS) if issubclass(kind, base)), None)
    if base is not None:
        return int(base.__len__(value)) * (2 if base is dict else 1)
    array = buffer(value) if is_buffer(kind) else None
    return array.nbytes // array.itemsize if array is not None and array.itemsize else 0


def variables(value: object) -> dict[str, Any]:
    """Return the object's own `__dict__`, or an empty one."""
    kind: Any = type(value)
    descriptor = _dict_of(kind)
    attributes = None if descriptor is None else descriptor.__get__(value)
    return attributes if type(attributes) is dict else {}


@lru_cache(1024)
def _dict_of(kind: Any) -> Any:
    candidates = (vars(base).get("__dict__") for base in kind.__mro__)
    descriptors = (GetSetDescriptorType, MemberDescriptorType)  # the second is that of a SimpleNamespace
    return next((member for member in candidates if isinstance(member, descriptors)), None)


@lru_cache(1024)
def members(kind: Any) -> tuple[Any, ...]:
    """Return the descriptors of a class's slots."""
    candidates = (pair for base in kind.__mro__ for pair in vars(base).items())
    return tuple(
        member
        for name, member in candidates
        if isinstance(member, MemberDescriptorType) and name != "__dict__"
    )


@lru_cache(1024)
def has_hidden_state(kind: Any) -> bool:
    """Return whether such an object has state that is in no attribute, slot or item: of an extension type."""
    # as copyreg does: what is larger than its head, its slots and the pointers to its dictionaries
    pointers = len(members(kind)) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    size = object.__basicsize__ + pointers * tuple.__itemsize__
    return bool(kind.__basicsize__ > size or kind.__itemsize__)


def _slots(value: Any) -> Iterator[object]:
    kind: Any = type(value)
    for member in members(kind):
        try:
            yield member.__get__(value)
        except AttributeError:
            continue


@lru_cache(1024)
def _reader(kind: Any) -> _Read:
    """Return the function that reads the parts of objects of this class."""
    if issubclass(kind, BaseException):
        return _error_with_attributes if _writes_itself(kind) else error_parts
    if issubclass(kind, _NAMED):
        return _nothing
    if issubclass(kind, (*_TEXTS, *_NUMBERS)):
        return attributes if _writes_itself(kind) else _nothing
    if issubclass(kind, dict):
        return _pairs
    base: Any = next((base for base in _ITEMS if issubclass(kind, base)), None)
    if base is not None:
        return lambda value: (*base.__iter__(value), *attributes(value))
    return _model if issubclass(kind, BaseModel) else _reader_of_object(kind)


def _reader_of_object(kind: Any) -> _Read:
    if issubclass(kind, weakref.ProxyType | weakref.CallableProxyType):
        return _refuse
    if not is_dataclass(kind) and kind.__repr__ is object.__repr__ and kind.__str__ is object.__str__:
        return _nothing  # its text is its address
    if not has_hidden_state(kind):
        return attributes
    if is_buffer(kind):
        return _objects_of_array
    return referents if is_tracked(kind) else _nothing


def _nothing(_value: object) -> tuple[object, ...]:
    return ()


def _refuse(value: object) -> tuple[object, ...]:
    raise Unreadable(type(value).__name__)


def attributes(value: Any) -> tuple[object, ...]:
    """Return the values of an object's attributes and slots."""
    return (*variables(value).values(), *_slots(value))


def _pairs(value: Any) -> tuple[object, ...]:
    return (*dict.keys(value), *dict.values(value), *attributes(value))


def _model(value: Any) -> tuple[object, ...]:
    further = [
        part for part in _slots(value) if type(part) is dict
    ]  # extra and private; not the set of names
    return (*variables(value).values(), *(item for part in further for item in part.values()))


def error_parts(value: Any) -> tuple[object, ...]:
    """Return what is written of an exception: whoever writes one down writes its causes and notes as well."""
    base: Any = BaseException
    parts = [base.args.__get__(value), base.__cause__.__get__(value), base.__context__.__get__(value)]
    parts.append(variables(value).get("__notes__"))
    if isinstance(value, BaseExceptionGroup):
        parts += BaseExceptionGroup.exceptions.__get__(value)
    if isinstance(value, OSError):
        parts += [getattr(OSError, name).__get__(value) for name in _OF_FILE]
    return tuple(parts)


def _error_with_attributes(value: Any) -> tuple[object, ...]:
    return (*error_parts(value), *attributes(value))


def is_tracked(kind: type) -> bool:
    """Return whether Python's garbage collector knows what an object of this type refers to."""
    return bool(kind.__flags__ & _TRACKED)


def referents(value: object) -> tuple[object, ...]:
    """Return the objects that an object of an extension type refers to."""
    return tuple(part for part in gc.get_referents(value) if not isinstance(part, type))


@lru_cache(1024)
def is_buffer(kind: Any) -> bool:
    """Return whether such an object shows its memory: it is a view, or an array of numbers or of objects."""
    modules = (str(base.__module__).partition(".")[0] for base in kind.__mro__)
    return kind is memoryview or not _BUFFERS.isdisjoint(modules)


def buffer(value: Any) -> memoryview | None:
    """Return the memory of such an object; None of numbers that have no form there, such as dates."""
    try:
        return memoryview(value)
    except (BufferError, TypeError, ValueError):
        return None


def _objects_of_array(value: Any) -> tuple[object, ...]:
    memory = buffer(value)
    if memory is None or "O" not in memory.format:
        return ()
    kind: Any = type(value)
    bases = (base for base in kind.__mro__ if str(base.__module__).partition(".")[0] in _BUFFERS)
    return (next(bases, kind).tolist(value),)  # not by a method of a class of the application


def _writes_itself(kind: type) -> bool:
    """Return whether code of Python writes the text of such an object, and so may write its attributes."""
    return not all(isinstance(getattr(kind, name, None), _IN_C) for name in ("__repr__", "__str__"))
