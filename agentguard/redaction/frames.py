"""Remove local variables from tracebacks, without ending generators and coroutines that are suspended."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType, TracebackType

__all__ = ["strip_locals"]

_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def strip_locals(errors: Iterable[BaseException]) -> None:
    """Clear the finished frames in the tracebacks of *errors*, and remove the suspended frames from them.

    A generator or coroutine that has caught an error may be suspended while the error is raised elsewhere.
    Its frame cannot be cleared: before Python 3.13 that would close it, and an event loop would wait for it
    forever. Frames that are executing keep their locals.
    """
    traced = [error for error in errors if error.__traceback__ is not None]
    for error in traced:
        _clear(error.__traceback__)
    for error in traced:  # clearing the frames may have ended generators that only those frames held
        error.__traceback__ = _clear(error.__traceback__)


def _clear(entry: TracebackType | None) -> TracebackType | None:
    """Clear the finished frames; return the traceback without the suspended ones."""
    entries = list[TracebackType]()
    while entry is not None:
        following = entry.tb_next
        if not _suspended(entry.tb_frame):
            with suppress(RuntimeError):  # it is executing
                entry.tb_frame.clear()
            if entries and entries[-1].tb_next is not entry:
                entries[-1].tb_next = entry
            entries.append(entry)
        entry = following
    if entries and entries[-1].tb_next is not None:
        entries[-1].tb_next = None
    return entries[0] if entries else None


def _suspended(frame: FrameType) -> bool:
    """Return whether this is the frame of a suspended generator or coroutine.

    Python shows it in one way only: such a frame has no caller, and until it has finished, its generator
    owns what the frame refers to.
    """
    if not frame.f_code.co_flags & _SUSPENDABLE or frame.f_back is not None:
        return False
    return frame.f_code not in gc.get_referents(frame)
