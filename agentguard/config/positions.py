"""Where in a TOML text a key stands. tomllib forgets it, and an error message must not."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping

__all__ = ["line_of", "places"]

_PART = r"""(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_LINE = re.compile(rf"[ \t]*(?:\[\[?[ \t]*(?P<table>{_KEY})[ \t]*\]|(?P<key>{_KEY})[ \t]*=)")


def places(text: str) -> Mapping[tuple[str, ...], int]:
    """Return the line of each table and key, and of the tables that they imply.

    Keys inside an inline table are not listed: look for the key that holds it. A line of a
    multi-line string that looks like a key is taken for one.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        match = _LINE.match(line)
        if match is None:
            continue
        if match["table"]:
            table = keys = _parts(match["table"])
        else:
            keys = (*table, *_parts(match["key"]))
        for length in range(1, len(keys) + 1):
            found.setdefault(keys[:length], number)
    return found


def line_of(found: Mapping[tuple[str, ...], int], keys: Iterable[str]) -> int:
    """Return the line of *keys*, or of the nearest table around them, or the first."""
    path = tuple(keys)
    return next((found[path[:n]] for n in range(len(path), 0, -1) if path[:n] in found), 1)


def _parts(key: str) -> tuple[str, ...]:
    try:
        value: object = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:  # not a key after all, but text in a multi-line string
        return ()
    parts = []
    while isinstance(value, dict):
        (name,) = value
        parts.append(name)
        value = value[name]
    return tuple(parts)
