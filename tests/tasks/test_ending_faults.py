"""An end is an end, whatever fails at it: the store, a receiver of signals, an issuer, the process itself."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from agentguard.concurrency.drive import drive
from agentguard.model import Credential, Grant, LiveCredential, TaskStatus, ToolPath
from agentguard.stores.memory import MemoryStore
from tests.doubles.flow import Mint, World

STALL = 0.4


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Faulty(MemoryStore):
    """A store that cannot list the credentials of some tasks, or read any task, for some attempts."""

    def __init__(self, world_clock: float = 1000.0) -> None:
        super().__init__(clock=lambda: world_clock)
        self.unlisted, self.unread = set[str](), 0

    def live(self, task_id: str | None = None) -> tuple[LiveCredential, ...]:
        if task_id in self.unlisted:
            raise OSError("disk I/O error")
        return super().live(task_id)

    def task(self, task_id: str) -> Any:
        if self.unread:
            self.unread -= 1
            raise OSError("disk I/O error")
        return super().task(task_id)


class Receiver:
    """A receiver of signals."""

    inline = True

    def __init__(self, *, fails: BaseException | None = None) -> None:
        self.fails = fails

    def notice(self, subject: str, cause: str, at: float) -> str:
        if self.fails is not None:
            raise self.fails
        return f"{subject}:"

    def revoke(self, handle: str, expires_at: float) -> None:
        pass


class Waiting(Mint):
    """A broker that takes its time to revoke, and notes when it is first asked to."""

    inline = False

    def __init__(self, seconds: float = 0.0, raises: BaseException | None = None) -> None:
        super().__init__()
        self.seconds, self.raises, self.asked_at = seconds, raises, list[float]()

    def revoke(self, handle: str, expires_at: float) -> None:
        self.asked_at.append(time.monotonic())
        time.sleep(self.seconds)
        if self.raises is not None:
            raise self.raises
        self.revoked.append(handle)

    async def arevoke(self, handle: str, expires_at: float) -> None:
        self.asked_at.append(time.monotonic())
        await asyncio.sleep(self.seconds)
        if self.raises is not None:
            raise self.raises
        self.revoked.append(handle)

    async def aissue(self, grant: Grant) -> Credential:
        return self.issue(grant)


def live(handle: str, broker: str = "*/write", task_id: str = "t1") -> LiveCredential:
    return LiveCredential(
        call_id=f"c-{handle}", task_id=task_id, broker=broker, handle=handle, expires_at=1e12, owner=""
    )


def world_of(read: Mint | None = None, write: Mint | None = None, **changes: Any) -> tuple[World, list[int]]:
    """Return a world with a task, and what notes each time that its outbox's thread is woken."""
    if read is not None and write is not None:
        brokers = {ToolPath.READ: read, ToolPath.WRITE: write, ToolPath.ESCALATION: Mint()}
        changes["brokers"] = {(None, path): broker for path, broker in brokers.items()}
    world, woken = World(**changes), list[int]()
    world.flow.on_unrevoked = lambda: woken.append(1)
    world.begin()
    return world, woken


def end(world: World, mode: str, *task_ids: str) -> None:
    ending = world.endings.sync if mode == "sync" else world.endings.async_
    work = ending._end(list(task_ids or ("t1",)), TaskStatus.REVOKED, "signal")
    drive(work) if mode == "sync" else asyncio.run(work)


def ends(world: World) -> dict[str, Any]:
    return {record["task"]: record["unrevoked"] for record in world.log.written if record["event"] == "task"}


# --- the store


@pytest.mark.promise("end-whatever-fails")
def test_a_store_that_fails_after_the_end_is_marked_leaves_the_end_on_record_and_wakes_the_outbox(
    mode: str,
) -> None:
    world, woken = world_of(store=Faulty())
    world.begin(id="t2")
    world.store.track(live("h1"))
    world.store.track(live("h2", task_id="t2"))
    world.store.unlisted.add("t1")
    with pytest.raises(OSError, match="disk"):
        end(world, mode, "t1", "t2")
    assert world.mint.revoked == ["h2"], "the other task's are revoked"
    assert woken == [1], "the outbox revokes what could not be listed"
    assert ends(world) == {"t1": None, "t2": 0}, "how many live on is unknown of one, and known of the other"
    assert drive(world.flow.sync.outbox.sweep()) == 0
    assert sorted(world.mint.revoked) == ["h1", "h2"]


@pytest.mark.promise("end-whatever-fails")
def test_a_task_that_cannot_be_read_ends_and_is_recorded(mode: str) -> None:
    world, _ = world_of(store=Faulty(), signals={"partner": Receiver()})
    world.store.unread = 2
    end(world, mode)
    assert world.store.active("alice") == ()
    assert ends(world) == {"t1": 0}


# --- the receivers


@pytest.mark.promise("end-whatever-fails")
@pytest.mark.parametrize("failure", [ValueError("a subject without a form"), asyncio.CancelledError()])
def test_a_receiver_for_which_no_notice_can_be_made_keeps_no_task_alive(
    mode: str, failure: BaseException
) -> None:
    world, woken = world_of(signals={"partner": Receiver(fails=failure), "other": Receiver()})
    world.store.track(live("h1"))
    end(world, mode)
    assert world.store.active("alice") == ()
    assert world.mint.revoked == ["h1"]
    assert [owed.broker for owed in world.store.live()] == ["signals/other"], "the other receiver is told"
    assert woken


@pytest.mark.promise("end-whatever-fails")
def test_credentials_that_cannot_be_listed_keep_no_task_alive_and_no_receiver_untold(mode: str) -> None:
    world, _ = world_of(signals={"partner": Receiver()}, store=Faulty())
    world.store.unlisted.add("t1")
    with pytest.raises(OSError, match="disk"):
        end(world, mode)
    assert world.store.active("alice") == ()
    (owed,) = world.store.live()
    assert (owed.broker, owed.expires_at) == ("signals/partner", 1600.0), "no credential outlives its task"


# --- the issuers

# an exit that is raised in an event loop ends the loop
CANCELLATION_OR_EXIT = pytest.mark.parametrize(
    ("mode", "error"),
    [("sync", asyncio.CancelledError), ("sync", SystemExit), ("async", asyncio.CancelledError)],
)


@pytest.mark.promise("end-is-immediate")
def test_many_credentials_at_an_issuer_that_stalls_delay_none_of_another_issuer(mode: str) -> None:
    slow, quick = Waiting(STALL), Waiting()
    world, _ = world_of(slow, quick)
    for number in range(20):
        world.store.track(live(f"s{number}", "*/read"))
    world.store.track(live("q"))
    begun = time.monotonic()
    end(world, mode)
    assert quick.asked_at[0] - begun < STALL / 2
    assert len(slow.revoked) == 20


@pytest.mark.promise("end-whatever-fails")
@CANCELLATION_OR_EXIT
def test_a_broker_that_raises_a_cancellation_or_an_exit_keeps_no_other_credential_alive(
    mode: str, error: type[BaseException]
) -> None:
    quick = Waiting(0.05)
    world, woken = world_of(Waiting(raises=error()), quick)
    world.store.track(live("bad", "*/read"))
    world.store.track(live("good"))
    if error is SystemExit:
        with pytest.raises(SystemExit):
            end(world, mode)
    else:
        end(world, mode)
    assert quick.revoked == ["good"]
    assert woken == [1]
    assert ends(world) == {"t1": None if error is SystemExit else 1}
    assert [credential.handle for credential in world.store.live()] == ["bad"]


@pytest.mark.promise("end-whatever-fails")
@CANCELLATION_OR_EXIT
def test_a_call_whose_broker_raises_one_at_its_end_runs_no_more_and_its_credential_is_swept(
    mode: str, error: type[BaseException]
) -> None:
    broker = Waiting(raises=error())
    world, woken = world_of(broker, broker)
    if error is SystemExit:
        with pytest.raises(SystemExit):
            world.call(mode)
    else:
        assert world.call(mode) == "done"
    assert not any(call.is_running() for call in world.flow.calls.running.values())
    assert woken
    broker.raises = None
    assert drive(world.flow.sync.outbox.sweep()) == 0
    assert world.flow.calls.running == {}
    assert broker.revoked[-1] == f"h-{broker.issued[0].id}"


# --- the process


@pytest.mark.promise("end-whatever-fails")
@pytest.mark.parametrize("threads", [0, 2])
def test_a_process_without_more_threads_revokes_all_the_same(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Waiting(0.02)
    world, _ = world_of(broker, Waiting())
    for number in range(6):
        world.store.track(live(f"h{number}", "*/read"))
    world.store.track(live("q"))
    start, remaining = threading.Thread.start, [threads]

    def limited(thread: threading.Thread) -> None:
        if not remaining[0]:
            raise RuntimeError("can't start new thread")
        remaining[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    end(world, "sync")
    assert world.store.live() == ()
    assert sorted(broker.revoked) == [f"h{number}" for number in range(6)], "each of them once"


@pytest.mark.promise("end-whatever-fails")
def test_an_outbox_that_got_no_thread_begins_one_when_it_is_woken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, _ = world_of()
    world.store.track(live("h1"))
    end_task, start = world.store.end_task, threading.Thread.start
    end_task("t1", TaskStatus.REVOKED)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    world.flow.outbox_thread.watch()
    monkeypatch.setattr(threading.Thread, "start", start)
    world.flow.outbox_thread.watch()
    until = time.monotonic() + 5
    while world.store.live() and time.monotonic() < until:
        time.sleep(0.01)
    assert world.mint.revoked == ["h1"]
    world.flow.close()
