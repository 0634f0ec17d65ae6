"""Whether a value is small plain data, which is looked through in less than a millisecond.

Plain data consists of objects of exactly Python's own types, or of a few classes of the frameworks, such as
the message or the error of a tool. Each such class is known by itself, not by its name or its methods: a
class of the application, or one that derives from a known one, may run any code when it is looked at.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from agentguard.model.inside import attributes, error_parts

__all__ = ["ATOMS", "is_flat", "is_quick"]

ATOMS = frozenset((str, int, float, bool, type(None)))
_TEXT = frozenset((str,))
_BYTES = 65_536
_PARTS = 1_000
_LEVELS = 30
_NUMBER = 8  # bytes
_UTF8 = 4  # bytes of a character at most
_CONTAINERS = frozenset((dict, list, tuple, set, frozenset))
_BLOBS = frozenset((bytes, bytearray))
_NUMBERS = frozenset((bool, float, complex, type(None), date, timedelta, UUID))
_TIMES = frozenset((datetime, time))
_LEAVES = _NUMBERS | _BLOBS | _TIMES | {str, int}
_ERRORS = frozenset((
    Exception, ArithmeticError, AssertionError, ConnectionError, FileNotFoundError, IndexError, KeyError,
    LookupError, NotImplementedError, OSError, PermissionError, RuntimeError, TimeoutError, TypeError,
    ValueError, ZeroDivisionError, KeyboardInterrupt, asyncio.CancelledError,
))  # fmt: skip
# by the names of their modules, so that none of these need be installed
_OF_FRAMEWORKS = (
    ("langchain_core.tools.base", "ToolException"),
    ("langgraph.errors", "GraphInterrupt"),
    ("langgraph.errors", "ParentCommand"),
    ("agentguard.errors", "CredentialUnavailable"),
    ("agentguard.errors", "Denied"),
    ("langchain_core.messages.tool", "ToolMessage"),
    ("langchain_core.documents.base", "Document"),
    ("langgraph.types", "Command"),
    ("langgraph.types", "Interrupt"),
    ("mcp.types", "CallToolResult"),
    ("mcp.types", "TextContent"),
    ("mcp.types", "ImageContent"),
    ("mcp.types", "Annotations"),
)


def is_flat(values: Mapping[str, Any]) -> bool:
    """Return whether all names are texts and all values texts, numbers, booleans or nulls, of Python's types.

    None of these can be changed in place, and no code of a class runs when they are looked at.
    """
    return ATOMS.issuperset(map(type, values.values())) and _TEXT.issuperset(map(type, values))


def is_quick(value: object) -> bool:
    """Return whether a value is small plain data. No code of a class of the application runs here."""
    level: list[Any] = [value]
    size = parts = 0
    for _ in range(_LEVELS + 1):
        following = list[Any]()
        for part in level:
            weight = _weight(part)
            if weight is None:
                return False
            size += weight
            if type(part) not in _LEAVES:
                following += _parts(part)
            if size > _BYTES or parts + len(following) > _PARTS:
                return False
        if not following:
            return True
        parts += len(following)
        level = following
    return False


def _weight(part: Any) -> int | None:
    """Return the bytes of a part of plain data, without what is in it; None of a part of another class."""
    kind: Any = type(part)
    if kind is str:
        return len(part) if part.isascii() else _UTF8 * len(part)
    if kind in _CONTAINERS:
        return 0 if len(part) <= _PARTS else None
    if kind in _NUMBERS:
        return _NUMBER
    if kind is int:
        return _NUMBER + int.bit_length(part) // 3
    if kind in _BLOBS:
        return len(part)
    if kind in _TIMES:  # the class of another zone writes its own name
        return _NUMBER if part.tzinfo is None or part.tzinfo is UTC else None
    return 0 if _is_known(kind) else None


def _parts(part: Any) -> Iterable[object]:
    """Return what a container or an object of a known class holds."""
    kind: Any = type(part)
    if kind is dict:
        return (*part, *part.values())
    if kind in _CONTAINERS:
        return tuple(part)
    inner = attributes(part)
    return (*error_parts(part), *inner) if issubclass(kind, BaseException) else inner


@lru_cache(1024)
def _is_known(kind: Any) -> bool:
    """Return whether this is the very class that Python or an imported module has by such a name."""
    modules = ((sys.modules.get(module), name) for module, name in _OF_FRAMEWORKS)
    return kind in _ERRORS or any(getattr(module, name, None) is kind for module, name in modules)
