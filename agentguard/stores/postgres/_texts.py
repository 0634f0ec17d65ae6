"""Texts as PostgreSQL can keep them: it knows neither U+0000 nor half of a surrogate pair.

Both may be in a text that comes from others. Each such character, and the mark itself, is kept as the mark
U+0010 and four hexadecimal digits. The server can join texts that are written so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["packed", "unpacked"]

_ODD = re.compile("[\x00\x10\ud800-\udfff]")
_PACKED = re.compile("\x10(.{4})")


def packed(value: Any) -> Any:
    """Return a value of a statement with its texts as PostgreSQL can keep them."""
    if isinstance(value, str):
        return _ODD.sub(_pack, value) if _ODD.search(value) else value
    return list(map(packed, value)) if isinstance(value, list) else value


def unpacked(value: Any) -> Any:
    """Return a value of an answer with the texts that were packed."""
    if isinstance(value, str):
        return _PACKED.sub(_unpack, value) if "\x10" in value else value
    if isinstance(value, dict):
        return {name: unpacked(part) for name, part in value.items()}
    return list(map(unpacked, value)) if isinstance(value, Sequence) else value


def _pack(match: re.Match[str]) -> str:
    return f"\x10{ord(match[0]):04x}"


def _unpack(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))
