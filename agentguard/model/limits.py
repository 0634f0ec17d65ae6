"""How much a call and its result may hold, and whether a value holds more, found in bounded time.

A few hundred bytes may stand for more parts than any program can write down: the anchors of a YAML document
are objects that stand in many places. So each part is counted wherever it stands, and the count ends at the
limit. Plain data (what JSON and YAML make) is counted by builtins, a whole level at once. Any other object is
read by `inside`, which runs no code of its class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from agentguard.model.inside import NUMBER, Unreadable, has_known_text, inside, weight

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

    def excess(self, value: object, *, own_texts: bool = True) -> str:
        """Return which limit *value* exceeds, in words; or an empty text.

        A value that nobody can look into exceeds each limit. Without *own_texts*, so does an object whose
        text a class of the application writes, since that may take any time. No code of a class runs here;
        for what remains, see `inside`.
        """
        if (small := _small(value)) is not None and not self._excess(small):
            return ""
        try:
            # without cycles the first count is right; a value inside itself counts once in the other two
            if not self._count(value, once=False, own_texts=own_texts):
                return ""
            return self._count(value, once=True, own_texts=own_texts) or self._exact(value)
        except Unreadable as error:
            return f"what nobody can look into ({error})"

    def _count(self, value: object, *, once: bool, own_texts: bool) -> str:
        """Count a whole level at a time. With *once*, an object counts only where it stands first."""
        level: list[Any] = [value]
        entered = dict[int, object]()
        insides = dict[int, tuple[object, ...]]()
        size, parts, depth = 0, 1, 0
        while level:
            kinds: set[Any] = set(map(type, level))
            texts = [part for part in level if type(part) is str] if str in kinds else []
            objects = [part for part in level if type(part) not in _PLAIN] if kinds - _PLAIN else []
            if not own_texts and not all(map(has_known_text, kinds - _PLAIN)):
                return "an object with a text of its own"
            size += _bytes(level, kinds, texts, objects)
            if size > self.bytes:
                return self._excess(_Size(size, 0, 0))
            dicts = [part for part in level if type(part) is dict] if dict in kinds else []
            lists = [part for part in level if type(part) in _LISTS] if kinds & _LISTS else []
            if once:
                dicts, lists, objects = (_new(group, entered) for group in (dicts, lists, objects))
            inner = [*lists, *_insides(objects, insides)]
            parts += 2 * sum(map(len, dicts)) + sum(map(len, inner))
            depth += bool(dicts or inner)
            if excess := self._excess(_Size(0, parts, 0 if once else depth)):
                return excess
            level = [*chain.from_iterable(dicts), *chain.from_iterable(map(dict.values, dicts))]
            level += chain.from_iterable(inner)
        return ""

    def _exact(self, value: object) -> str:
        """Count a value in which objects stand in many places, and perhaps inside themselves."""
        sizes, references = dict[int, _Size](), list[object]()
        todo: list[tuple[object, tuple[object, ...] | None]] = [(value, None)]
        while todo:
            part, inner = todo.pop()
            if inner is not None:
                sizes[id(part)] = _sum(inner, sizes)
            elif id(part) not in sizes:
                inner = _parts(part)
                references.append((part, inner))  # a part that is made here must not give its id to another
                if inner and not _SCALARS.issuperset(map(type, inner)):
                    sizes[id(part)] = _WITHIN_ITSELF
                    todo.append((part, inner))
                    todo += [(item, None) for item in inner if type(item) not in _SCALARS]
                else:
                    sizes[id(part)] = _sum(inner, sizes) if inner or type(part) in _PLAIN else _leaf(part)
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


def _small(value: Any) -> _Size | None:
    """Return at least the size of a text or of small plain data, which are the most frequent values."""
    if type(value) is str:
        return _Size(_UTF8 * len(value), 1, 0)
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


def _bytes(level: list[Any], kinds: set[Any], texts: list[str], objects: list[Any]) -> int:
    """Return the bytes of the parts of a level, without what is inside of them."""
    total = sum(map(len, texts))
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


def _new(parts: list[Any], entered: dict[int, object]) -> list[Any]:
    """Return the parts that were not entered before, each once."""
    new = {id(part): part for part in parts if id(part) not in entered}
    entered.update(new)
    return list(new.values())


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


def _sum(items: Iterable[Any], sizes: Mapping[int, _Size]) -> _Size:
    """Return the size of what holds these items, of which each that is no scalar has a size already."""
    total, parts, depth = 0, 1, 0
    for item in items:
        parts += 1
        kind = type(item)
        if kind is str:
            total += len(item) if item.isascii() else len(item.encode(errors="surrogatepass"))
        elif kind in _NUMBERS:
            total += weight(item) if kind is int else NUMBER
        else:
            size = sizes[id(item)]
            total += size.bytes
            parts += size.parts - 1
            depth = max(depth, size.depth)
    return _Size(total, parts, depth + 1)


def _leaf(value: object) -> _Size:
    return _Size(weight(value), 1, 0)
