"""Several coroutines side by side, on either path: a slow issuer holds up nothing but its own credentials.

Each coroutine comes with the name of the party that it asks. Each party has places of its own, so a party
that stalls takes none of another's. All coroutines are run to their end before the first error is raised.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from contextvars import copy_context
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from agentguard.concurrency.drive import drive

__all__ = ["AT_ONCE", "in_loop", "in_threads"]

T = TypeVar("T")

_Queue = deque[tuple[int, Coroutine[Any, Any, Any]]]

AT_ONCE = 16
"""The most coroutines of one party that run at the same time."""


async def in_loop(coroutines: Iterable[tuple[str, Coroutine[Any, Any, T]]]) -> list[T]:
    """Await all of them on the event loop, and return their results in their order."""
    places = dict[str, asyncio.Semaphore]()

    async def one(party: str, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            async with places.setdefault(party, asyncio.Semaphore(AT_ONCE)):
                return await coroutine
        finally:
            coroutine.close()  # one that was cancelled before it had a place

    return _results(await asyncio.gather(*(one(*pair) for pair in coroutines), return_exceptions=True))


async def in_threads(coroutines: Iterable[tuple[str, Coroutine[Any, Any, T]]]) -> list[T]:
    """Drive all of them in threads, and return their results in their order. None of them may suspend.

    A process that can start no more threads drives them in those that it has started, and in this one.
    """
    pairs = list(coroutines)
    if len(pairs) < 2:
        return [await coroutine for _, coroutine in pairs]
    queues = dict[str, _Queue]()
    for place, (party, coroutine) in enumerate(pairs):
        queues.setdefault(party, deque()).append((place, coroutine))
    answers = dict[int, Any]()
    threads, unserved = _start(list(queues.values()), answers)
    for queue in unserved:
        _work(queue, answers)
    for thread in threads:
        thread.join()
    return _results([answers[place] for place in range(len(pairs))])


def _start(queues: list[_Queue], answers: dict[int, Any]) -> tuple[list[Thread], list[_Queue]]:
    """Start threads, one for each party before a second one for any; return also the queues without one."""
    threads, unserved = list[Thread](), list(queues)
    sizes = [len(queue) for queue in queues]
    for number in range(min(AT_ONCE, max(sizes))):
        for queue, size in zip(queues, sizes, strict=True):
            if number >= size:
                continue
            work = partial(copy_context().run, _work, queue, answers)
            thread = Thread(target=work, name="agentguard-together")
            try:
                thread.start()
            except RuntimeError:  # there are no more threads, or the interpreter shuts down
                return threads, unserved
            threads.append(thread)
            if not number:
                unserved.remove(queue)
    return threads, unserved


def _work(queue: _Queue, answers: dict[int, Any]) -> None:
    while queue:
        try:
            place, coroutine = queue.popleft()  # atomic: one thread takes it
        except IndexError:
            return
        try:
            answers[place] = drive(coroutine)
        except BaseException as error:  # noqa: BLE001  it is raised when the other coroutines are done
            answers[place] = error


def _results(answers: list[Any]) -> list[Any]:
    """Return the answers, or raise the first error among them: an exit or an interrupt before all else."""
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, Exception)):
        raise error
    return answers
