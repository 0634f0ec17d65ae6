"""How much a call and its result may hold, and whether a value holds more, found in bounded time.

A few hundred bytes may stand for more parts than any program can write down: the anchors of a YAML document
are objects that stand in many places. So each object is entered once, and counted wherever it stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, fields, is_dataclass
from itertools import chain
from types import FunctionType
from typing import Any, NamedTuple

from pydantic import BaseModel

__all__ = ["CallLimits", "Limits"]

_NUMBER = 8  # bytes that a number counts, at least
_SMALL = 1 << 64
_FEW = 100
_LEAVES = (str, bytes, bytearray, int, float, type(None))
_SCALARS = frozenset((str, int, float, bool, type(None)))


class _Size(NamedTuple):
    """What a value holds when it is written down: bytes of text, parts, and levels."""

    bytes: int
    parts: int
    depth: int


_WITHIN_ITSELF = _Size(3, 1, 1)  # Python writes "..." of a value inside itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a value may hold.

    `bytes` is the size of its texts in UTF-8, of its bytes and numbers. `parts` counts its texts, numbers,
    other values, and what holds them. `depth` counts levels. Of an object whose text does not show its
    attributes, these count nothing.
    """

    bytes: int
    parts: int
    depth: int

    def excess(self, value: object) -> str:
        """Return which limit *value* exceeds, in words; or an empty text."""
        if (flat := _flat(value)) is not None:
            return self._excess(flat)
        sizes, references = dict[int, _Size](), list[object]()
        todo: list[tuple[object, list[Any] | None]] = [(value, None)]
        while todo:
            part, inner = todo.pop()
            if inner is not None:
                sizes[id(part)] = _sum(inner, sizes)
            elif id(part) not in sizes:
                if (scalars := _scalars_in(part)) is not None:
                    sizes[id(part)] = _sum(scalars, {})
                    references.append(part)
                elif (parts := _inner(part)) is None:
                    sizes[id(part)] = _leaf(part)
                else:
                    inner = list(parts)
                    sizes[id(part)] = _WITHIN_ITSELF
                    references.append(
                        (part, inner)
                    )  # a part that is made here must not give its id to another
                    todo.append((part, inner))
                    todo += [(item, None) for item in inner if type(item) not in _SCALARS]
            if excess := self._excess(sizes[id(part)]) or self._excess(_Size(0, len(references), 0)):
                return excess
        return ""

    def _excess(self, size: _Size) -> str:
        if size.bytes > self.bytes:
            return f"more than {self.bytes} bytes"
        if size.parts > self.parts:
            return f"more than {self.parts} parts"
        return f"more than {self.depth} levels" if size.depth > self.depth else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """The limits of the arguments of one call, and of what its tool returns."""

    arguments: Limits = Limits(bytes=1_048_576, parts=20_000, depth=100)
    result: Limits = Limits(bytes=67_108_864, parts=200_000, depth=300)


def _flat(value: Any) -> _Size | None:
    """Return the size of a text or of a small object of scalars, which are the most frequent values."""
    if type(value) is str:
        return _leaf(value)
    if type(value) is dict and len(value) < _FEW:
        items = [*value, *value.values()]
        if _SCALARS.issuperset(map(type, items)):
            return _sum(items, {})
    return None


def _scalars_in(value: Any) -> list[Any] | None:
    """Return what a list or dict holds if that is scalars alone: most parts of a large result are such."""
    items: list[Any]
    if type(value) is list:
        items = value
    elif type(value) is dict:
        items = [*value, *value.values()]
    else:
        return None
    return items if _SCALARS.issuperset(map(type, items)) else None


def _sum(items: list[Any], sizes: Mapping[int, _Size]) -> _Size:
    """Return the size of what holds these items, of which each that is no scalar has a size already."""
    total, parts, depth = 0, 1 + len(items), 0
    for item in items:
        kind = type(item)
        if kind is str:
            total += len(item) if item.isascii() else len(item.encode(errors="surrogatepass"))
        elif kind is int:
            total += _NUMBER if -_SMALL < item < _SMALL else item.bit_length() // 3
        elif kind in _SCALARS:
            total += _NUMBER
        else:
            size = sizes[id(item)]
            total += size.bytes
            parts += size.parts - 1
            depth = max(depth, size.depth)
    return _Size(total, parts, depth + 1)


def _leaf(value: object) -> _Size:
    if isinstance(value, str):
        size = len(value) if str.isascii(value) else len(str.encode(value, errors="surrogatepass"))
    elif isinstance(value, bytes | bytearray):
        size = len(value)
    else:
        size = max(_NUMBER, value.bit_length() // 3) if isinstance(value, int) else _NUMBER
    return _Size(size, 1, 0)


def _inner(value: Any) -> Iterable[object] | None:
    """Return the parts that the text of a value shows, or None if it is a leaf."""
    if isinstance(value, _LEAVES):
        return None
    if isinstance(value, dict):
        return _pairs(dict.items(value))
    if isinstance(value, list | tuple | Set | deque):
        return value
    if isinstance(value, Mapping):
        return _pairs(value.items())
    if isinstance(value, BaseModel):
        return [*value.__dict__.values(), *(value.__pydantic_extra__ or {}).values()]
    if is_dataclass(value) and not isinstance(value, type):
        return (getattr(value, field.name, None) for field in fields(value))
    attributes = (
        list(vars(value).values()) if _writes_itself(type(value)) and hasattr(value, "__dict__") else []
    )
    if isinstance(value, BaseException):  # whoever writes one down writes its causes as well
        return [
            *attributes,
            value.args,
            value.__cause__,
            value.__context__,
            getattr(value, "exceptions", None),
        ]
    return attributes or None


def _pairs(pairs: Any) -> Iterable[object]:
    return chain.from_iterable(pairs)


def _writes_itself(kind: type) -> bool:
    """Return whether code of Python writes the text of such an object, and so may write its attributes."""
    return any(isinstance(getattr(kind, name, None), FunctionType) for name in ("__repr__", "__str__"))
