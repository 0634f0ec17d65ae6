"""In which line of a TOML text a key stands: tomllib does not say it, and error messages need it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping

__all__ = ["line_of", "positions"]

_PART = r"""(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_LINE = re.compile(rf"[ \t]*(?:\[\[?[ \t]*(?P<table>{_KEY})[ \t]*\]|(?P<key>{_KEY})[ \t]*=)")


def positions(text: str) -> Mapping[tuple[str, ...], int]:
    """Return the line of each table and key, and of the tables that their names imply.

    Keys in an inline table are left out: look for the key of that table. A line of a multi-line string
    that looks like a key counts as one.
    """
    lines: dict[tuple[str, ...], int] = {}
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
            lines.setdefault(keys[:length], number)
    return lines


def line_of(lines: Mapping[tuple[str, ...], int], keys: Iterable[str]) -> int:
    """Return the line of *keys*, or else of the nearest table around them, or else 1."""
    path = tuple(keys)
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 1)


def _parts(key: str) -> tuple[str, ...]:
    try:
        value: object = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:  # this is text of a multi-line string, and not a key
        return ()
    parts = []
    while isinstance(value, dict):
        (name,) = value
        parts.append(name)
        value = value[name]
    return tuple(parts)
