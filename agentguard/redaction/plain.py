"""Look through plain data at the speed of C.

A tool's result is mostly plain: text, or JSON as lists and dicts. No code of a class runs in it, and a whole
level of it is looked through by a few calls of builtins. An object that stands in many places of the value,
as the anchor of a YAML document does, is looked through once.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from agentguard.redaction.objects import ATOMS

__all__ = ["DEEPEST", "MOST_TEXT", "is_clean"]

MOST_PARTS = 2_000_000  # of a plain value that are looked through at this speed
DEEPEST = 10_000  # levels that are entered
MOST_TEXT = 67_108_864  # characters and bytes of all its texts, each counted wherever it stands
_LISTS = (list, tuple, set, frozenset)
_KNOWN = ATOMS | {str, bytes, dict, *_LISTS}


def is_clean(value: object, texts: Iterable[str], data: Iterable[bytes]) -> bool:
    """Return whether this is plain data without any of these secrets; False where that is not known.

    Plain data consists of objects of exactly Python's own types.
    """
    level: list[Any] = [value]
    entered, parts, size, depth = set[int](), 0, 0, 0
    while level:
        parts, depth = parts + len(level), depth + 1
        if parts > MOST_PARTS or depth > DEEPEST or not _KNOWN.issuperset(map(type, level)):
            return False
        strings = [part for part in level if type(part) is str]
        blobs = [part for part in level if type(part) is bytes]
        size += sum(map(len, strings)) + sum(map(len, blobs))
        if size > MOST_TEXT or _among("\0".join(strings), texts) or _among(b"\0".join(blobs), data):
            return False
        dicts = _new(level, (dict,), entered)
        lists = _new(level, _LISTS, entered)
        level = [*chain.from_iterable(dicts), *chain.from_iterable(map(dict.values, dicts))]
        level += chain.from_iterable(lists)
    return True


def _new(level: list[Any], kinds: tuple[type, ...], entered: set[int]) -> list[Any]:
    """Return the containers of these kinds that were not entered before, each once."""
    new = {id(part): part for part in level if type(part) in kinds and id(part) not in entered}
    entered.update(new)
    return list(new.values())


def _among(haystack: Any, needles: Iterable[Any]) -> bool:
    return any(needle in haystack for needle in needles)
