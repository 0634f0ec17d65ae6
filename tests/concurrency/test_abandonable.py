"""What hangs in one adapter takes no thread that another adapter needs, and is tried again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from agentguard.approvals.callback import CallbackApprover
from agentguard.concurrency import abandonable
from agentguard.concurrency.abandonable import AbandonableThreads, NoThread
from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.drive import abandonable_pair, operation_pair
from agentguard.concurrency.stream import in_one_context
from agentguard.outbound.client import Outbound
from agentguard.resource import Introspection
from agentguard.testing.samples import sample_request
from tests.conftest import Mode
from tests.doubles.interrupts import broken_by_interrupts
from tests.doubles.loopback import Connection, response, serving

user: ContextVar[str] = ContextVar("user", default="nobody")


class Hanging:
    """A port without an async form, which hangs until it is released, for one user or for all."""

    def __init__(self, of: str = "") -> None:
        self.of, self.release, self.calls = of, threading.Event(), 0

    def decide(self, request: Any) -> str:
        self.calls += 1
        if not self.of or request.identity.subject == self.of:
            self.release.wait(20)
        return user.get()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    port = Hanging()
    yield port
    port.release.set()


def asked_by(subject: str) -> Any:
    request = sample_request()
    return replace(request, identity=replace(request.identity, subject=subject))


async def all_time_out(calls: list[Awaitable[Any]]) -> None:
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {TimeoutError}


@pytest.mark.promise("hung-adapters-stop-nobody")
async def test_a_port_that_hangs_stops_no_other_port(hanging: Hanging) -> None:
    hung = operation_pair(hanging, "decide", timeout=0.2, shielded=True).async_
    healthy = operation_pair(Hanging("user:eve"), "decide", timeout=0.2).async_
    await all_time_out([hung(asked_by("user:ada")) for _ in range(40)])
    assert await healthy(asked_by("user:ada")) == "nobody"


@pytest.mark.promise("hung-adapters-stop-nobody")
async def test_calls_of_one_user_that_hang_in_a_port_stop_no_other_user() -> None:
    port = Hanging("user:eve")
    decide = operation_pair(port, "decide", timeout=0.2).async_
    for _ in range(2):
        await all_time_out([decide(asked_by("user:eve")) for _ in range(64)])
    with pytest.raises(NoThread):
        await decide(asked_by("user:eve"))
    assert await decide(asked_by("user:ada")) == "nobody"
    port.release.set()


async def test_more_calls_than_there_are_places_wait_for_one() -> None:
    class Brief:
        def decide(self, number: int) -> int:
            time.sleep(0.001)
            return number

    decide = operation_pair(Brief(), "decide", timeout=5.0).async_
    assert await asyncio.gather(*(decide(number) for number in range(200))) == list(range(200))


async def test_the_context_and_the_deadline_reach_the_thread_of_a_port() -> None:
    class Asks:
        def decide(self) -> tuple[str, float]:
            return user.get(), seconds_left(60.0)

    user.set("ada")
    name, seconds = await operation_pair(Asks(), "decide", timeout=2.0).async_()
    assert name == "ada"
    assert 1.0 < seconds <= 2.0


@pytest.fixture
def full_executor(hanging: Hanging) -> Callable[[], None]:
    """Return a function that has the event loop's default executor hang."""

    def fill() -> None:
        loop, executor = asyncio.get_running_loop(), ThreadPoolExecutor(1)
        loop.set_default_executor(executor)
        executor.submit(hanging.release.wait, 20)

    return fill


async def ask_approver() -> object:
    pending: Any = SimpleNamespace(answered=lambda **answer: answer, question=dict)
    approver = CallbackApprover(lambda _request: True, approver="ada")
    return await approver.aapprove(pending, sample_request())


async def ask_server() -> object:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json={"active": True}))
    with httpx.Client(transport=transport) as client:
        return await Introspection("https://issuer.example/introspect", client).aclaims("token")


async def step_stream() -> object:
    def generate() -> Generator[int]:
        yield 1

    return [number async for number in in_one_context(generate())]


async def look_up() -> object:
    def answer(connection: Connection) -> None:
        connection.request()
        connection.send(response("200 OK"))

    with serving(answer) as server:
        outbound = Outbound("issuer", server.url.replace("127.0.0.1", "localhost"))
        return (await outbound.ask.async_("GET", "/")).status


async def ask_port() -> object:
    return await operation_pair(Hanging("user:eve"), "decide").async_(asked_by("user:ada"))


@pytest.mark.promise("hung-adapters-stop-nobody")
@pytest.mark.parametrize("work", [ask_approver, ask_server, step_stream, look_up, ask_port])
def test_nothing_needs_the_default_executor_of_the_event_loop(
    work: Callable[[], Awaitable[object]], full_executor: Callable[[], None], hanging: Hanging
) -> None:
    async def main() -> object:
        full_executor()
        try:
            async with asyncio.timeout(3):
                return await work()
        finally:
            hanging.release.set()

    assert asyncio.run(main())


class Source:
    """A source of a secret whose reads hang for a while, and those that hang never return."""

    def __init__(self) -> None:
        self.hangs, self.reads, self.release = True, 0, threading.Event()

    def read(self) -> str:
        self.reads += 1
        if self.hangs:
            self.release.wait(20)
        return "secret"


@pytest.mark.promise("hung-adapters-stop-nobody")
async def test_a_source_whose_reads_hang_is_tried_ever_more_rarely_and_comes_back(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abandonable, "PAUSE", 0.1)
    source = Source()
    pair = abandonable_pair(source, "read", AbandonableThreads("vault", probes=True), 0.01)
    read = pair.async_ if mode.asynchronous else pair.sync
    for _ in range(200):
        with pytest.raises((TimeoutError, NoThread)):
            await read()
    assert 2 <= source.reads < 6, "each call leaves a thread behind"
    source.hangs = False
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            assert await read() == "secret"
            break
        except NoThread:
            await asyncio.sleep(0.02)
    assert [await read() for _ in range(3)] == ["secret"] * 3, "the old threads still hang"
    source.release.set()


async def test_a_read_whose_caller_is_cancelled_begins_no_pause() -> None:
    source = Source()
    read = abandonable_pair(source, "read", AbandonableThreads("vault", probes=True), 5.0).async_
    for _ in range(3):
        task = asyncio.ensure_future(read())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    source.hangs = False
    assert await read() == "secret"
    source.release.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what Ctrl-C has ended
@pytest.mark.promise("interrupt-locks-nobody-out")
def test_an_interrupt_at_any_line_of_a_call_takes_no_place_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandonable, "START", 0.02)
    monkeypatch.setattr(abandonable, "RUNNING", 1)

    def require_a_place(threads: AbandonableThreads) -> None:
        time.sleep(0.05)
        assert threads.run(1.0, lambda: 1, party="alice") == 1

    broken = broken_by_interrupts(
        lambda: AbandonableThreads("x"),
        lambda threads: threads.run(0.01, lambda: 1, party="alice"),
        require_a_place,
        ("/agentguard/concurrency/abandonable",),
    )
    assert broken == []
