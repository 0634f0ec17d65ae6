"""Which process a credential belongs to, and whether that process is known to be gone.

A process id alone comes back; with the moment that it started it does not. What cannot be seen from
here, on another machine or in another container, is not called gone: its credentials are found by
their expiry and by the end of their tasks.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

__all__ = ["gone", "owner"]


def owner() -> str:
    """Name this process: where it runs, its id, and when it started."""
    return _named(os.getpid())  # again after a fork


def gone(name: str) -> bool:
    """Whether the process of that name ran where we run, and runs no more."""
    place, _, rest = name.rpartition("|")
    pid, _, started = rest.partition("@")
    if place != _place() or not pid.isdigit():
        return False
    return _started(int(pid)) != started


@cache
def _named(pid: int) -> str:
    return f"{_place()}|{pid}@{_started(pid)}"


@cache
def _place() -> str:
    """Name what process ids are unique in: a running kernel's namespace of them, else the machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """Return when it started, in the kernel's ticks; empty where that is unknown; None if it is gone."""
    try:
        # the name in parentheses may hold spaces; the 22nd field of all is the 20th behind it
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
