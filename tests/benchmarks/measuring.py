"""Timing several subjects in turn, so that a busy machine is busy for all of them alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import NamedTuple

__all__ = ["Timing", "interleaved"]


class Timing(NamedTuple):
    """Seconds for one call of a subject: in the median round, and in the quickest."""

    median: float
    least: float


def interleaved(
    subjects: Mapping[str, Callable[[], object]],
    rounds: int,
    calls: int,
    before: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Time each subject for *calls* calls, one after the other, in each of *rounds* rounds.

    *before* is called before each, and is no part of the time.
    """
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for subject in subjects.values():
        _seconds(subject, calls)  # what is made at the first call is no part of the others
    for _ in range(rounds):
        for name, subject in subjects.items():
            before()
            taken[name].append(_seconds(subject, calls))
    return {name: Timing(median(each), min(each)) for name, each in taken.items()}


def _seconds(subject: Callable[[], object], calls: int) -> float:
    gc.collect()
    gc.disable()  # a collection falls on whoever runs at that moment
    try:
        started = perf_counter()
        for _ in range(calls):
            subject()
        return (perf_counter() - started) / calls
    finally:
        gc.enable()
