"""The texts, numbers and booleans in any value, with their paths, in bounded time.

An attacker may have made the value: it may be nested without end, or be a few hundred bytes of YAML whose
anchors stand for more parts than any program can visit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from itertools import islice

from pydantic import BaseModel

__all__ = ["DEEPEST", "MOST", "PATHS", "Leaf", "digest", "leaves", "leaves_at", "parts_at"]

MOST = 20_000  # parts of a value that are visited at most
DEEPEST = 200  # levels of a value that are entered at most
PATHS = 4_000_000  # characters in the paths of all visited parts at most
Leaf = str | int | float | None
Parts = Iterator[tuple[str, object]]
_BEYOND = object()


def leaves(value: object) -> Iterator[tuple[str, Leaf]]:
    """Yield each text, number and boolean in a value, with its path. Lists add nothing to a path.

    An empty text and null are not yielded. JSON values, dataclasses and pydantic models are visited; other
    objects are not. A key of an object is a value too, at the path of the object, since a table may hold
    values as its keys. None stands for all parts beyond `MOST`, `DEEPEST` or `PATHS`, which are not visited.
    """
    if type(value) is str and value:  # the most frequent
        yield "", value
        return
    for path, name, here, part in _walk(value):
        if name:
            yield path, name
        if part is _BEYOND:
            yield here, None
        elif isinstance(part, str | int | float) and part != "":
            yield here, part


def leaves_at(value: object, path: Sequence[str]) -> Iterator[Leaf]:
    """Yield each text, number and boolean that stands at a path; lists on the way and at its end add nothing.

    What stands beside the path is not visited. The keys of an object at the path are values too.
    """
    for part in parts_at(value, path):
        plain = _plain(part)
        if isinstance(plain, str | int | float):
            if plain != "":
                yield plain
        elif isinstance(plain, Mapping):
            yield from map(str, islice(plain, MOST))


def parts_at(value: object, path: Sequence[str]) -> Iterator[object]:
    """Yield what stands at a path; in place of a list on the way or at its end, what is in it."""
    parts: Iterable[object] = [value]
    for name in path:
        parts = [inner for part in _unlisted(parts) for inner in _named(part, name)]
    return _unlisted(parts)


def _unlisted(parts: Iterable[object]) -> Iterator[object]:
    """Yield parts, and in place of a list what is in it, at most `MOST` of them."""
    waiting, count = [iter(parts)], 0
    while waiting:
        for part in waiting[-1]:
            count += 1
            if count > MOST:
                return
            if isinstance(part, list | set | frozenset) or type(part) is tuple:
                if len(waiting) < DEEPEST:
                    waiting.append(iter(part))
                    break
            else:
                yield part
        else:
            waiting.pop()


def _named(part: object, name: str) -> Iterable[object]:
    """Return what an object holds by a name."""
    if isinstance(part, Mapping):
        return (part[name],) if name in part else ()
    inner = None if isinstance(part, str | int | float) else _parts(part)
    return () if inner is None else [value for key, value in inner if key == name]


def _walk(value: object) -> Iterator[tuple[str, str, str, object]]:
    """Yield each part of a value: the path around it, its name, its path, and itself."""
    count, path_length, within = 0, 0, [("", iter((("", value),)))]
    while within:
        path, parts = within[-1]
        for name, part in parts:
            count += 1
            here = f"{path}.{name}" if path and name else name or path
            path_length += len(here)
            if count > MOST or path_length > PATHS or len(within) > DEEPEST:
                yield path, name, here, _BEYOND
                return
            plain = _plain(part)
            yield path, name, here, plain
            if (inner := _parts(plain)) is not None:
                within.append((here, inner))
                break
        else:
            within.pop()


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    return value.isoformat() if isinstance(value, date) else value


def _parts(value: object) -> Parts | None:
    """Return the parts of a value with their names ("" in a list), or None if it has no parts."""
    if isinstance(value, str | int | float):
        return None
    if isinstance(value, Mapping):
        return ((str(name), part) for name, part in value.items())
    if isinstance(value, BaseModel):
        return iter(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(map(str, value._fields), value, strict=True)
    if isinstance(value, list | tuple | set | frozenset):
        return (("", part) for part in value)
    if is_dataclass(value):
        return ((field.name, getattr(value, field.name)) for field in fields(value))
    return None


def digest(task_id: str, value: str | int | float) -> str:
    """Return the digest of a value: 128 bits, salted by the task, so that no table fits two tasks."""
    content = f"{task_id}\n{_form(value)}"
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _form(value: str | int | float) -> str:
    """Return a text that is the same for equal values only: 10 and 10.0 are equal, 1 and True are not."""
    if isinstance(value, bool):
        return f"b{value}"
    return f"s{value}" if isinstance(value, str) else f"n{Decimal(repr(value)).normalize()}"
