"""Which process a credential belongs to, and whether that process is known to be gone.

A process id alone comes back; with the moment that it started it does not. What cannot be seen from
here, on another machine or in another container, is not called gone: its credentials are found by
their expiry and by the end of their tasks.

Whether a process lives is asked of the kernel (`kill` with signal 0), which answers for our own namespace of
process ids. ``/proc`` may be mounted from another namespace, where the same id is another process, and it
may hide the processes of other users. So it is only asked when a living process has started, and only
where it shows our own namespace.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
from functools import cache
from pathlib import Path

__all__ = ["gone", "owner"]

PROC = Path("/proc")


def owner() -> str:
    """Name this process: where it runs, its id, and when it started."""
    return _named(os.getpid())  # again after a fork


def gone(name: str) -> bool:
    """Whether the process of that name ran where we run, and runs no more."""
    place, _, rest = name.rpartition("|")
    pid, _, started = rest.partition("@")
    if place != _place() or not pid.isdecimal() or name == owner():
        return False
    if not _lives(int(pid)):
        return True
    now_started = _started(int(pid))
    return bool(started and now_started) and now_started != started


@cache
def _named(pid: int) -> str:
    return f"{_place()}|{pid}@{_started(pid)}"


@cache
def _place() -> str:
    """Name what process ids are unique in: a running kernel's namespace of them, else the machine."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        # Linux has namespaces: without /proc, nothing says which one this is, so nobody else is in it
        return secrets.token_hex(16) if sys.platform == "linux" else socket.gethostname()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    return True


def _started(pid: int) -> str:
    """Return when a process started, in the kernel's ticks; empty where that is unknown."""
    if not _shows_our_namespace(os.getpid()):
        return ""
    try:
        # the name in parentheses may hold spaces; the 22nd field of all is the 20th behind it
        return (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


@cache
def _shows_our_namespace(pid: int) -> bool:
    """Return whether ``/proc`` is that of our namespace: then this process has one id, and this one."""
    try:
        status = (PROC / "self/status").read_text("utf-8", "replace")
    except OSError:
        return False
    ids = re.search(r"^NSpid:(.*)$", status, re.MULTILINE)
    return ids is not None and ids[1].split() == [str(pid)]
