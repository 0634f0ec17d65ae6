"""What of a JSON text is its structure, found while it comes and before anything parses it.

A comma in a string, as in a table that a server sends as CSV, makes no value. So what stands between
quotation marks is left out. No string of JSON goes on in the next line, and neither does a field of a stream
of events: each line begins outside of strings, whatever the line before says. A text that is no JSON is
parsed up to its mistake.
"""

from __future__ import annotations

import re

__all__ = ["JsonStructure"]

_LINE_END = re.compile(rb"[\r\n]")
# where some readers of events begin a new line, and others none
_DOUBTFUL = re.compile(rb"[\x0b\x0c\x1c-\x1e]|\xc2\x85|\xe2\x80[\xa8\xa9]")


class JsonStructure:
    """Takes the strings out of one answer, part by part."""

    def __init__(self) -> None:
        self._is_inside = self._is_escaped = self._is_doubtful = False
        self._last = b""

    def outside(self, chunk: bytes) -> bytes:
        """Return what stands outside of strings. Where that is in doubt, it returns all, from there on."""
        self._is_doubtful = self._is_doubtful or _DOUBTFUL.search(self._last + chunk) is not None
        if self._is_doubtful:
            return chunk
        self._last = chunk[-2:]
        first, *lines = _LINE_END.split(chunk)
        parts = [self._outside_in(first)]
        for line in lines:
            self._is_inside = self._is_escaped = False
            parts.append(self._outside_in(line))
        return b"".join(parts)

    def _outside_in(self, line: bytes) -> bytes:
        if self._is_escaped and line:
            line = b"\\" + line
        elif not line:
            return line
        line = line.replace(b"\\\\", b"").replace(b'\\"', b"")
        self._is_escaped = line.endswith(b"\\")
        if self._is_escaped:
            line = line[:-1]
        parts = line.split(b'"')
        outside = parts[1 if self._is_inside else 0 :: 2]
        self._is_inside ^= len(parts) % 2 == 0
        return b"".join(outside)
