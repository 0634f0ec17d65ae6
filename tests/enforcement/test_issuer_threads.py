"""The threads of the outbox: an issuer that stalls delays no other one, and one that fails is not flooded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from agentguard.concurrency.drive import drive
from agentguard.concurrency.together import AT_ONCE
from agentguard.enforcement import backlog, outbox_thread
from agentguard.enforcement import drain as drain_module
from agentguard.enforcement.drain import Drain
from agentguard.enforcement.issuer_thread import IssuerThread
from agentguard.enforcement.process import owner
from agentguard.errors import StoreError
from agentguard.model import LiveCredential, TaskState, TaskStatus, ToolPath
from agentguard.stores.memory import MemoryStore
from tests.doubles.flow import Mint, World
from tests.doubles.interrupts import interrupted_at

SECONDS = 10.0  # until a test gives up


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Stalled(Mint):
    """An issuer that answers no revocation before it is told to, and then with a failure."""

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = list[str](), threading.Event()

    def revoke(self, handle: str, expires_at: float) -> None:
        self.asked.append(handle)
        self.answers.wait(SECONDS)
        raise ConnectionError

    async def arevoke(self, handle: str, expires_at: float) -> None:
        self.asked.append(handle)
        while not self.answers.is_set():  # noqa: ASYNC110  it is set in another thread
            await asyncio.sleep(0.005)
        raise ConnectionError

    async def aissue(self, grant: Any) -> Any:
        return self.issue(grant)


class Down(Mint):
    """An issuer that fails at once, so often as it has failures left, and counts how often it was asked."""

    def __init__(self, failures: float) -> None:
        super().__init__()
        self.asked, self.failures = 0, failures

    def revoke(self, handle: str, expires_at: float) -> None:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        super().revoke(handle, expires_at)


class Store(MemoryStore):
    """A store that counts how often a task is read, and may end no task and forget nothing."""

    locked, unforgetting, read = False, False, 0

    def task(self, task_id: str) -> TaskState | None:
        self.read += 1
        return super().task(task_id)

    def end_task(
        self, task_id: str, status: TaskStatus, owed: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        if self.locked:
            raise StoreError("database is locked")
        return super().end_task(task_id, status, owed)

    def forget(self, call_id: str) -> None:
        if self.unforgetting:
            raise StoreError("disk full")
        super().forget(call_id)


def live(id: str, path: str = "write", task_id: str = "t1", expires_at: float = 1e12) -> LiveCredential:
    return LiveCredential(
        call_id=id, task_id=task_id, broker=f"*/{path}", handle=id, expires_at=expires_at, owner=owner()
    )


def world_of(read: Mint, write: Mint) -> World:
    brokers = {(None, ToolPath.READ): read, (None, ToolPath.WRITE): write}
    world = World(brokers=brokers, store=Store(clock=lambda: 1000.0))
    world.flow.on_unrevoked = world.flow.outbox_thread.watch
    world.begin()
    return world


def leave(world: World, *credentials: LiveCredential) -> None:
    """Leave credentials of calls whose revocation has failed."""
    for credential in credentials:
        world.store.track(credential)
        world.flow.calls.failed.add(credential.call_id)


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.002)


@pytest.fixture
def stalled() -> Iterator[Stalled]:
    issuer = Stalled()
    yield issuer
    issuer.answers.set()


# --- ends that could not be stored


def fail_to_end(world: World, mode: str, *task_ids: str) -> None:
    world.store.locked = True
    ending = world.endings.sync if mode == "sync" else world.endings.async_
    for task_id in task_ids:
        work = ending.end(task_id, TaskStatus.REVOKED, "left the company")
        with pytest.raises(StoreError):
            drive(work) if mode == "sync" else asyncio.run(work)
    world.store.locked = False


@pytest.mark.promise("end-is-immediate", "end-is-tried-again")
def test_tasks_whose_ends_could_not_be_stored_are_over_while_their_issuer_still_stalls(
    mode: str, stalled: Stalled
) -> None:
    world = world_of(stalled, Mint())
    world.flow.on_unrevoked = lambda: None
    ids = [f"u{number}" for number in range(4)]
    for task_id in ids:
        world.begin(id=task_id)
        world.store.track(live(f"c-{task_id}", "read", task_id))
    fail_to_end(world, mode, *ids)
    world.flow.outbox_thread.watch()
    wait_until(lambda: world.store.active("alice") == ("t1",))
    wait_until(lambda: len([record for record in world.log.written if record["event"] == "task"]) == 4)
    wait_until(lambda: len(stalled.asked) == 4)
    ends = [record for record in world.log.written if record["event"] == "task"]
    assert {(end["task"], end["cause"], end["unrevoked"]) for end in ends} == {
        (task_id, "left the company", 1) for task_id in ids
    }
    stalled.answers.set()
    world.flow.close()


@pytest.mark.promise("end-is-immediate")
@pytest.mark.parametrize("way", ["recover", "close"])
def test_all_of_them_are_over_before_the_first_issuer_is_asked(way: str, mode: str) -> None:
    active = list[tuple[str, ...]]()

    class Looks(Mint):
        def revoke(self, handle: str, expires_at: float) -> None:
            active.append(world.store.active("alice"))

    world = world_of(Looks(), Looks())
    world.flow.on_unrevoked = lambda: None
    for task_id in ("u1", "u2", "u3"):
        world.begin(id=task_id)
        world.store.track(live(f"c-{task_id}", "read", task_id))
    fail_to_end(world, mode, "u1", "u2", "u3")
    flow = world.flow.sync if mode == "sync" else world.flow.async_
    drain = Drain(world.flow)
    drain.begin(0.0, blocks=False)
    work: Any = flow.outbox.sweep() if way == "recover" else drain.finish(flow, asyncio.sleep)
    drive(work) if mode == "sync" else asyncio.run(work)
    assert active == [("t1",)] * 3


@pytest.mark.promise("end-is-immediate", "interrupted-call-ends")
def test_what_is_to_be_ended_is_ended_without_a_question_to_an_issuer(stalled: Stalled) -> None:
    world = world_of(stalled, stalled)
    world.flow.on_unrevoked = lambda: None
    error, _ = interrupted_at(1, lambda: world.call("sync"), ("/agentguard/enforcement/call_ending.py",))
    assert isinstance(error, KeyboardInterrupt)
    world.begin(id="u1")
    fail_to_end(world, "sync", "u1")
    orphans = drive(world.flow.sync.outbox.collect())
    assert stalled.asked == []
    assert world.store.active("alice") == ("t1",)
    assert len({credential.call_id for credential in orphans.credentials}) == 1
    assert [one["outcome"] for one in world.log.written if one["event"] == "outcome"] == ["done"]


# --- one issuer and another


@pytest.mark.promise("end-is-immediate", "revocation-retried")
def test_what_has_failed_at_one_issuer_is_tried_again_while_another_one_stalls(stalled: Stalled) -> None:
    other = Down(failures=1)
    world = world_of(stalled, other)
    leave(world, *(live(f"s{number}", "read") for number in range(40)))
    world.flow.outbox_thread.watch()
    wait_until(lambda: len(stalled.asked) == AT_ONCE)
    leave(world, live("new"))
    world.flow.outbox_thread.watch()
    wait_until(lambda: other.revoked == ["new"])
    assert len(stalled.asked) == AT_ONCE
    stalled.answers.set()
    world.flow.close()


@pytest.mark.promise("end-is-immediate", "revocation-retried")
def test_a_guard_that_closes_tries_one_issuer_again_while_another_one_stalls(
    mode: str, stalled: Stalled
) -> None:
    other = Down(failures=2)
    world = world_of(stalled, other)
    leave(world, live("s1", "read"), live("s2", "read"), live("b"))
    drain, flow = Drain(world.flow), world.flow.sync if mode == "sync" else world.flow.async_
    drain.begin(SECONDS, blocks=False)

    async def pause(seconds: float) -> None:
        time.sleep(seconds) if mode == "sync" else await asyncio.sleep(seconds)  # noqa: ASYNC251  it is driven

    work = drain.finish(flow, pause)
    closing = threading.Thread(target=drive if mode == "sync" else asyncio.run, args=(work,))
    closing.start()
    wait_until(lambda: other.revoked == ["b"])
    assert sorted(stalled.asked) == ["s1", "s2"]
    drain.begin(0.0, blocks=False)
    stalled.answers.set()
    closing.join(SECONDS)
    assert not closing.is_alive()


def test_a_guard_that_closes_asks_for_each_credential_once_at_least_and_comes_to_an_end(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "AGAIN", 0.0)  # by the deadline, the first is due again before the last
    issuer = Down(failures=1000)
    world = world_of(Mint(), issuer)
    leave(world, *(live(f"c{number}") for number in range(40)))
    world.flow.calls.closing = True
    drain, flow = Drain(world.flow), world.flow.sync if mode == "sync" else world.flow.async_
    drain.begin(0.0, blocks=False)
    work = drain._revoke(flow, lambda _one: True, asyncio.sleep)
    unrevoked = drive(work) if mode == "sync" else asyncio.run(work)
    assert len(unrevoked) == issuer.asked == 40


@pytest.mark.promise("revocation-retried")
def test_of_one_issuer_a_new_task_waits_for_no_older_one_that_has_many() -> None:
    waiting = backlog.Backlog()
    waiting.update([live(f"m{number}", task_id="mallory") for number in range(100)], 0.0)
    assert len(waiting.take()) == AT_ONCE
    waiting.update([live(f"m{number}", task_id="mallory") for number in range(100)] + [live("a")], 0.0)
    assert "a" in [credential.call_id for credential in waiting.take()]


@pytest.mark.promise("revocation-per-user")
def test_of_one_issuer_those_of_a_task_that_gets_no_answer_are_asked_for_with_no_others() -> None:
    stalled = [live(f"m{number}", task_id="mallory") for number in range(100)]
    others = [live(f"{task}{number}", task_id=task) for task in "abc" for number in range(100)]
    waiting, shared, asked = backlog.Backlog(lambda _attempts: 1000.0), 0, list[LiveCredential]()
    waiting.update([*stalled, *others], 0.0)
    while batch := waiting.take():
        shared += len({one.task_id == "mallory" for one in batch}) > 1
        waiting.settle(batch, [one for one in batch if one.task_id == "mallory"])
        asked += batch
    assert shared == 1, "the first one, when nobody knew"
    assert (len(asked), set(asked)) == (400, {*stalled, *others})
    waiting.update([*stalled, live("m-new", task_id="mallory"), live("a-new", task_id="a")], time.monotonic())
    assert waiting.take() == [live("a-new", task_id="a")]
    assert waiting.take() == [live("m-new", task_id="mallory")]


def test_an_issuer_that_closes_the_guard_while_it_is_asked_ends_no_thread_with_an_error() -> None:
    class Closing(Mint):
        def revoke(self, handle: str, expires_at: float) -> None:
            super().revoke(handle, expires_at)
            world.flow.outbox_thread.close()

    issuer = Closing()
    world = world_of(Mint(), issuer)
    leave(world, live("a"))
    world.flow.outbox_thread.watch()
    wait_until(lambda: not world.store.live())
    assert issuer.revoked
    wait_until(
        lambda: not any(thread.name.startswith("agentguard-outbox") for thread in threading.enumerate())
    )


@pytest.mark.promise("revocation-retried")
def test_what_is_due_is_not_ranked_anew_for_each_batch_of_very_many() -> None:
    waiting, begun = backlog.Backlog(), time.thread_time()
    left = {f"c{number}" for number in range(16_000)}
    waiting.update([live(name, task_id=f"t{len(name)}") for name in sorted(left)], 0.0)
    while waiting.seconds() == 0.0:
        batch = waiting.take()
        waiting.settle(batch, [])
        left -= {credential.call_id for credential in batch}
    assert (left, waiting.seconds()) == (set(), None)
    assert time.thread_time() - begun < 1.0  # it was 10 s and more


# --- pauses


@pytest.mark.promise("issuer-not-flooded")
def test_news_has_an_issuer_that_is_down_asked_for_what_is_new_alone() -> None:
    issuer = Down(failures=10_000)
    world = world_of(Mint(), issuer)
    for number in range(30):
        leave(world, live(f"c{number}"))
        world.flow.outbox_thread.watch()
        wait_until(lambda number=number: issuer.asked > number)  # type: ignore[misc]  # its default binds it
    assert issuer.asked < 5 * 30, "and not 30 * 31 / 2"
    world.flow.close()


@pytest.mark.promise("issuer-not-flooded")
def test_pauses_grow_up_to_a_minute() -> None:
    for attempts, least, most in ((1, 0.5, 1), (2, 1, 2), (5, 8, 16), (8, 30, 60), (10_000, 30, 60)):
        assert all(least <= backlog.growing_pause(attempts) <= most for _ in range(20))


def test_what_has_failed_is_due_after_its_pause_and_not_before_nor_with_news() -> None:
    waiting = backlog.Backlog(lambda attempts: 0.0 if attempts > 1 else 1000.0)
    waiting.update([live("a")], 0.0)
    asked = waiting.take()
    assert waiting.take() == [], "it is being asked for"
    waiting.settle(asked, asked)
    waiting.update([live("a"), live("b")], 0.0)
    assert waiting.take() == [live("b")]
    assert (waiting.seconds() or 0) > 900
    waiting.settle([live("b")], [live("b")])
    waiting.update([live("b")], 0.0)
    assert (waiting.ids(), waiting.take()) == ({"b"}, []), "a was revoked by somebody else"


@pytest.mark.promise("issuer-not-flooded")
def test_a_revoked_credential_that_the_store_cannot_forget_is_not_asked_for_without_a_pause() -> None:
    issuer = Down(failures=0)
    world = world_of(Mint(), issuer)
    world.store.unforgetting = True
    leave(world, live("a"))
    world.flow.outbox_thread.watch()
    wait_until(lambda: issuer.asked)
    time.sleep(0.1)
    assert issuer.asked == 1
    world.store.unforgetting = False
    wait_until(lambda: not world.store.live())
    wait_until(lambda: not world.flow.outbox_thread.runs)
    world.flow.close()


def test_of_what_is_known_to_be_orphaned_no_task_is_read_again() -> None:
    world = world_of(Mint(), Mint())
    world.begin(id="t2")
    for number in range(20):
        world.store.track(live(f"c{number}", task_id="t2"))
    world.store.end_task("t2", TaskStatus.REVOKED)
    world.store.read = 0
    outbox = world.flow.sync.outbox
    orphans = drive(outbox.collect()).credentials
    assert (len(orphans), world.store.read) == (20, 1), "each task is read once"
    assert drive(outbox.collect({one.call_id for one in orphans})).credentials == orphans
    assert world.store.read == 1


# --- threads


def test_an_issuer_without_a_thread_is_asked_in_the_thread_of_the_outbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer, start = Mint(), threading.Thread.start
    world = world_of(Mint(), issuer)
    leave(world, live("a"))

    def refuse(thread: threading.Thread) -> None:
        if "issuer" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    world.flow.outbox_thread.watch()
    wait_until(lambda: issuer.revoked == ["a"])
    world.flow.close()


@pytest.mark.promise("end-whatever-fails")
@pytest.mark.parametrize("failure", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exit_that_a_broker_raises_ends_no_thread_of_the_outbox(failure: type[BaseException]) -> None:
    class Exits(Mint):
        def revoke(self, handle: str, expires_at: float) -> None:
            if handle == "bad" and not self.revoked.count("bad"):
                self.revoked.append("bad")
                raise failure
            super().revoke(handle, expires_at)

    issuer = Exits()
    world = world_of(Mint(), issuer)
    leave(world, live("bad"), live("good"))
    world.flow.outbox_thread.watch()
    wait_until(lambda: sorted(issuer.revoked) == ["bad", "bad", "good"])
    wait_until(lambda: not world.store.live())
    world.flow.close()


def test_the_threads_end_when_nothing_is_left() -> None:
    issuer = Mint()
    world = world_of(Mint(), issuer)
    thread = world.flow.outbox_thread
    leave(world, live("a"))
    thread.watch()
    wait_until(lambda: issuer.revoked == ["a"])
    wait_until(lambda: not thread.runs and not thread._issuers["*/write"].runs)
    leave(world, live("b"))
    thread.watch()
    wait_until(lambda: issuer.revoked == ["a", "b"])
    world.flow.close()


def test_the_outbox_is_read_again_when_an_issuer_has_revoked_all_that_was_listed() -> None:
    issuer, idle = Down(failures=0), list[int]()
    world = world_of(Mint(), issuer)
    leave(world, live("a"))
    thread = IssuerThread(world.flow.sync.outbox, lambda: idle.append(issuer.asked))
    thread.update([live("a")], time.monotonic())
    wait_until(lambda: not thread.runs)
    assert idle == [1]
    thread.update([live("a")], 0.0)
    assert (thread.runs, issuer.asked) == (False, 1), "the list was read before it was revoked"


def test_a_closed_guard_waits_for_no_issuer_that_stalls(
    stalled: Stalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of(stalled, Mint())
    leave(world, live("s", "read"))
    world.flow.outbox_thread.watch()
    wait_until(lambda: stalled.asked)
    monkeypatch.setattr(outbox_thread.OutboxThread.close, "__defaults__", (0.05,))
    began = time.monotonic()
    world.flow.close()
    assert time.monotonic() - began < SECONDS / 2
    assert stalled.asked == ["s"]
