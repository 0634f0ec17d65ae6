"""Tracebacks that show no local variables, without ending what an application has suspended."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType, TracebackType

__all__ = ["strip_locals"]

_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def strip_locals(errors: Iterable[BaseException]) -> None:
    """Clear the frames in the tracebacks of *errors* that have finished, and leave out the suspended ones.

    A generator or coroutine that has caught an error may wait while the error is raised elsewhere. Its
    frame cannot be cleared: until Python 3.13 that closes it, and an event loop waits for it for ever.
    Frames that are executing keep their locals.
    """
    found = [error for error in errors if error.__traceback__ is not None]
    for error in found:
        _clear(error.__traceback__)
    for error in found:  # of what only a frame held that is clear now, the end has come meanwhile
        error.__traceback__ = _clear(error.__traceback__)


def _clear(entry: TracebackType | None) -> TracebackType | None:
    """Clear what has finished; returns the traceback without what is suspended."""
    kept = list[TracebackType]()
    while entry is not None:
        following = entry.tb_next
        if not _suspended(entry.tb_frame):
            with suppress(RuntimeError):  # it is executing
                entry.tb_frame.clear()
            if kept and kept[-1].tb_next is not entry:
                kept[-1].tb_next = entry
            kept.append(entry)
        entry = following
    if kept and kept[-1].tb_next is not None:
        kept[-1].tb_next = None
    return kept[0] if kept else None


def _suspended(frame: FrameType) -> bool:
    """Whether a generator or coroutine waits here.

    Python tells it only by this: such a frame has no caller, and until it has finished, what it holds
    belongs to its generator.
    """
    if not frame.f_code.co_flags & _SUSPENDABLE or frame.f_back is not None:
        return False
    return frame.f_code not in gc.get_referents(frame)
