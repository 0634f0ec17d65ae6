"""Two sweeps of one outbox at the same time, in one process or in two: each record is written once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentguard.concurrency.drive import drive
from agentguard.enforcement.process import owner
from agentguard.errors import RevocationUnknown, StoreError
from agentguard.model import LiveCredential, Outcome, ToolPath
from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore
from tests.doubles.flow import Log, Mint, World

SECONDS = 10.0  # until a test gives up


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sweep(world: World, mode: str = "sync") -> int:
    if mode == "sync":
        return drive(world.flow.sync.outbox.sweep())
    return asyncio.run(world.flow.async_.outbox.sweep())


class Meeting(Mint):
    """An issuer that answers no revocation until both sweeps ask for it."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.both, self.error = threading.Barrier(2), error

    def revoke(self, handle: str, expires_at: float) -> None:
        self.both.wait(SECONDS)
        if self.error is not None:
            raise self.error
        super().revoke(handle, expires_at)


def two_processes(issuer: Mint, stores: list[Any]) -> tuple[World, World]:
    """Return the worlds of two processes with one log, and a call that a third one has left behind."""
    log = Log()
    worlds = [
        World(brokers={(None, path): issuer for path in ToolPath}, store=store, audit=log) for store in stores
    ]
    for world in worlds:
        world.log = log
    worlds[0].begin()
    left = LiveCredential(
        call_id="left",
        task_id="t1",
        broker="*/write",
        handle="h-left",
        expires_at=worlds[0].now + 60,
        owner=owner().replace("@", "@0"),
    )
    worlds[0].store.track(left)
    return worlds[0], worlds[1]


def events(world: World) -> list[str]:
    return [record["event"] for record in world.log.written if record["event"] != "task"]


@pytest.mark.promise("revocation-not-claimed")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("error", "event"), [(None, "revocation"), (RevocationUnknown("unknown here"), "unrevoked")]
)
def test_what_two_processes_sweep_at_once_is_recorded_once(
    tmp_path: Path, mode: str, kind: str, error: Exception | None, event: str
) -> None:
    def clock() -> float:
        return 1000.0

    stores: list[Any] = [MemoryStore(clock=clock)] * 2
    if kind == "sqlite":
        stores = [SqliteStore(tmp_path / "state.db", clock=clock) for _ in range(2)]
    issuer = Meeting(error)
    one, other = two_processes(issuer, stores)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda world: sweep(world, mode), (one, other)))
    assert events(one) == [event]
    for store in stores[: 2 * (kind == "sqlite")]:
        store.close()


@pytest.mark.promise("revocation-not-claimed")
def test_a_store_that_cannot_say_whether_it_is_recorded_keeps_no_record_from_being_written(mode: str) -> None:
    class Silent(MemoryStore):
        def remember(self, key: str, until: float) -> bool:
            raise StoreError("locked")

    world, _ = two_processes(Mint(), [Silent(clock=lambda: 1000.0)] * 2)
    assert sweep(world, mode) == 0
    assert events(world) == ["revocation"]


class Interrupted(MemoryStore):
    """A store in which Ctrl-C comes *times* when an end is noted, which then takes its time if it *waits*."""

    def __init__(self, times: int, *, waits: bool = False) -> None:
        super().__init__(clock=lambda: 1000.0)
        self.times, self.waits = times, waits
        self.asked, self.goes_on = threading.Semaphore(0), threading.Event()

    def end_call(self, call_id: str, outcome: Outcome, **options: Any) -> None:
        if self.times:
            self.times -= 1
            raise KeyboardInterrupt
        if self.waits:
            self.asked.release()
            self.goes_on.wait(SECONDS)
        super().end_call(call_id, outcome, **options)


@pytest.mark.promise("revocation-not-claimed")
@pytest.mark.parametrize("ways", [("sync", "sync"), ("sync", "async"), ("async", "sync")])
def test_a_call_that_an_interrupt_has_left_is_ended_by_one_of_two_sweeps(ways: tuple[str, str]) -> None:
    store = Interrupted(1, waits=True)
    world = World(store=store)
    world.begin()
    with pytest.raises(KeyboardInterrupt):
        world.call("sync")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sweep, world, ways[0])
        assert store.asked.acquire(timeout=SECONDS), "it ends the call"
        second = pool.submit(sweep, world, ways[1])
        assert not store.asked.acquire(timeout=0.5), "the second one does not"
        store.goes_on.set()
        first.result()
        second.result()
    assert sweep(world) == 0
    outcomes = [record["call"] for record in world.log.written if record["event"] == "outcome"]
    assert len(outcomes) == 1
    assert world.flow.calls.running == {}


def test_a_sweep_that_an_interrupt_has_ended_keeps_no_later_one_from_ending_the_call() -> None:
    world = World(store=Interrupted(2))
    world.begin()
    kept = list[BaseException]()
    for operate in (lambda: world.call("sync"), lambda: sweep(world)):  # the tracebacks are kept
        with pytest.raises(KeyboardInterrupt) as caught:
            operate()
        kept.append(caught.value)
    assert sweep(world) == 0
    assert [record["outcome"] for record in world.log.written if record["event"] == "outcome"] == ["done"]
