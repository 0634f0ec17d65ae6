"""Ctrl-C at any line of what threads share: the next user gets through."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from agentguard.concurrency import drive as driving
from agentguard.concurrency.fork import ProcessLock, around_fork
from agentguard.concurrency.places import Places
from agentguard.concurrency.running import Owner
from agentguard.concurrency.single_flight import SingleFlight
from agentguard.credentials.aws.revocation import Revocations
from agentguard.jose.key_source import KeySource, Refresh
from agentguard.model.credential import DeferredSecret
from agentguard.outbound.breakers import Breakers, Cause
from agentguard.outbound.client import Outbound
from agentguard.policies.authzen import AuthZen
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing.samples import sample_request
from tests.doubles.interrupts import broken_by_interrupts, within

FAR = 1e12
URL = "https://pdp.example"


def drive(awaitable: Any) -> Any:
    return driving.drive(awaitable)


class Locked:
    """State behind a lock, as the rooms of the package have it."""

    def __init__(self) -> None:
        self.lock, self.values = ProcessLock(), dict[str, int]()

    def use(self) -> None:
        with self.lock:
            self.values["x"] = 1


def use_breakers(breakers: Breakers) -> None:
    breakers.seconds_open("alice")
    breakers.fail("alice", Cause.PARTY)
    breakers.succeed("alice")


def use_place(places: Places) -> None:
    owner = Owner()
    assert places.acquire(owner, 1)
    places.release(owner)


async def fetch() -> int:
    return 1


def share(flight: SingleFlight) -> None:
    assert drive(flight.share.sync("key", fetch)) == 1


def ashare(flight: SingleFlight) -> None:
    asyncio.run(flight.share.async_("key", fetch))  # type: ignore[arg-type]  # it is a coroutine


def pdp(request: httpx.Request) -> httpx.Response:
    if "well-known" in request.url.path:
        metadata = {"policy_decision_point": URL, "access_evaluation_endpoint": f"{URL}/evaluation"}
        return httpx.Response(200, json=metadata)
    return httpx.Response(200, json={"decision": True})


def authzen() -> AuthZen:
    return AuthZen(URL, version="1", timeout=0.5, transport=httpx.MockTransport(pdp))


def decide(policy: AuthZen) -> None:
    assert policy.decide(sample_request()).effect == "permit"


def ask(outbound: Outbound) -> None:
    drive(outbound.ask.sync("GET", "/", party="alice"))


def outbound() -> Outbound:
    return Outbound("service", URL, transport=httpx.MockTransport(lambda _: httpx.Response(200)))


class Keys:
    """Keys of an issuer that are read anew at each use."""

    def __init__(self) -> None:
        self._now = 0.0
        self._source = KeySource(
            f"{URL}/jwks",
            URL,
            refresh=Refresh(age=10, pause=1, grace=30, timeout=0.5),
            transport=httpx.MockTransport(lambda _: httpx.Response(200, json={"keys": []})),
            clock=lambda: self._now,
        )

    def load(self) -> None:
        self._now += 20
        assert drive(self._source.load.sync()) == {"keys": []}


class Sessions:
    """Sessions of AWS that are revoked one after the other."""

    def __init__(self) -> None:
        self._names, self._documents = count(), list[str]()
        self._revocations = Revocations(
            self._ask,
            longest=3600,
            skew=60.0,
            patience=0.5,
            clock=lambda: 1e6,
            entropy=lambda size: b"x" * size,
        )

    def _ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        if operation == "put_role_policy":
            self._documents.append(parameters["PolicyDocument"])
        return {}

    def revoke(self) -> None:
        name = f"session-{next(self._names)}"
        self._revocations.deny("role", name)
        assert name in self._documents[-1]


CONCURRENCY = ("/agentguard/concurrency/",)
SHARED: dict[str, tuple[Callable[[], Any], Callable[[Any], object], tuple[str, ...]]] = {
    "ProcessLock": (Locked, Locked.use, (*CONCURRENCY, __file__)),
    "Breakers": (lambda: Breakers("s", 5, 10), use_breakers, ("/agentguard/",)),
    "Places": (lambda: Places(1), use_place, CONCURRENCY),
    "SingleFlight": (lambda: SingleFlight(timeout=1), share, CONCURRENCY),
    "SingleFlight, async": (lambda: SingleFlight(timeout=1), ashare, CONCURRENCY),
    "DeferredSecret": (lambda: DeferredSecret(lambda: "made"), DeferredSecret.reveal, ("/agentguard/",)),
    "a PDP": (
        authzen,
        decide,
        ("/agentguard/concurrency/", "/agentguard/policies/", "/agentguard/outbound/"),
    ),
    "Outbound": (outbound, ask, ("/agentguard/",)),
    "KeySource": (Keys, Keys.load, (*CONCURRENCY, "/agentguard/jose/key_source")),
    "AWS sessions": (Sessions, Sessions.revoke, (*CONCURRENCY, "/agentguard/credentials/aws/")),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what Ctrl-C has ended
@pytest.mark.exhaustive
@pytest.mark.promise("interrupt-locks-nobody-out")
@pytest.mark.parametrize("name", SHARED)
def test_an_interrupt_at_any_line_keeps_nobody_else_waiting(name: str) -> None:
    make, operation, parts = SHARED[name]

    def use_twice(thing: Any) -> None:
        operation(thing)
        operation(thing)

    assert broken_by_interrupts(make, operation, use_twice, parts) == []


class Forking:
    """A store that a process uses which forks, and how its children fared."""

    def __init__(self, path: Path) -> None:
        self.store, self.statuses = SqliteStore(path, busy_timeout=0.2), list[int]()
        self.store.remember("before", FAR)

    def fork(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, of each fork beside threads
            pid = os.fork()
        if pid == 0:
            sys.settrace(None)
            signal.alarm(5)
            os._exit(0 if within(4, lambda: self.store.remember("child", FAR)) is None else 1)
        self.statuses.append(os.waitpid(pid, 0)[1])

    def use(self) -> None:
        assert self.statuses == [0], "the child used the store too"
        assert self.store.remember("after", FAR)
        self.store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python ignores it there
@pytest.mark.process
@pytest.mark.promise("interrupt-locks-nobody-out")
def test_an_interrupt_at_any_line_of_the_hooks_of_a_fork_stops_neither_process(tmp_path: Path) -> None:
    paths = (tmp_path / f"{number}.db" for number in count())
    parts = ("/agentguard/concurrency/fork",)
    assert broken_by_interrupts(lambda: Forking(next(paths)), Forking.fork, Forking.use, parts) == []


@pytest.mark.promise("interrupt-locks-nobody-out")
def test_a_fork_that_was_ended_before_it_said_so_keeps_nobody_waiting(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")

    def end_within_a_fork() -> None:
        store._db.gate._close()  # and `_open` is not called

    end_within_a_fork()
    assert within(2, lambda: store.remember("key", FAR)) is None
    store.close()


class Hook:
    """An object with something to do before each fork, or in each child."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        around_fork(before=self.run)

    def run(self) -> None:
        self._function()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.process
@pytest.mark.promise("fork-works")
def test_a_hook_that_fails_keeps_no_other_hook_from_its_work(tmp_path: Path) -> None:
    called, failures = list[str](), list[int]()

    def fail() -> None:
        if not failures:
            failures.append(1)
            raise ValueError

    hooks = [Hook(lambda: called.append("first")), Hook(fail), Hook(lambda: called.append("last"))]
    Forking(tmp_path / "state.db").fork()
    assert called == ["first", "last"]
    assert failures
    assert hooks


@pytest.mark.process
@pytest.mark.promise("fork-works")
def test_a_handler_that_uses_the_store_while_its_thread_begins_a_fork_does_not_wait_for_it(
    tmp_path: Path,
) -> None:
    """The handler runs within a hook: it is done before the fork."""
    forking = Forking(tmp_path / "state.db")
    answers = list[bool]()
    hook = Hook(lambda: answers.append(forking.store.remember("handler", FAR)))
    assert within(5, forking.fork) is None
    assert answers == [True]
    assert hook
    forking.use()


def waiting_thread(flight: SingleFlight) -> tuple[Thread, list[object]]:
    answers = list[object]()
    thread = Thread(target=lambda: answers.append(drive(flight.share.sync("key", fetch))), daemon=True)
    thread.start()
    return thread, answers


@pytest.mark.promise("single-flight")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_waits_for_a_fetcher_that_was_interrupted_fetches(error: type[BaseException]) -> None:
    flight = SingleFlight(timeout=5)
    waiting = list[tuple[Thread, list[object]]]()

    async def interrupted() -> int:
        waiting.extend(waiting_thread(flight) for _ in range(3))
        time.sleep(0.1)  # noqa: ASYNC251  it is driven by a thread
        raise error

    with pytest.raises(error):
        drive(flight.share.sync("key", interrupted))
    for thread, answers in waiting:
        thread.join(2)
        assert answers == [1]


@pytest.mark.promise("single-flight")
def test_a_fetch_of_a_closed_event_loop_is_waited_for_by_nobody() -> None:
    flight, kept = SingleFlight(timeout=0.2), list[object]()

    async def never() -> int:
        await asyncio.Event().wait()
        return 2

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    kept.append(loop.create_task(flight.share.async_("key", never)))  # type: ignore[arg-type]  # it is a coroutine
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert asyncio.run(flight.share.async_("key", fetch)) == 1  # type: ignore[arg-type]  # the same


@pytest.mark.promise("single-flight")
def test_a_signals_handler_that_needs_what_its_thread_fetches_fetches_it_itself() -> None:
    flight = SingleFlight(timeout=5)

    async def interrupted() -> int:
        began = time.monotonic()
        assert drive(flight.share.sync("key", fetch)) == 1
        assert time.monotonic() - began < 1
        return 2

    assert drive(flight.share.sync("key", interrupted)) == 2


@pytest.mark.promise("interrupt-locks-nobody-out")
@pytest.mark.process
def test_real_signals_at_random_moments_keep_no_other_thread_waiting() -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", SIGNALS], capture_output=True, text=True, timeout=60, check=False
    )
    assert outcome.stdout.strip() == "nobody waits", outcome.stdout + outcome.stderr


SIGNALS = """
import random, signal, threading, time
from agentguard.concurrency.drive import drive
from agentguard.concurrency.fork import ProcessLock
from agentguard.concurrency.single_flight import SingleFlight

signal.signal(signal.SIGALRM, signal.default_int_handler)
random.seed(1)
lock, flight = ProcessLock(), SingleFlight(timeout=0.2)

async def fetch():
    return 1

def use():
    with lock:
        pass
    drive(flight.share.sync("key", fetch))

end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-6, 100e-6))
        while True:
            use()
    except KeyboardInterrupt:
        pass
    done = []
    thread = threading.Thread(target=lambda: (use(), done.append(1)), daemon=True)
    thread.start()
    thread.join(2)
    assert done
print("nobody waits")
"""
