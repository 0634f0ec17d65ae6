"""How much a call and its result may hold, and whether a value holds more, found in bounded time.

A few hundred bytes may stand for more parts than any program can write down: the anchors of a YAML document
are objects that stand in many places. So each part is counted wherever it stands, and the count ends at the
limit. Plain data (what JSON and YAML make) is counted by builtins, a whole level at once. Any other object is
read by `inside`, which runs no code of its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from agentguard.model.inside import NUMBER, Unreadable, inside, length, weight

__all__ = ["CallLimits", "Limits"]

_SMALL_BITS = 64
_SMALL = 1 << _SMALL_BITS
_FEW = 100
_UTF8 = 4  # bytes of a character at most
_LISTS = frozenset((list, tuple, set, frozenset))
_NUMBERS = frozenset((int, float, bool, type(None)))
_SCALARS = _NUMBERS | {str}
_LEAVES = _SCALARS | {bytes, bytearray}
_PLAIN = _LEAVES | _LISTS | {dict}


class _Size(NamedTuple):
    """What a value holds when it is written down: bytes of text, parts, and levels."""

    bytes: int
    parts: int
    depth: int


class _Content(NamedTuple):
    """What one part holds: the bytes of its own texts and numbers, the number of its parts, all others."""

    part: object  # kept alive, so that no other object gets its id
    bytes: int
    parts: int
    inner: tuple[object, ...]


_WITHIN_ITSELF = 3  # bytes: Python writes "..." of a value inside itself
_END = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a value may hold.

    `bytes` is the size of its texts in UTF-8, of its bytes and numbers. `parts` counts its texts, numbers,
    other values, and what holds them. `depth` counts levels. Of an object whose text does not show its
    attributes, these count nothing. Of the parts, at most `objects` may be no plain data, and those of a
    value that is inside itself may be no more: to count one of these takes longer.
    """

    bytes: int
    parts: int
    depth: int
    objects: int = 200_000

    def excess(self, value: object) -> str:
        """Return which limit *value* exceeds, in words; or an empty text.

        A value that nobody can look into exceeds each limit. No code of a class runs here; for what remains,
        see `inside`.
        """
        if type(value) is str:  # the most frequent
            if _UTF8 * len(value) <= self.bytes and self.parts:
                return ""
        elif (small := _small(value)) is not None and not self._excess(small):
            return ""
        try:
            # of a value without cycles the first count is right
            excess = self._count(value)
            return excess if excess and self._is_beyond(value) else ""
        except Unreadable as error:
            return f"what nobody can look into ({error})"

    def _count(self, value: object) -> str:
        """Count a whole level at a time."""
        level: list[Any] = [value]
        insides = dict[int, tuple[object, ...]]()
        size, parts, depth, object_count = 0, 1, 0, 0
        while level:
            kinds: set[Any] = set(map(type, level))
            texts = [part for part in level if type(part) is str] if str in kinds else []
            objects = [part for part in level if type(part) not in _PLAIN] if kinds - _PLAIN else []
            object_count += len(objects)
            if object_count > self.objects:
                return f"more than {self.objects} parts that are no plain data"
            size += _bytes(level, kinds, texts, objects, self.bytes - size)
            if size > self.bytes:
                return self._excess(_Size(size, 0, 0))
            dicts = [part for part in level if type(part) is dict] if dict in kinds else []
            lists = [part for part in level if type(part) in _LISTS] if kinds & _LISTS else []
            parts += 2 * sum(map(len, dicts)) + sum(map(len, lists))
            if excess := self._excess(_Size(0, parts + sum(map(length, objects)), 0)):
                return excess  # before anything is read
            inner = list(_insides(objects, insides))
            parts += sum(map(len, inner))
            depth += bool(dicts or lists or inner)
            if excess := self._excess(_Size(0, parts, depth)):
                return excess
            level = [*chain.from_iterable(dicts), *chain.from_iterable(map(dict.values, dicts))]
            level += chain.from_iterable(lists)
            level += chain.from_iterable(inner)
        return ""

    def _is_beyond(self, value: object) -> bool:
        """Count a value that may be inside itself as Python writes it: each path, until it is a circle.

        Lists that hold each other are written once for each order in which they can be passed. So what is
        counted here is limited as objects are.
        """
        most = min(self.parts, self.objects)
        contents = dict[int, _Content]()
        size, parts = 0, 1
        path, circle = [iter((value,))], {0: None}  # an id for each iterator; 0 is that of nothing
        while path:
            part: Any = next(path[-1], _END)
            if part is _END:
                path.pop()
                circle.popitem()
            elif id(part) in circle:
                size += _WITHIN_ITSELF
            else:
                content = contents.get(id(part)) or contents.setdefault(id(part), _content(part, most))
                size, parts = size + content.bytes, parts + content.parts
                depth = len(circle) - 1 + bool(content.parts)
                if parts > most or self._excess(_Size(size, parts, depth)):
                    return True
                if content.inner:
                    circle[id(part)] = None
                    path.append(iter(content.inner))
        return False

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
    result: Limits = Limits(bytes=67_108_864, parts=2_000_000, depth=300)


def _small(value: Any) -> _Size | None:
    """Return at least the size of small plain data, which nearly all values are."""
    parts, size, containers = [value], 0, 0
    for part in parts:  # to which is added what is in them
        kind = type(part)
        if kind is str:
            size += _UTF8 * len(part)
        elif kind is dict or kind is list or kind is tuple:
            containers += 1
            if len(part) > _FEW or len(parts) > _FEW:
                return None
            parts += part
            if kind is dict:
                parts += part.values()
        elif (kind is int and not -_SMALL < part < _SMALL) or kind not in _NUMBERS:
            return None
        else:
            size += NUMBER
    return _Size(size, len(parts), containers)


def _bytes(level: list[Any], kinds: set[Any], texts: list[str], objects: list[Any], most: int) -> int:
    """Return the bytes of the parts of a level, without what is inside of them; at least, if above *most*."""
    total = sum(map(len, texts))
    if total > most:
        return total
    if not all(map(str.isascii, texts)):
        total = sum(map(weight, texts))
    leaves = len(level) - len(texts) if kinds <= _SCALARS else sum(type(part) in _NUMBERS for part in level)
    total += NUMBER * leaves
    if int in kinds:
        bits = [int.bit_length(part) for part in level if type(part) is int]
        if max(bits) > _SMALL_BITS:
            total += sum(max(0, size // 3 - NUMBER) for size in bits if size > _SMALL_BITS)
    if kinds & {bytes, bytearray}:
        total += sum(len(part) for part in level if type(part) in (bytes, bytearray))
    return total + sum(map(weight, objects))


def _insides(objects: list[Any], cache: dict[int, tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    """Yield what objects hold that are no plain data. One that stands in many places is read once."""
    for part in objects:
        parts = cache.get(id(part))
        if parts is None:
            parts = cache[id(part)] = inside(part)
        if parts:
            yield parts


def _parts(value: Any) -> tuple[object, ...]:
    kind = type(value)
    if kind is dict:
        return (*value, *value.values())
    if kind in _LISTS:
        return tuple(value)
    return () if kind in _LEAVES else inside(value)


def _content(part: Any, most: int) -> _Content:
    """Read one part. One that holds more than *most* others is not read."""
    kind = type(part)
    if kind in _LEAVES:
        return _Content(part, weight(part), 0, ())
    count = len(part) * (2 if kind is dict else 1) if kind in _PLAIN else length(part)
    if count > most:
        return _Content(part, 0, count, ())
    items = _parts(part)
    size = 0 if kind in _PLAIN else weight(part)
    size += sum(_scalar_bytes(item) for item in items if type(item) in _SCALARS)
    return _Content(part, size, len(items), tuple(item for item in items if type(item) not in _SCALARS))


def _scalar_bytes(item: Any) -> int:
    kind = type(item)
    if kind is str:
        return len(item) if item.isascii() else len(item.encode(errors="surrogatepass"))
    return weight(item) if kind is int else NUMBER
