"""Ctrl-C at each line that an operation runs in the package.

CPython calls a signal's handler between two instructions, but not between a ``with`` and its block, and not
between the block's end and the call of `__exit__`. So those two places are left out.
"""

from __future__ import annotations

import dis
import gc
import sys
import warnings
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Thread
from types import CodeType, FrameType
from typing import Any, TypeVar

from tests.tiers import sample

__all__ = ["PACKAGE", "broken_by_interrupts", "interrupted_at", "places_of", "within"]

T = TypeVar("T")
PACKAGE = "/agentguard/"
SECONDS = 5.0  # within which the next user gets through
MOST = 5000


def interrupted_at(
    number: int, operation: Callable[[], object], parts: Collection[str] = (PACKAGE,)
) -> tuple[BaseException | None, str]:
    """Raise KeyboardInterrupt at the n-th line that an operation runs in these parts of the package.

    Return the error, which keeps the frames alive as a notebook does, and the place; "" if there is none.
    """
    count, place, error = 0, "", None

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count, place
        code = frame.f_code
        if not any(part in code.co_filename for part in parts):
            return None
        if event == "line" and frame.f_lasti not in _ends_of_blocks(code):
            count += 1
            if count == number:
                name = code.co_filename.rpartition(PACKAGE)[2]
                place = f"{name}:{frame.f_lineno} {code.co_qualname}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        operation()
    except BaseException as problem:  # noqa: BLE001  what an interrupt has become, too
        error = problem
    finally:
        sys.settrace(None)
    return error, place


def places_of(operation: Callable[[], object], parts: Collection[str] = (PACKAGE,)) -> list[str]:
    """Return the place of each line that the operation runs, in order."""
    places = list[str]()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        code = frame.f_code
        if not any(part in code.co_filename for part in parts):
            return None
        if event == "line" and frame.f_lasti not in _ends_of_blocks(code):
            places.append(f"{code.co_filename}:{frame.f_lineno}")
        return trace

    def run() -> None:
        sys.settrace(trace)
        try:
            operation()
        finally:
            sys.settrace(None)

    _in_thread(run)
    return places


def broken_by_interrupts(
    make: Callable[[], T],
    operation: Callable[[T], object],
    check: Callable[[T], object],
    parts: Collection[str] = (PACKAGE,),
) -> list[str]:
    """Interrupt `operation(make())` at each line, and return the places after which *check* fails.

    The check runs in another thread, and the interrupted one does nothing more. Of a line that runs often,
    each time counts up to the third. A default run takes a part of the lines of a long operation.
    """
    thing = make()
    places = places_of(lambda: operation(thing), parts)
    numbers = [n for n, place in enumerate(places, 1) if places[: n - 1].count(place) < 3]
    assert numbers, "lines were run"
    broken = list[str]()
    for number in sample(numbers) if len(numbers) > 60 else numbers:
        thing = make()
        error, place = _in_thread(lambda n=number, t=thing: interrupted_at(n, lambda: operation(t), parts))  # type: ignore[misc]  # its defaults bind them
        problem = within(SECONDS, lambda t=thing: check(t))  # type: ignore[misc]  # the same
        if problem is not None:
            broken.append(f"{place}: {type(problem).__name__}: {problem}")
        del error
    _collect()
    return broken


def _collect() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that were interrupted before they began
        gc.collect()


def within(seconds: float, function: Callable[[], object]) -> BaseException | None:
    """Run a function in a thread; return what it raised, or TimeoutError if it still runs."""
    errors = list[BaseException | None]()

    def work() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001  the caller reads what it was
            errors.append(error)
        else:
            errors.append(None)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return errors[0] if errors else TimeoutError(f"not done within {seconds} s")


def _in_thread(function: Callable[[], T]) -> T:
    # CPython's tracing leaves its thread with an exception that counts as handled
    with warnings.catch_warnings(), ThreadPoolExecutor(1) as pool:
        warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine that was interrupted before it began
        return pool.submit(function).result()


@cache
def _ends_of_blocks(code: CodeType) -> frozenset[int]:
    """Return where the code leaves a ``with``: it loads None three times, and calls `__exit__`."""
    instructions = list(dis.get_instructions(code))
    offsets = set[int]()
    for before, first, *others in zip(*(instructions[n:] for n in range(5)), strict=False):
        loads = all(one.opname == "LOAD_CONST" and one.argval is None for one in (first, *others[:2]))
        if loads and others[2].opname in {"PRECALL", "CALL"}:
            offsets |= {first.offset, before.offset} if before.opname == "SWAP" else {first.offset}
    return frozenset(offsets)
