"""Time several subjects in turn, so that a busy machine is busy for all of them alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time
from typing import TypeVar

__all__ = ["Subject", "Timing", "interleaved", "median_ratio", "repeated"]

K = TypeVar("K", bound=Hashable)


def _unverified(_calls: int) -> None:
    """Accept any number of calls: the subject does not count them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing to time.

    `run` makes as many calls as it is told. `verify` gets the same number, outside the timed part, and
    raises if not all of these calls did their work. `calls` is the number of calls in one round.
    """

    run: Callable[[int], object]
    calls: int
    verify: Callable[[int], object] = _unverified


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds for one call of a subject, in each round: by the clock, and of the process's CPU time."""

    rounds: tuple[float, ...]
    cpu_rounds: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        """Seconds for one call in the median round."""
        return median(self.rounds)

    @property
    def quickest(self) -> float:
        """Seconds for one call in the quickest round, which other processes disturbed least."""
        return min(self.rounds)


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios of *over* to *under*, each of one round.

    The two are timed one soon after the other in a round, so a machine that is slow for a while is slow
    for both.
    """
    return median(a / b for a, b in zip(over, under, strict=True))


def repeated(function: Callable[[], object], calls: int) -> Subject:
    """Make a subject that calls *function* again and again."""

    def run(number: int) -> None:
        for _ in range(number):
            function()

    return Subject(run, calls)


def interleaved(
    subjects: Mapping[K, Subject], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[K, Timing]:
    """Time each subject once in each of *rounds* rounds, one subject after the other.

    *before* is called before each, and is no part of the time. Each subject runs once beforehand, since
    what the first call makes is no part of the others.

    Raises:
        Exception: Whatever a subject's `verify` raises; no figures are returned then.
    """
    times: dict[K, list[tuple[float, float]]] = {name: [] for name in subjects}
    for subject in subjects.values():
        _seconds(subject)
    with _frozen_heap():
        for _ in range(rounds):
            for name, subject in subjects.items():
                before()
                times[name].append(_seconds(subject))
    timings: dict[K, Timing] = {}
    for name, rounds_taken in times.items():
        clock, cpu = zip(*rounds_taken, strict=True)
        timings[name] = Timing(clock, cpu, subjects[name].calls)
    return timings


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Leave what exists now out of each collection: in a test run that heap takes 0.25 s to look through."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _seconds(subject: Subject) -> tuple[float, float]:
    gc.collect()
    gc.disable()  # otherwise the subject that runs at that moment pays for the garbage of all
    try:
        worked, started = process_time(), perf_counter()
        subject.run(subject.calls)
        elapsed, worked = perf_counter() - started, process_time() - worked
    finally:
        gc.enable()
    subject.verify(subject.calls)
    return elapsed / subject.calls, worked / subject.calls
