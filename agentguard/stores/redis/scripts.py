"""The Lua scripts of the Redis store: one for each operation, so that each is atomic.

They are the files in the folder ``lua``. Redis 7, or Valkey, runs them. Each but `open` begins with
``_shared.lua``, and those that look at numbers of calls with ``_counters.lua`` behind it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["Script", "script"]

_FOLDER = files(__package__) / "lua"
_SHARED = (_FOLDER / "_shared.lua").read_text("utf-8")
_COUNTERS = (_FOLDER / "_counters.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Script:
    """A script, the digest by which a server that knows it runs it, and whether it writes."""

    name: str
    source: bytes
    sha: bytes
    writes: bool


def script(
    name: str, *, shared: bool = True, without_memory: bool = False, counters: bool = False, after: str = ""
) -> Script:
    """Read the script *name*; with *without_memory*, a server runs it also when its memory is full.

    *after* is what runs before it in the same script, and may return instead of it.
    """
    # the first line says when Redis refuses the script, and has to stay the first
    flags, _, body = (_FOLDER / f"{name}.lua").read_text("utf-8").partition("\n")
    if without_memory:
        flags = "#!lua flags=allow-oom"
    if after:
        name, body = f"{name}{after}", (_FOLDER / f"{after}.lua").read_text("utf-8") + body
    data = f"{flags}\n{_SHARED if shared else ''}{_COUNTERS if counters else ''}{body}".encode()
    # the name that Redis gives to a script, not a protection
    return Script(name, data, hashlib.sha1(data, usedforsecurity=False).hexdigest().encode(), "done(" in body)
