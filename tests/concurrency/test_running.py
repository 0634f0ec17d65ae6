"""A function that runs is said to run, whatever its thread does while another one looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from threading import Event, Thread, get_ident
from time import monotonic
from types import FrameType
from typing import Any

import pytest

from agentguard.concurrency.owned_lock import OwnedLock, owner_here
from agentguard.concurrency.places import Places
from agentguard.concurrency.running import Owner, is_running


class Yielding:
    """A function with a generator that yields when another thread looks at it."""

    def __init__(self) -> None:
        self.inside, self._goes_on, self.has_yielded, self._over = Event(), Event(), Event(), Event()
        self.function: tuple[FrameType, int] | None = None
        self._thread = Thread(target=self._work)
        self._thread.start()
        assert self.inside.wait(5)

    def _values(self) -> Iterator[None]:
        while not self._over.is_set():
            self.inside.set()
            self._goes_on.wait(5)
            self._goes_on.clear()
            yield

    def _work(self) -> None:
        self.function = sys._getframe(), get_ident()
        for _ in self._values():
            self.has_yielded.set()
            self._over.wait(5)  # not in the generator, which has no caller now

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """Have the generator yield once, when the look of `is_running` has come to its frame."""
        if frame.f_code is not is_running.__code__:
            return None
        code = getattr(frame.f_locals.get("running"), "f_code", None)
        if event == "line" and code is Yielding._values.__code__ and not self.has_yielded.is_set():
            self._goes_on.set()
            assert self.has_yielded.wait(5)
        return self.trace

    def end(self) -> None:
        self._over.set()
        self._goes_on.set()
        self._thread.join()


@pytest.mark.promise("running-owners-keep")
def test_a_function_runs_although_its_generator_yields_while_another_thread_looks() -> None:
    answers, yielding = list[bool](), Yielding()
    function = yielding.function
    assert function is not None

    def ask() -> None:
        sys.settrace(yielding.trace)
        answers.append(is_running(*function))

    asker = Thread(target=ask)
    asker.start()
    asker.join()
    yielding.end()
    assert yielding.has_yielded.is_set()
    assert answers == [True]
    assert not is_running(*function)


def test_a_function_that_has_returned_or_whose_thread_goes_on_elsewhere_does_not_run() -> None:
    functions, over = list[tuple[FrameType, int]](), Event()

    def done() -> None:
        functions.append((sys._getframe(), get_ident()))

    def work() -> None:
        done()
        over.wait(5)

    thread = Thread(target=work)
    thread.start()
    while not functions:
        over.wait(0.001)
    assert not is_running(*functions[0])
    over.set()
    thread.join()
    assert not is_running(*functions[0])


class Lock:
    """The lock as `Places` are used."""

    def __init__(self) -> None:
        self._lock = OwnedLock()

    def use(self, block: float) -> bool:
        over = Event()
        if not self._lock.acquire(owner_here(), lambda: 5.0):
            return False
        over.wait(block)
        self._lock.release()
        return True


class OnePlace:
    """One place, as a lock."""

    def __init__(self) -> None:
        self._places = Places(1)

    def use(self, block: float) -> bool:
        owner = Owner()
        if not self._places.acquire(owner, 5):
            return False
        Event().wait(block)
        self._places.release(owner)
        return True


@pytest.mark.parametrize("kind", [Lock, OnePlace])
def test_who_waits_is_not_passed_by_for_long_by_threads_that_come_without_a_pause(
    kind: type[Lock | OnePlace],
) -> None:
    shared, over, counts = kind(), Event(), [0, 0]

    def work(number: int) -> None:
        while not over.is_set() and counts[0] < 40:
            assert shared.use(0.0005)
            counts[number] += 1

    threads = [Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    threads[0].join(5)
    over.set()
    for thread in threads:
        thread.join()
    # each turn takes 10 ms of patience and the time of a block; without it, one of the two has nearly none;
    # half of its turns is for a machine that gives one thread less time
    assert min(counts) >= 10


def test_who_has_given_up_leaves_the_queue() -> None:
    places, owner = Places(1), Owner()
    assert places.acquire(owner, 1)
    for _ in range(20):
        assert not places.acquire(Owner(), 0.0001)
    assert not places._waiting


def test_all_that_wait_get_a_place_when_all_places_are_released_at_once() -> None:
    places, owners = Places(2), [Owner(), Owner()]
    answers, over = list[bool](), Event()
    assert all(places.acquire(owner, 1) for owner in owners)

    def work() -> None:
        owner = Owner()
        answers.append(places.acquire(owner, 5))
        over.wait(5)
        places.release(owner)

    threads = [Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    _until(lambda: len(places._waiting) == 2)
    for owner in owners:
        places.release(owner)
    _until(lambda: len(answers) == 2)
    over.set()
    for thread in threads:
        thread.join()
    assert answers == [True, True]
    assert not places._owners


def _until(holds: Callable[[], bool]) -> None:
    pause, ends = Event(), monotonic() + 5
    while not holds():
        assert monotonic() < ends
        pause.wait(0.001)
