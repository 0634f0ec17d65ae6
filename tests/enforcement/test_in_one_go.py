"""What an event loop has done in a guard's own thread: two hand-overs for a call, and none of them lost."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard.concurrency.drive import lift
from agentguard.concurrency.worker import Worker, blocks
from agentguard.enforcement.call import Invocation, Permit
from agentguard.errors import DenialCode, Denied
from agentguard.model import AccessRequest, Credential, Decision, Grant, TaskStatus, ToolPath
from agentguard.ports import BrokerTraits
from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore
from tests.doubles.flow import ARGUMENTS, LOOKUP, PERMIT, REFUND, Log, Mint, World, carry_out


class BlockingLog(Log):
    """A log whose one method blocks."""

    inline = False


class LocalMint(Mint):
    """A broker whose handle is the grant's id, as the embedded issuer's is."""

    def issue(self, grant: Grant) -> Credential:
        self.issued.append(grant)
        return Credential("s3cret", id=grant.id, expires_at=1e12)


class SlowStore(SqliteStore):
    """A SQLite store in which one method of one call takes a while."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.slow, self.seconds = "", 0.0
        self.entered, self.late = threading.Event(), threading.Event()
        self.step = 0.0  # what each operation takes

    def task(self, task_id: str) -> Any:
        time.sleep(self.step)
        return super().task(task_id)

    def begin_call(self, *args: Any, **kwargs: Any) -> None:
        self._wait("before begin_call")
        time.sleep(self.step)
        super().begin_call(*args, **kwargs)
        self._wait("begin_call")

    def end_call(self, *args: Any, **kwargs: Any) -> None:
        super().end_call(*args, **kwargs)
        self._wait("end_call")

    def _wait(self, moment: str) -> None:
        if self.slow == moment:
            self.slow = ""
            self.entered.set()
            time.sleep(self.seconds)
            self.late.set()


PATIENT = pytest.mark.parametrize("timeout", [30.0])
"""For a test about a call that is cancelled, and not late, however busy the machine is."""


@pytest.fixture
def timeout() -> float:
    return 0.15


@pytest.fixture
def world(tmp_path: Path, timeout: float) -> Iterator[World]:
    store = SlowStore(tmp_path / "store.db")
    mint = LocalMint()
    brokers = {(None, path): mint for path in ToolPath}
    world = World(store=store, audit=BlockingLog(), brokers=brokers, clock=time.time, timeout=timeout)
    world.mint = mint
    world.now = time.time()
    world.log = world.flow.ports.audit  # type: ignore[assignment]  # the one given above
    world.begin()
    yield world
    world.flow.close()
    store.close()


async def call(world: World, body: Any = None, spec: Any = REFUND, call_id: str = "c1") -> Any:
    invocation = Invocation(tool=spec.name, spec=spec, arguments=ARGUMENTS, named_task="t1", call_id=call_id)
    return await carry_out(world.flow.async_, invocation, body or lift(world.body))


async def test_a_call_on_an_event_loop_is_handed_to_a_thread_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    returns, call_soon = list[Any](), loop.call_soon_threadsafe

    def counted(function: Any, *args: Any) -> Any:
        returns.append(function)
        return call_soon(function, *args)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    assert await call(world) == "done"
    assert len(returns) == 2
    assert [record["event"] for record in world.log.written] == ["decision", "outcome"]
    assert world.store.live() == ()


@pytest.mark.parametrize("moment", ["before begin_call", "begin_call"])
async def test_a_call_that_a_slow_store_begins_too_late_is_denied_and_ended(
    world: World, moment: str
) -> None:
    world.store.slow, world.store.seconds = moment, 0.4
    started = time.monotonic()
    with pytest.raises(Denied) as caught:
        await call(world)
    assert caught.value.code is DenialCode.STORE_ERROR
    assert time.monotonic() - started < 0.39
    assert await asyncio.to_thread(world.store.late.wait, 5)
    await asyncio.to_thread(world.flow.worker.close)  # all that was handed over is done
    assert (world.ran, world.mint.issued, world.store.live()) == ([], [], ())
    assert world.flow.calls.running == {}
    assert "permit" not in [record.get("effect") for record in world.log.written]
    assert "deny" in [record.get("effect") for record in world.log.written]
    assert await call(world, call_id="c2") == "done"  # with a thread of a new worker


@pytest.mark.parametrize(("policy", "step"), [(0.25, 0.0), (0.0, 0.1)])
async def test_a_call_that_is_late_though_no_single_answer_is_does_not_begin_or_is_ended(
    world: World, policy: float, step: float
) -> None:
    def answer(_request: AccessRequest) -> Decision:
        time.sleep(policy)
        return PERMIT

    world.policy.answer, world.store.step = answer, step
    with pytest.raises(Denied) as caught:
        await call(world)
    assert caught.value.code is DenialCode.STORE_ERROR
    world.policy.answer, world.store.step = PERMIT, 0.0
    await asyncio.to_thread(world.flow.worker.close)
    assert (world.ran, world.mint.issued, world.store.live()) == ([], [], ())
    assert world.flow.calls.running == {}
    assert "permit" not in [record.get("effect") for record in world.log.written]
    assert world.store.task("t1").calls == (0 if policy else 1)


@PATIENT
async def test_a_call_that_is_cancelled_while_it_is_judged_leaves_nothing(world: World) -> None:
    entered = threading.Event()

    def answer(_request: AccessRequest) -> Decision:
        entered.set()
        time.sleep(0.05)
        return PERMIT

    world.policy.answer = answer
    running = asyncio.create_task(call(world))
    assert await asyncio.to_thread(entered.wait, 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.to_thread(world.flow.worker.close)
    assert (world.store.live(), world.flow.calls.running) == ((), {})


async def test_a_store_that_notes_the_end_too_late_revokes_all_the_same(world: World) -> None:
    world.store.slow, world.store.seconds = "end_call", 0.4
    assert await call(world) == "done"
    assert await asyncio.to_thread(world.store.late.wait, 5)
    await asyncio.to_thread(world.flow.worker.close)
    assert world.store.live() == ()
    assert [record["event"] for record in world.log.written] == ["decision", "outcome"]


async def test_what_was_read_is_withheld_if_the_end_is_noted_too_late(world: World) -> None:
    world.store.slow, world.store.seconds = "end_call", 0.4
    with pytest.raises(Denied) as caught:
        await call(world, spec=LOOKUP)
    assert caught.value.code is DenialCode.WITHHELD
    await asyncio.to_thread(world.flow.worker.close)


@PATIENT
@pytest.mark.parametrize("moment", ["before begin_call", "begin_call", "end_call"])
async def test_a_call_that_is_cancelled_in_the_thread_leaves_nothing(world: World, moment: str) -> None:
    world.store.slow, world.store.seconds = moment, 0.05
    running = asyncio.create_task(call(world))
    assert await asyncio.to_thread(world.store.entered.wait, 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.to_thread(world.flow.worker.close)
    assert (world.store.live(), world.flow.calls.running) == ((), {})
    assert world.log.written[-1].get("outcome", "cancelled") in {"cancelled", "done"}


class NotingMint(LocalMint):
    """A broker whose credentials the store alone revokes, with the end of their call."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__()
        self.traits = BrokerTraits(notes_in=store)

    def note(self, handle: str, expires_at: float) -> tuple[str, float]:
        return f"revoked:{handle}", expires_at

    def revoke(self, handle: str, expires_at: float) -> None:
        raise AssertionError("the note alone revokes")


@pytest.fixture
def noting(tmp_path: Path, timeout: float) -> Iterator[World]:
    store = SlowStore(tmp_path / "noting.db")
    mint = NotingMint(store)
    brokers = {(None, path): mint for path in ToolPath}
    world = World(store=store, audit=BlockingLog(), brokers=brokers, clock=time.time, timeout=timeout)
    world.mint, world.now = mint, time.time()
    world.log = world.flow.ports.audit  # type: ignore[assignment]  # the one given above
    world.begin()
    yield world
    store.close()


async def test_the_end_of_a_call_that_only_the_thread_notes_needs_no_task(noting: World) -> None:
    loop, tasks = asyncio.get_running_loop(), list[Any]()

    def counted(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> Any:
        tasks.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(counted)
    try:
        assert await call(noting) == "done"
    finally:
        loop.set_task_factory(None)
    assert tasks == []
    assert noting.store.known(f"revoked:{noting.mint.issued[0].id}")
    assert [record["event"] for record in noting.log.written] == ["decision", "outcome"]


@PATIENT
@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_call_that_is_cancelled_while_its_end_is_noted_is_ended(
    noting: World, cancellations: int
) -> None:
    noting.store.slow, noting.store.seconds = "end_call", 0.1
    running = asyncio.create_task(call(noting))
    assert await asyncio.to_thread(noting.store.entered.wait, 30)
    for _ in range(cancellations):
        running.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert noting.store.late.is_set(), "the caller did not wait for the end"
    assert noting.store.known(f"revoked:{noting.mint.issued[0].id}")
    assert (noting.store.live(), noting.flow.calls.running) == ((), {})
    assert noting.log.written[-1]["revoked"] is True


async def test_a_cancellation_is_not_lost_if_the_end_is_noted_too_late(
    noting: World, caplog: pytest.LogCaptureFixture
) -> None:
    noting.store.slow, noting.store.seconds = "end_call", 0.4
    running = asyncio.create_task(call(noting))
    assert await asyncio.to_thread(noting.store.entered.wait, 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "is not yet on record" in caplog.text
    await asyncio.to_thread(noting.flow.worker.close)
    assert noting.store.live() == ()
    assert [record["event"] for record in noting.log.written] == ["decision", "outcome"]


async def test_the_thread_sees_the_context_of_its_caller(world: World) -> None:
    permits = list[Permit]()

    async def body(permit: Permit) -> str:
        permits.append(permit)
        return "done"

    await asyncio.gather(*(call(world, body, call_id=f"c{number}") for number in range(8)))
    assert len({permit.call.id for permit in permits}) == 8
    world.end("t1", TaskStatus.COMPLETED, "done")
    assert world.store.live() == ()


async def test_a_worker_runs_in_order_and_a_failure_is_its_callers_alone() -> None:
    worker, order = Worker("test", 1.0), list[int]()

    async def step(number: int) -> int:
        order.append(number)
        if number == 2:
            raise ValueError(number)
        return number

    answers = await asyncio.gather(*(worker.run(step(n)) for n in range(5)), return_exceptions=True)
    assert order == [0, 1, 2, 3, 4]
    assert [answer if isinstance(answer, int) else str(answer) for answer in answers] == [0, 1, "2", 3, 4]
    worker.close()
    assert await worker.run(step(7)) == 7  # a new thread
    worker.close()


async def test_a_worker_keeps_nothing_of_what_it_has_run() -> None:
    class Content:
        pass

    async def step(content: Content, *, fails: bool) -> Content:
        if fails:
            raise ValueError("it failed")
        return content

    worker, content, failing = Worker("test", 1.0), Content(), Content()
    gone = weakref.ref(content), weakref.ref(failing)
    gc.disable()  # a cycle would keep it until the next collection
    try:
        await worker.run(step(content, fails=False))
        with pytest.raises(ValueError, match="it failed"):
            await worker.run(step(failing, fails=True))
        del content, failing
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()
    worker.close()


async def test_a_worker_that_nobody_has_any_more_ends_its_thread() -> None:
    async def thread() -> threading.Thread:
        return threading.current_thread()

    worker = Worker("test", 1.0)
    running = await worker.run(thread())
    del worker
    gc.collect()
    await asyncio.to_thread(running.join, 5)
    assert not running.is_alive()


AT_EXIT = """
import asyncio, sys, time
from agentguard.concurrency.worker import Worker

async def step():
    time.sleep(0.3)
    print("finished", flush=True)

worker = Worker("test", 0.05)
try:
    asyncio.run(worker.run(step()))
except TimeoutError:
    print("late", flush=True)
"""


@pytest.mark.process
def test_what_was_handed_to_a_worker_is_finished_before_the_interpreter_ends() -> None:
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=30)
    assert (done.stdout.split(), done.stderr) == (["late", "finished"], "")


@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # other threads of the test run do not matter here
def test_a_forked_child_has_a_thread_of_its_own() -> None:
    worker = Worker("test", 5.0)

    async def name() -> str:
        return threading.current_thread().name

    assert asyncio.run(worker.run(name())) == "test_0"
    child = os.fork()
    if child == 0:
        os._exit(0 if asyncio.run(worker.run(name())) == "test_0" else 1)
    assert os.waitpid(child, 0)[1] == 0
    worker.close()


def test_a_port_may_be_asked_in_a_thread_if_it_says_so_or_has_nothing_else(tmp_path: Path) -> None:
    class Native:
        def append(self) -> None: ...
        async def aappend(self) -> None: ...

    class Plain:
        def append(self) -> None: ...

    store = SqliteStore(tmp_path / "s.db")
    assert [blocks(port, "append") for port in (Native(), Plain(), Log())] == [False, True, True]
    assert (blocks(store, "task"), blocks(MemoryStore(), "task")) == (True, True)
    store.close()
