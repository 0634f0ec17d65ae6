"""Look through plain data at the speed of C, and bound the text that a value would make.

A tool's result is mostly plain: text, or JSON as lists and dicts. No code of a class runs in it, and a whole
level of it is looked through by a few calls of builtins. An object that stands in many places of the value,
as the anchor of a YAML document does, is looked through once.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from agentguard.redaction.objects import ATOMS, INERT, children

__all__ = ["MOST_TEXT", "is_clean", "writes_too_much"]

MOST_PARTS = 2_000_000  # of a plain value that are looked through at this speed
MOST_TEXT = 1_000_000  # parts of a value at most, each counted wherever it is written, if its text is made
_CHARACTERS = 32  # of a text that count as one part
_LISTS = (list, tuple, set, frozenset)
_KNOWN = ATOMS | {str, bytes, dict, *_LISTS}


def is_clean(value: object, texts: Iterable[str], data: Iterable[bytes]) -> bool:
    """Return whether this is plain data without any of these secrets; False where that is not known.

    Plain data consists of objects of exactly Python's own types.
    """
    level: list[Any] = [value]
    entered, parts = set[int](), 0
    while level:
        parts += len(level)
        if parts > MOST_PARTS or not _KNOWN.issuperset(map(type, level)):
            return False
        if _among("\0".join([part for part in level if type(part) is str]), texts):
            return False
        if _among(b"\0".join([part for part in level if type(part) is bytes]), data):
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


def writes_too_much(value: object) -> bool:
    """Return whether the text of this value would take more than `MOST_TEXT` to write, without writing it.

    A few hundred bytes of aliases may stand for a text that no program can write. Each object is entered
    once, and its size is counted wherever it stands. An object inside itself is written as "...".
    """
    sizes = dict[int, int]()
    references = [value]  # an object that is made on the way must not give its id to another one
    todo: list[tuple[object, tuple[object, ...] | None]] = [(value, None)]
    while todo:
        part, inner = todo.pop()
        if inner is not None:
            sizes[id(part)] = size = 1 + sum(sizes[id(item)] for item in inner)
            if size > MOST_TEXT:
                return True
        elif id(part) not in sizes:
            sizes[id(part)], inner = _alone(part)
            references += inner
            if len(references) > MOST_TEXT:
                return True
            if inner:
                todo.append((part, inner))
                todo += [(item, None) for item in inner]
    return False


def _alone(part: object) -> tuple[int, tuple[object, ...]]:
    """Return the size of an object without its parts, and its parts."""
    if isinstance(part, str | bytes | bytearray):
        return 1 + len(part) // _CHARACTERS, ()
    if type(part) in ATOMS or isinstance(part, INERT):
        return 1, ()
    return 1, tuple(children(part))
