"""The decisions about numbers of calls that every store makes in the same way; see `model.counts`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from agentguard.errors import CountersChanged, CountersFull
from agentguard.model import Addition, Call, Cell
from agentguard.model.counts import MOST, VALUES

__all__ = [
    "KEEP_BUCKETS",
    "added_by",
    "changed",
    "grown",
    "packed",
    "require_unchanged",
    "unpacked",
    "within_limit",
]

KEEP_BUCKETS = 7_200.0
"""Seconds for which a part of a window is kept beyond its time, so that a clock that is ahead loses none."""


def require_unchanged(call: Call, values: Iterable[int]) -> None:
    """Require that the numbers are those by which the call was judged; *values* are what they are now.

    Raises:
        CountersChanged: One of them is another.
    """
    if any(value != number for (_, number), value in zip(call.numbers, values, strict=True)):
        raise changed(call)


def changed(call: Call) -> CountersChanged:
    """Return the error of a call that was judged by numbers that are others by now."""
    return CountersChanged(f"other calls have changed what the call of {call.tool} was judged by")


def added_by(additions: Iterable[Addition], cell: Cell) -> int:
    """Return how much of a number these additions are."""
    return sum(
        one.amount for one in additions if one[:2] == (cell.owner, cell.name) and one.bucket >= cell.since
    )


def grown(value: int, addition: Addition) -> int:
    """Return the number in one bucket after an addition to it.

    Raises:
        CountersFull: No number can be that large.
    """
    if value + addition.amount > MOST:
        raise CountersFull(f"a sum of {addition.name.split(chr(31))[0]} would be too large to be exact")
    return value + addition.amount


def within_limit(values: int, addition: Addition) -> None:
    """Require that an argument may have one more value than *values*.

    Raises:
        CountersFull: It has had `VALUES` of them.
    """
    if values >= VALUES:
        tool, _, argument = addition.group.split(chr(31))
        raise CountersFull(f"the calls of {tool} have had {VALUES} different values of {argument}")


def packed(additions: Sequence[Addition]) -> str | None:
    """Return additions as one text, or None if there are none."""
    return json.dumps(additions) if additions else None


def unpacked(text: str | None) -> tuple[Addition, ...]:
    """Return the additions that `packed` has written."""
    return () if text is None else tuple(Addition(*one) for one in json.loads(text))
