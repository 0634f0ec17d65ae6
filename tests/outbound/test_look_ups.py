"""Many look-ups of one name at once are one, and too many of them say nothing of the service."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from agentguard.concurrency import abandonable
from agentguard.concurrency.deadline import within
from agentguard.concurrency.drive import drive
from agentguard.errors import IssueError
from agentguard.outbound.client import Limits, Outbound
from tests.doubles.loopback import response, serving

SLOW = 0.3


class Resolver:
    """The system's look-up of names, counted and slowed down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._numbers, self.seconds = count(1), 0.0
        self.times, self._real = 0, socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: str, *args: Any, **options: Any) -> Any:
        if host == "localhost":
            self.times = next(self._numbers)
            time.sleep(self.seconds)
        return self._real("127.0.0.1", *args, **options)


def answer(connection: Any) -> None:
    connection.request()
    connection.send(response("200 OK", b"{}"))


def burst(path: str, outbound: Outbound, number: int) -> list[str]:
    """Ask many times at once for one user, and return what failed."""
    if path == "sync":
        with ThreadPoolExecutor(number) as threads:
            futures = [threads.submit(_ask, outbound, "mallory") for _ in range(number)]
            return [text for future in futures if (text := future.result())]

    async def ask_all() -> list[str]:
        asks = (outbound.ask.async_("GET", "/", party="mallory") for _ in range(number))
        results = await asyncio.gather(*asks, return_exceptions=True)
        return [str(result) for result in results if isinstance(result, Exception)]

    return asyncio.run(ask_all())


def _ask(outbound: Outbound, party: str) -> str:
    try:
        asking: Any = outbound.ask.sync("GET", "/", party=party)
        drive(asking)
    except IssueError as error:
        return str(error)
    return ""


@pytest.mark.promise("arguments-stop-nobody")
@pytest.mark.parametrize("path", ["sync", "async"])
def test_a_burst_of_one_user_looks_a_name_up_once_and_fails_for_nobody(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(monkeypatch)
    with serving(answer) as server:
        outbound = Outbound("issuer", server.url.replace("127.0.0.1", "localhost"))
        resolver.seconds = SLOW
        assert burst(path, outbound, 40) == []
        assert resolver.times < 10, "who comes while it is looked up waits for that"


@pytest.mark.promise("arguments-stop-nobody")
@pytest.mark.parametrize("path", ["sync", "async"])
def test_look_ups_without_a_thread_open_no_circuit(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise abandonable.NoThread("too many calls of it run at once")

    async def anone(*_: object, **__: object) -> None:
        none()

    with serving(answer) as server:
        outbound = Outbound("issuer", server.url.replace("127.0.0.1", "localhost"))
        with monkeypatch.context() as patch:
            patch.setattr(abandonable.AbandonableThreads, "run", none)
            patch.setattr(abandonable.AbandonableThreads, "arun", anone)
            for _ in range(8):
                assert "no connection" in burst(path, outbound, 1)[0]
        assert _ask(outbound, "bob") == "", "the circuit is closed"


@pytest.mark.promise("arguments-stop-nobody")
def test_who_has_more_time_than_the_one_who_looks_up_looks_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver(monkeypatch)
    with serving(answer) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        outbound = Outbound("issuer", url, limits=Limits(timeout=3.0))
        resolver.seconds = SLOW

        def short() -> str:
            with within(SLOW / 3):
                return _ask(outbound, "mallory")

        with ThreadPoolExecutor(2) as threads:
            late = threads.submit(short)
            time.sleep(SLOW / 10)
            assert threads.submit(_ask, outbound, "bob").result() == ""
            assert late.result(), "it had too little time"
