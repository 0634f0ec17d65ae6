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
from typing import NamedTuple

from agentguard.concurrency.fork import in_child

__all__ = ["gone", "is_here", "owner"]

PROC = Path("/proc")


def owner() -> str:
    """Name this process: where it runs, its id, and when it started."""
    return _named(os.getpid())  # again after a fork


def is_here(name: str) -> bool:
    """Whether the process of that name runs or ran where we run, so that `gone` knows of it."""
    return name.rpartition("|")[0] == _place()


def gone(name: str) -> bool:
    """Whether the process of that name ran where we run, and runs no more."""
    place, _, rest = name.rpartition("|")
    pid, _, started = rest.partition("@")
    if place != _place() or not pid.isdecimal() or name == owner():
        return False
    if not _lives(int(pid)):
        return True
    fields = _stat(int(pid))
    if fields is None:
        return False
    return fields.ended or (bool(started) and fields.started != started)


@cache
def _named(pid: int) -> str:
    fields = _stat(pid)
    return f"{_place()}|{pid}@{'' if fields is None else fields.started}"


@cache
def _place() -> str:
    """Name what a process id and a start are unique in: a running kernel's namespaces, else the machine."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        place = f"{boot}/{os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        # Linux has namespaces: without /proc, nothing says which one this is, so nobody else is in it
        return secrets.token_hex(16) if sys.platform == "linux" else socket.gethostname()
    try:
        # each has its own time since the start of the machine, in which /proc tells when a process started
        return f"{place}/{os.readlink(PROC / 'self/ns/time')}"
    except OSError:  # a kernel before Linux 5.6 has no namespaces of time
        return place


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    return True


class _Stat(NamedTuple):
    """What ``/proc`` tells of a process: when it started, in the kernel's ticks, and whether it has ended.

    A process that has ended keeps its id until its parent has waited for it.
    """

    started: str
    ended: bool


def _stat(pid: int) -> _Stat | None:
    """Return what ``/proc`` tells of a process, or None if it shows another namespace, or hides it."""
    if not _shows_our_namespace(os.getpid()):
        return None
    try:
        # the name in parentheses may hold spaces; behind it are the third field and those that follow
        fields = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        # a process whose first thread alone has ended is shown as a zombie too, and has other threads
        return _Stat(fields[19], fields[0] in {"Z", "X"} and int(fields[17]) <= 1)
    except (OSError, IndexError, ValueError):
        return None


@cache
def _shows_our_namespace(pid: int) -> bool:
    """Return whether ``/proc`` is that of our namespace: then this process has one id, and this one."""
    try:
        status = (PROC / "self/status").read_text("utf-8", "replace")
    except OSError:
        return False
    ids = re.search(r"^NSpid:(.*)$", status, re.MULTILINE)
    return ids is not None and ids[1].split() == [str(pid)]


class _Answers:
    """The answers of this room that are kept. None of them holds in a forked child.

    A child may be in another namespace than its parent, where its id was another process's before.
    """

    def clear(self) -> None:
        """Ask anew from now on."""
        for function in (_named, _place, _shows_our_namespace):
            function.cache_clear()


_answers = _Answers()
in_child(_answers.clear)
