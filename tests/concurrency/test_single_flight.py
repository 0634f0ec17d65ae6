"""Of those who need the same at the same moment one fetches it, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread
from typing import Any

import pytest

from agentguard.concurrency.drive import drive
from agentguard.concurrency.single_flight import SingleFlight


class Fetch:
    """What is fetched, how often, and when it may arrive."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.times, self.failure, self.go = 0, failure, Event()

    def answer(self) -> str:
        self.times += 1
        assert self.go.wait(5)
        if self.failure is not None:
            raise self.failure
        return f"answer {self.times}"

    async def blocking(self) -> str:
        return self.answer()

    async def suspending(self) -> str:
        self.times += 1
        while not self.go.is_set():  # noqa: ASYNC110  an event of threads, so that one test serves both
            await asyncio.sleep(0.005)
        if self.failure is not None:
            raise self.failure
        return f"answer {self.times}"


def shared(flight: SingleFlight, fetch: Fetch, key: str = "k") -> str:
    async def share() -> str:
        answer: str = await flight.share.sync(key, fetch.blocking)
        return answer

    return drive(share())


def ashared(flight: SingleFlight, fetch: Fetch, key: str = "k") -> asyncio.Task[Any]:
    async def share() -> Any:
        return await flight.share.async_(key, fetch.suspending)

    return asyncio.create_task(share())


@pytest.mark.promise("single-flight")
def test_of_many_threads_one_fetches() -> None:
    flight, fetch = SingleFlight(), Fetch()
    with ThreadPoolExecutor(30) as threads:
        answers = [threads.submit(shared, flight, fetch) for _ in range(30)]
        time.sleep(0.2)
        fetch.go.set()
        assert {answer.result() for answer in answers} == {"answer 1"}
    assert fetch.times == 1
    assert shared(flight, fetch) == "answer 2", "a flight is no cache"


async def test_of_many_coroutines_one_fetches() -> None:
    flight, fetch = SingleFlight(), Fetch()
    tasks = [ashared(flight, fetch) for _ in range(30)]
    await asyncio.sleep(0.05)
    fetch.go.set()
    assert set(await asyncio.gather(*tasks)) == {"answer 1"}
    assert await ashared(flight, fetch) == "answer 2"


async def test_other_keys_do_not_wait() -> None:
    flight, slow, fast = SingleFlight(), Fetch(), Fetch()
    waiting = ashared(flight, slow)
    fast.go.set()
    assert await ashared(flight, fast, "other") == "answer 1"
    assert not waiting.done()
    slow.go.set()
    await waiting


async def test_a_failure_is_shared_and_not_kept() -> None:
    flight, fetch = SingleFlight(), Fetch(ValueError("no"))
    tasks = [ashared(flight, fetch) for _ in range(5)]
    await asyncio.sleep(0.02)
    fetch.go.set()
    assert [str(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == ["no"] * 5
    assert fetch.times == 1
    fetch.failure = None
    assert await ashared(flight, fetch) == "answer 2"


def test_a_failure_is_shared_among_threads() -> None:
    flight, fetch = SingleFlight(), Fetch(ValueError("no"))
    with ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(shared, flight, fetch) for _ in range(5)]
        time.sleep(0.1)
        fetch.go.set()
        for answer in answers:
            with pytest.raises(ValueError, match="no"):
                answer.result()
    assert fetch.times == 1


@pytest.mark.promise("single-flight")
async def test_when_the_one_who_fetches_is_cancelled_another_goes_on() -> None:
    flight, fetch = SingleFlight(), Fetch()
    leader, *followers = [ashared(flight, fetch) for _ in range(4)]
    await asyncio.sleep(0.02)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    await asyncio.sleep(0.02)
    fetch.go.set()
    assert set(await asyncio.gather(*followers)) == {"answer 2"}
    assert fetch.times == 2


@pytest.mark.promise("single-flight")
async def test_when_one_who_waits_is_cancelled_the_others_are_not() -> None:
    flight, fetch = SingleFlight(), Fetch()
    leader, cancelled, other = [ashared(flight, fetch) for _ in range(3)]
    await asyncio.sleep(0.02)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    fetch.go.set()
    assert await leader == await other == "answer 1"


def test_an_interrupted_thread_leaves_no_flight_behind() -> None:
    flight, fetch = SingleFlight(), Fetch(KeyboardInterrupt())
    fetch.go.set()
    with pytest.raises(KeyboardInterrupt):
        shared(flight, fetch)
    fetch.failure = None
    assert shared(flight, fetch) == "answer 2"


@pytest.mark.promise("single-flight")
async def test_a_thread_of_the_loop_does_not_wait_for_its_own_loop() -> None:
    flight, fetch, other_fetch = SingleFlight(timeout=2.0), Fetch(), Fetch()
    waiting = ashared(flight, fetch)
    await asyncio.sleep(0.02)
    other_fetch.go.set()
    started = time.monotonic()
    assert shared(flight, other_fetch) == "answer 1"  # blocks the loop on which the other flies
    assert time.monotonic() - started < 1.0
    fetch.go.set()
    assert await waiting == "answer 1"


def test_waiting_for_another_is_bounded_in_threads() -> None:
    flight, fetch = SingleFlight(timeout=0.2), Fetch()
    leader = Thread(target=shared, args=(flight, fetch))
    leader.start()
    time.sleep(0.05)
    with pytest.raises(TimeoutError):
        shared(flight, fetch)
    fetch.go.set()
    leader.join()


async def test_waiting_for_another_is_bounded_on_a_loop() -> None:
    flight, fetch = SingleFlight(timeout=0.2), Fetch()
    leader, follower = ashared(flight, fetch), ashared(flight, fetch)
    with pytest.raises(TimeoutError):
        await follower
    fetch.go.set()
    assert await leader == "answer 1"


def test_coroutines_of_two_loops_share_one_flight() -> None:
    flight, fetch, together = SingleFlight(), Fetch(), Barrier(2)

    async def share() -> Any:
        together.wait(5)
        return await flight.share.async_("k", fetch.suspending)

    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(asyncio.run, share()) for _ in range(2)]
        time.sleep(0.1)
        fetch.go.set()
        assert {answer.result() for answer in answers} == {"answer 1"}


def test_a_loop_that_ends_while_it_waits_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    flight, fetch, flying = SingleFlight(), Fetch(), Event()

    async def lead() -> Any:
        task = ashared(flight, fetch)
        await asyncio.sleep(0.02)
        flying.set()
        return await task

    async def leave() -> None:
        ashared(flight, fetch)
        await asyncio.sleep(0.05)

    with ThreadPoolExecutor(1) as threads:
        led = threads.submit(asyncio.run, lead())
        assert flying.wait(5)
        asyncio.run(leave())
        fetch.go.set()
        assert led.result() == "answer 1"
    assert not caplog.records
