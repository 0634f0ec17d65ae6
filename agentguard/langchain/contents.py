"""What containers, iterators and functions hold, read without running any code of the application.

A container of any length is looked through in bounded time: by the types of its items, at the speed of C, as
long as it is data.
"""

from __future__ import annotations

import gc
import sys
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from types import (
    AsyncGeneratorType,
    CellType,
    CodeType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MappingProxyType,
)
from typing import Any
from weakref import WeakKeyDictionary

from agentguard.langchain.objects import LIBRARIES, function_of, is_installed, names_in, package_of

__all__ = [
    "DATA",
    "MAPPINGS",
    "SEQUENCES",
    "TooLong",
    "globals_of",
    "held_by",
    "is_own_module",
    "operator_codes",
    "pairs_of",
    "passes_on",
]

DATA = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, range, type(...)})
SEQUENCES = (list, tuple, deque, set, frozenset)
MAPPINGS = (dict, MappingProxyType)
_ITERATORS = frozenset({"builtins", "itertools", "collections", "_collections"})
_SUSPENDED = (
    GeneratorType,
    CoroutineType,
    AsyncGeneratorType,
    CellType,
    *map(type, ({}.values(), {}.items())),
)
_MADE_BY = frozenset({"__init__", "__new__", "__post_init__", "__init_subclass__", "__class_getitem__"})
_PASSING_ON = frozenset({"__getattr__", "__getattribute__"})
# classes of Python's own that hold what they are given, in attributes that their operators use
_HOLDING = frozenset({"collections", "contextlib", "weakref"})
_LONGEST = 1_000  # items; a longer container that holds nothing that runs is data
_MOST = 1_000_000  # items in a long container and in the containers in it
_operators = WeakKeyDictionary[type, tuple[CodeType, ...]]()


class TooLong(Exception):
    """A container holds more than is looked at."""


def pairs_of(container: Collection[Any]) -> list[tuple[str, Any]]:
    """Return the items of a container, each with its key if that is a text; of a long one none if it is data.

    The keys of a dict that are no texts are items too. In a long container, an object that cannot be called
    is data.

    Raises:
        TooLong: It has so many items that it is not known whether it is data.
    """
    if not isinstance(container, MAPPINGS):
        is_data = len(container) > _LONGEST and _is_data(container)
        return [] if is_data else [("", item) for item in container]
    pairs = list[tuple[str, Any]]()
    if len(container) <= _LONGEST or not (_is_data(container) and _is_data(container.values())):
        pairs += sorted(
            ((key if type(key) is str else "", item) for key, item in container.items()), key=_key
        )
        pairs += [("", key) for key in container if type(key) not in DATA]
    if isinstance(container, defaultdict):
        pairs.append(("default_factory", container.default_factory))
    return pairs


def _key(pair: tuple[str, Any]) -> str:
    return pair[0]


def _is_data(values: Collection[Any]) -> bool:
    level, rest, visited = [values], _MOST, {id(values)}
    while level:
        inner = list[Collection[Any]]()
        for items in level:
            rest -= 1 + len(items)
            if rest < 0:
                raise TooLong
            kinds = set(map(type, items)) - DATA
            if any(_may_run(kind) for kind in kinds):
                return False
            nested = tuple(kind for kind in kinds if issubclass(kind, SEQUENCES + MAPPINGS))
            if nested:
                new = {id(item): item for item in items if type(item) in nested and id(item) not in visited}
                visited.update(new)
                inner += [item.values() if isinstance(item, MAPPINGS) else item for item in new.values()]
        level = inner
    return True


def _may_run(kind: type) -> bool:
    is_called = any("__call__" in vars(base) for base in kind.__mro__)
    return is_called or issubclass(kind, CodeType) or _is_iterator(kind)


def held_by(value: object, kind: type) -> list[Any] | None:
    """Return what an iterator, a generator or a view of a dict refers to; None of anything else."""
    if not _is_iterator(kind):
        return None
    return [part for part in gc.get_referents(value) if not isinstance(part, type)]


def _is_iterator(kind: type) -> bool:
    if kind in _SUSPENDED:
        return True
    return kind.__module__ in _ITERATORS and any("__next__" in vars(base) for base in kind.__mro__)


def operator_codes(kind: type) -> tuple[CodeType, ...]:
    """Return the code of the methods that operators run, such as ``__getitem__`` and ``__enter__``.

    That of installed packages is left out, but for the containers and context managers of Python.
    """
    if (codes := _operators.get(kind)) is None:
        codes = _operators[kind] = tuple(_codes_of(kind))
    return codes


def _codes_of(kind: type) -> Iterator[CodeType]:
    visited = set[str]()
    for base in kind.__mro__:
        package = package_of(base.__module__)
        for name, member in vars(base).items():
            if not (name.startswith("__") and name.endswith("__")) or name in _MADE_BY or name in visited:
                continue
            visited.add(name)
            function = function_of(member)
            if not isinstance(function, FunctionType) or package in LIBRARIES:
                continue
            if package in _HOLDING or not is_installed(function.__code__.co_filename):
                yield function.__code__


def passes_on(kind: type) -> bool:
    """Return whether a class answers names that it does not have, by code of the application."""
    return any(code.co_name in _PASSING_ON for code in operator_codes(kind))


def is_own_module(function: FunctionType) -> bool:
    """Return whether the global names of a function are those of its module, which belong to its code."""
    names = function.__globals__
    module = sys.modules.get(str(names.get("__name__")))
    return module is not None and getattr(module, "__dict__", None) is names


def globals_of(function: FunctionType) -> Iterable[tuple[str, object]]:
    """Return the global names that a function uses, with their values, where those are no module's.

    So it is for code that ``exec`` has run, and for a plugin's module that is not registered.
    """
    if is_own_module(function):
        return ()
    names = function.__globals__
    return [(name, names[name]) for name in names_in(function.__code__) if name in names]
