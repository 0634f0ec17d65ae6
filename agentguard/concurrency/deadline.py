"""Until when a blocking operation may wait.

A synchronous call cannot be interrupted. So the caller says by `within` how long the operation may take, and
an adapter that waits for others asks `seconds_left`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from time import monotonic
from typing import Any, TypeVar

__all__ = ["call_within", "seconds_left", "within"]

T = TypeVar("T")
_Deadline = tuple[
    float, float
]  # of the operation, and of each sequence of operations around it at the latest
_deadline: ContextVar[_Deadline | None] = ContextVar("agentguard_deadline", default=None)


class _Within:
    """A block with a deadline. As a generator it took twice as long."""

    __slots__ = ("_seconds", "_token")
    _token: Token[_Deadline | None]

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        outer, end = _deadline.get(), monotonic() + self._seconds
        self._token = _deadline.set((end, end if outer is None or end < outer[1] else outer[1]))

    def __exit__(self, *_: object) -> None:
        _deadline.reset(self._token)


def within(seconds: float) -> _Within:
    """Say that the operation inside may take *seconds*, and a sequence around it no longer than was said."""
    return _Within(seconds)


def call_within(
    seconds: float, function: Callable[..., T], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> T:
    """Call *function* as in a block of `within`. Each operation of a call does so, and a block takes longer.

    Raises:
        TimeoutError: It has answered, and too late.
    """
    outer, end = _deadline.get(), monotonic() + seconds
    token = _deadline.set((end, end if outer is None or end < outer[1] else outer[1]))
    try:
        answer = function(*args, **kwargs)
    finally:
        _deadline.reset(token)
    if monotonic() > end:
        raise TimeoutError(f"answered after more than {seconds} s")
    return answer


def seconds_left(limit: float, *, of_sequence: bool = True) -> float:
    """Return how long the caller may wait, at most *limit*; 0 or less means that it is too late.

    With *of_sequence* false, what the sequence around the operation has used up does not count.
    """
    deadline = _deadline.get()
    if deadline is None:
        return limit
    operation, sequence = deadline
    return min(limit, (sequence if of_sequence else operation) - monotonic())
