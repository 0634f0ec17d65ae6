"""What an object is and holds, read without running any code of its class where that can be avoided.

A proxy may answer each attribute with code of its own, or raise. So classes are read, and not ``isinstance``.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache, partialmethod
from types import CodeType, FunctionType, MethodType
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary

from langchain_core.tools import BaseTool

from agentguard.model.original import Itself, Parts

__all__ = [
    "LIBRARIES",
    "attributes",
    "cached_names",
    "closure_of",
    "code_of",
    "function_of",
    "is_foreign",
    "is_installed",
    "itself",
    "members_of",
    "method_of",
    "module_of",
    "names_in",
    "opaque",
    "package_of",
    "runs",
    "wrapped_by",
]

FRAMEWORKS = frozenset(
    {"functools", "langchain", "langchain_classic", "langchain_core", "langchain_mcp_adapters", "langgraph"}
)
TOOLS = "langchain.agents.middleware"  # what a framework defines here is a tool, and no form for any function
LIBRARIES = FRAMEWORKS | {"abc", "builtins", "pydantic", "typing"}
_STORAGE = ("__dict__", "__pydantic_private__", "__pydantic_extra__")
_slots = WeakKeyDictionary[type, tuple[str, ...]]()
_cached = WeakKeyDictionary[type, tuple[str, ...]]()
_PLACES = ("site-packages", "dist-packages", sysconfig.get_path("stdlib"))


def package_of(module: object) -> str:
    """Return the first part of a module's name."""
    return str(module or "").partition(".")[0]


def module_of(function: Any) -> str:
    """Return the module in which a function was defined."""
    # `__module__` says nothing: a decorator copies it from the function that it is put around
    return str(getattr(function, "__globals__", {}).get("__name__") or getattr(function, "__module__", ""))


def is_foreign(module: object) -> bool:
    """Return whether a framework's module defines functions that stand for anything."""
    return package_of(module) in FRAMEWORKS and not str(module).startswith(TOOLS)


@lru_cache(1024)
def is_installed(file: str) -> bool:
    """Return whether code stands in a file of Python itself or of an installed package."""
    return any(place in file for place in _PLACES)


def code_of(function: FunctionType) -> Parts:
    """Return the place of a function's code, and the code."""
    return (module_of(function), function.__code__.co_filename, function.__code__)


@lru_cache(1024)
def names_in(code: CodeType) -> tuple[str, ...]:
    """Return the names of attributes and globals that code and the functions inside it use, in order."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(names_in(constant))
    return tuple(sorted(names))


def closure_of(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield the names and values that a function has from the functions around it."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # the cell is not filled yet
            continue


def attributes(value: object) -> Mapping[str, Any]:
    """Return the attributes that an object itself has, by name: also those of slots, and pydantic's own."""
    values: dict[str, Any] = {}
    kind = type(value)
    if (slots := _slots.get(kind)) is None:
        slots = _slots[kind] = tuple(_slots_of(kind))
    for name in slots:
        _read(value, name, values)
    for name in _STORAGE:
        storage = values.pop(name, None)
        if isinstance(storage, dict):
            values.update(storage)
    return dict(sorted(values.items(), key=_name))


def _slots_of(kind: type) -> Iterator[str]:
    """Yield the names of a class's slots, and of what it keeps other attributes in."""
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            private = name.startswith("__") and not name.endswith("__")
            yield f"_{base.__name__.lstrip('_')}{name}" if private else name
    if kind.__dictoffset__:
        yield "__dict__"


def _name(pair: tuple[Any, object]) -> str:
    return str(pair[0])


def wrapped_by(value: object) -> Any:
    """Return what an object says that it is put around, by a descriptor of its class; None if it does not."""
    kind = type(value)
    if not any("__wrapped__" in vars(base) for base in kind.__mro__):
        return None
    values: dict[str, Any] = {}
    _read(value, "__wrapped__", values)
    return values.get("__wrapped__")


def _read(value: object, name: str, values: dict[str, Any]) -> None:
    try:
        values[name] = object.__getattribute__(value, name)
    except Exception:  # noqa: BLE001  a proxy's class may raise anything; then the attribute is not there
        return


def cached_names(kind: type) -> tuple[str, ...]:
    """Return the names under which the cached properties of a class keep what they have made.

    What they make is made by their code, which counts, and when they make it depends on the calls before.
    """
    if (names := _cached.get(kind)) is None:
        members = {name: item for base in reversed(kind.__mro__) for name, item in vars(base).items()}
        names = _cached[kind] = tuple(n for n, item in members.items() if isinstance(item, cached_property))
    return names


def function_of(member: Any) -> Any:
    """Return what runs for a member of a class: the function of a method, property or partial method."""
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    if isinstance(member, cached_property | partialmethod):
        return member.func
    return member


def members_of(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield what a class defines that may run, and the lists and dicts that it holds, by name."""
    for name, item in sorted(vars(kind).items()):
        member = function_of(item)
        if isinstance(member, FunctionType) or (
            not name.startswith("__") and (callable(member) or isinstance(member, list | tuple | dict))
        ):
            yield name, member


def runs(value: object, kind: type) -> bool:
    """Return whether code can call a value, or it is a tool."""
    return issubclass(kind, BaseTool) or (callable(value) and not issubclass(kind, ReferenceType))


def method_of(kind: type, name: str) -> Any:
    """Return the function of a class by this name, unless an installed package defines it."""
    for base in kind.__mro__:
        if name in vars(base):
            function = function_of(vars(base)[name])
            is_own = isinstance(function, FunctionType) and not is_installed(function.__code__.co_filename)
            return function if is_own else None
    return None


def itself(value: Any) -> Parts:
    """Return what stands for one object; of a method, for its function and its object."""
    return (value.__func__, Itself(value.__self__)) if isinstance(value, MethodType) else (Itself(value),)


def opaque(value: Any, kind: type) -> Parts:
    """Return what stands for an object of C: its name, what it is made of, or the object itself."""
    if kind.__module__ == "operator" and callable(value):  # such as itemgetter("a")
        return (kind.__qualname__, repr(value.__reduce__()[1:]))
    if kind.__module__ == "sqlite3":  # its connections can be called, and hold no function of a tool
        return (kind.__module__, kind.__qualname__)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(name, str) or "<locals>" in name:  # it may hold another function, which cannot be seen
        return (kind.__module__, kind.__qualname__) if not callable(value) else itself(value)
    owner = getattr(value, "__objclass__", value)
    return ("built in", str(getattr(owner, "__module__", "")), name)
