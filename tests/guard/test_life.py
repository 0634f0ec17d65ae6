"""How a guard ends: nothing begins any more, what runs ends or is ended, and nothing is left alive."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool, tool

import agentguard
from agentguard import Denied, Guard, ToolPath
from agentguard.errors import DenialCode, IssueError
from agentguard.model import Credential, Grant
from agentguard.ports import BrokerTraits
from agentguard.testing import RecordingBroker
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages

ALL: Any = {"tools": "*"}


class Blocking:
    """A tool that says when it runs, and ends when it is let go, sync and async."""

    def __init__(self) -> None:
        self.runs, self.may_end = threading.Event(), threading.Event()
        self.lease: Any = None
        self.inside: Callable[[], Any] = lambda: None

        def look(order: str) -> str:
            """Look."""
            self.begin()
            assert self.may_end.wait(10)
            return "the result"

        async def alook(order: str) -> str:
            self.begin()
            while not self.may_end.is_set():  # noqa: ASYNC110  another thread sets it
                await asyncio.sleep(0.005)
            return "the result"

        self.tool: BaseTool = classified(StructuredTool.from_function(look, alook))

    def begin(self) -> None:
        self.lease = agentguard.credential()
        self.runs.set()
        self.inside()


class Calls:
    """Calls a tool within a task, in a thread, whatever the mode: the test closes the guard meanwhile."""

    def __init__(self, guard: Guard, mode: Mode) -> None:
        self.guard, self.mode = guard, mode
        self._threads = ThreadPoolExecutor(4)

    def start(self, runnable: Any, argument: Any) -> Any:
        def call() -> Any:
            with self.guard.task("t", subject="alice", mandate=ALL).active():
                return asyncio.run(self.mode.invoke(runnable, argument))

        return self._threads.submit(call)


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    blocking = Blocking()
    yield blocking
    blocking.may_end.set()


async def close(guard: Guard, mode: Mode, timeout: float = 5.0) -> None:  # noqa: ASYNC109  of the calls
    await mode.call(guard, "close", timeout)


def code_of(future: Any) -> DenialCode:
    with pytest.raises(Denied) as caught:
        future.result(10)
    return caught.value.code


ARGUMENT = {"order": "4711"}


@pytest.mark.promise("closed-guard-is-dead")
async def test_a_closed_guard_permits_no_call_and_says_so(kit: Kit, mode: Mode) -> None:
    blocking = Blocking()
    blocking.may_end.set()
    guarded = kit.wrap(blocking.tool)
    async with kit.guard.task("t", subject="alice", mandate=ALL):
        await mode.invoke(guarded, ARGUMENT)
        await close(kit.guard, mode)
        await close(kit.guard, mode)
        for runnable in (guarded, kit.guard.wrap(blocking.tool)[0]):
            with pytest.raises(Denied) as caught:
                await mode.invoke(runnable, ARGUMENT)
            assert caught.value.code is DenialCode.GUARD_CLOSED
        agent = create_agent(
            scripted(tool_call("look", order="1")), [blocking.tool], middleware=[kit.guard.middleware()]
        )
        [message] = tool_messages(await mode.invoke(agent, GO))
        assert "closing" in message.content
    assert len(kit.broker.issued) == 1
    assert kit.broker.live == ()


@pytest.mark.promise("closed-guard-is-dead")
async def test_observing_does_not_let_a_closed_guard_permit(kit: Kit, mode: Mode, blocking: Blocking) -> None:
    guard = kit.another(observe=True)
    guarded = guard.wrap(blocking.tool)[0]
    async with guard.task("t", subject="alice", mandate=ALL):
        guard.close()
        with pytest.raises(Denied):
            await mode.invoke(guarded, ARGUMENT)
    assert not blocking.runs.is_set()


async def test_a_call_that_runs_may_end_while_the_guard_closes(
    kit: Kit, mode: Mode, blocking: Blocking
) -> None:
    call = Calls(kit.guard, mode).start(kit.wrap(blocking.tool), ARGUMENT)
    assert blocking.runs.wait(5)
    threading.Timer(0.1, blocking.may_end.set).start()
    await close(kit.guard, mode)
    assert call.result(5) == "the result"
    assert (kit.outcomes(), kit.broker.live) == (["done"], ())


@pytest.mark.promise("closing-leaves-nothing-alive")
async def test_a_call_that_does_not_end_in_time_is_ended(kit: Kit, mode: Mode, blocking: Blocking) -> None:
    call = Calls(kit.guard, mode).start(kit.wrap(blocking.tool), ARGUMENT)
    assert blocking.runs.wait(5)
    secret = blocking.lease.reveal()
    await close(kit.guard, mode, 0.05)
    assert secret
    assert kit.broker.live == ()
    with pytest.raises(agentguard.CredentialUnavailable):
        blocking.lease.reveal()
    assert (kit.store.live(), kit.outcomes()) == ((), ["cancelled"])
    blocking.may_end.set()
    assert code_of(call) is DenialCode.WITHHELD
    assert kit.outcomes() == ["cancelled"]
    assert kit.decisions() == ["permit"]
    assert not kit.guard.enforcement.calls.in_progress


@pytest.mark.promise("closing-leaves-nothing-alive")
async def test_a_call_by_the_middleware_that_does_not_end_in_time_is_ended(
    kit: Kit, mode: Mode, blocking: Blocking
) -> None:
    agent = create_agent(
        scripted(tool_call("look", order="1")), [blocking.tool], middleware=[kit.guard.middleware()]
    )
    call = Calls(kit.guard, mode).start(agent, GO)
    assert blocking.runs.wait(5)
    await close(kit.guard, mode, 0.05)
    assert kit.broker.live == ()
    blocking.may_end.set()
    [message] = tool_messages(call.result(5))
    assert "withheld" in message.content
    assert "the result" not in message.content


@pytest.mark.promise("closing-leaves-nothing-alive")
async def test_a_tool_may_close_its_guard_and_loses_its_credential_at_once(
    kit: Kit, mode: Mode, blocking: Blocking
) -> None:
    began = time.monotonic()
    blocking.inside = lambda: kit.guard.close(30)
    blocking.may_end.set()
    call = Calls(kit.guard, mode).start(kit.wrap(blocking.tool), ARGUMENT)
    assert code_of(call) is DenialCode.WITHHELD
    assert kit.broker.live == ()
    assert time.monotonic() - began < 10


async def test_an_async_tool_may_close_its_guard_too(kit: Kit) -> None:
    @tool
    async def look(order: str) -> str:
        """Look."""
        await kit.guard.aclose(30)
        return "the result"

    guarded = kit.wrap(look)
    async with kit.guard.task("t", subject="alice", mandate=ALL):
        async with asyncio.timeout(10):
            with pytest.raises(Denied):
                await guarded.ainvoke(ARGUMENT)
    assert kit.broker.live == ()


@pytest.mark.promise("closing-leaves-nothing-alive")
def test_a_signals_handler_may_close_the_guard_while_a_tool_runs(kit: Kit) -> None:
    @tool
    def look(order: str) -> str:
        """Look."""
        os.kill(os.getpid(), signal.SIGUSR1)
        return "the result"

    guarded = kit.wrap(look)
    before = signal.signal(signal.SIGUSR1, lambda *_: kit.guard.close(30))
    try:
        with kit.guard.task("t", subject="alice", mandate=ALL), pytest.raises(Denied) as caught:
            guarded.invoke(ARGUMENT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught.value.code is DenialCode.WITHHELD
    assert (kit.broker.live, kit.outcomes()) == ((), ["cancelled"])


@pytest.mark.promise("closing-leaves-nothing-alive")
async def test_close_on_the_event_loop_of_a_call_ends_that_call_at_once(kit: Kit, blocking: Blocking) -> None:
    guarded = kit.wrap(blocking.tool)

    async def call() -> Any:
        async with kit.guard.task("t", subject="alice", mandate=ALL):
            return await guarded.ainvoke(ARGUMENT)

    running = asyncio.create_task(call())
    while not blocking.runs.is_set():  # noqa: ASYNC110  another thread sets it
        await asyncio.sleep(0.005)
    began = time.monotonic()
    kit.guard.close(30)
    assert (kit.broker.live, time.monotonic() - began < 10) == ((), True)
    blocking.may_end.set()
    with pytest.raises(Denied):
        await running


class Slow(RecordingBroker):
    """A broker that mints late."""

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may_mint = threading.Event(), threading.Event()
        self.alive = set[str]()

    def issue(self, grant: Grant) -> Credential:
        self.asked.set()
        assert self.may_mint.wait(5)
        self.alive.add(grant.id)
        return super().issue(grant)

    def revoke(self, handle: str, expires_at: float) -> None:
        self.alive.discard(handle)  # what is not minted yet cannot be revoked
        super().revoke(handle, expires_at)


@pytest.mark.promise("closing-leaves-nothing-alive")
async def test_what_is_minted_while_the_guard_closes_is_revoked(kit: Kit, mode: Mode) -> None:
    slow, blocking = Slow(), Blocking()
    guard = kit.another(brokers={(None, path): slow for path in ToolPath})
    call = Calls(guard, mode).start(guard.wrap(blocking.tool)[0], ARGUMENT)
    assert slow.asked.wait(5)
    await close(guard, mode, 0.05)
    slow.may_mint.set()
    assert code_of(call) in {DenialCode.WITHHELD, DenialCode.GUARD_CLOSED}
    assert (len(slow.issued), slow.alive) == (1, set())
    assert not blocking.runs.is_set()


class Lasting(RecordingBroker):
    """A broker whose credentials serve all calls of a task."""

    traits = BrokerTraits(reuse=frozenset(ToolPath), binds_arguments=False)


@pytest.mark.promise("closing-leaves-nothing-alive")
async def test_what_was_kept_for_a_task_is_revoked_and_the_task_goes_on_elsewhere(
    kit: Kit, mode: Mode, blocking: Blocking
) -> None:
    lasting = Lasting()
    blocking.may_end.set()
    brokers: Any = {(None, path): lasting for path in ToolPath}
    guard, other = kit.another(brokers=brokers), kit.another(brokers=brokers)
    task = guard.task("t", subject="alice", mandate=ALL).begin()
    with task.active():
        await mode.invoke(guard.wrap(blocking.tool)[0], ARGUMENT)
        await mode.invoke(guard.wrap(blocking.tool)[0], ARGUMENT)
        assert len(lasting.live) == 1
        await mode.invoke(other.wrap(blocking.tool)[0], ARGUMENT)
        assert len(lasting.live) == 2
        await close(guard, mode)
        assert [one.call_id for one in kit.store.live()] == [lasting.issued[1].id]
        assert len(lasting.live) == 1  # of the other guard, which goes on
        await mode.invoke(other.wrap(blocking.tool)[0], ARGUMENT)
    other.find(task.id).complete()
    assert lasting.live == ()


@pytest.mark.promise("closing-leaves-nothing-alive")
async def test_an_issuer_that_fails_is_asked_until_the_deadline(
    kit: Kit, mode: Mode, blocking: Blocking
) -> None:
    call = Calls(kit.guard, mode).start(kit.wrap(blocking.tool), ARGUMENT)
    assert blocking.runs.wait(5)
    kit.broker.revoke_error = IssueError("down")

    def recover() -> None:
        kit.broker.revoke_error = None

    threading.Timer(0.6, recover).start()
    # as if the call waited for who closes the guard: it has no time then, and the issuer has all of it
    kit.guard._closer.drain._waiting.update(kit.guard.enforcement.calls.in_progress)
    await close(kit.guard, mode, 5)
    assert (kit.broker.live, kit.store.live()) == ((), ())
    blocking.may_end.set()
    call.exception(5)


async def test_what_cannot_be_revoked_stays_on_record(
    kit: Kit, mode: Mode, blocking: Blocking, caplog: pytest.LogCaptureFixture
) -> None:
    call = Calls(kit.guard, mode).start(kit.wrap(blocking.tool), ARGUMENT)
    assert blocking.runs.wait(5)
    kit.broker.revoke_error = IssueError("down")
    await close(kit.guard, mode, 0.05)
    assert len(kit.store.live()) == 1
    assert "1 credentials of it are not revoked yet" in caplog.text
    blocking.may_end.set()
    assert code_of(call) is DenialCode.WITHHELD


class OnLoop:
    """A broker of event loops alone."""

    paths = frozenset(ToolPath)

    def __init__(self) -> None:
        self.issued: list[str] = []
        self.revoked: list[str] = []

    async def aissue(self, grant: Grant) -> Credential:
        await asyncio.sleep(0)
        self.issued.append(grant.id)
        return Credential("s3cret", id=grant.id, expires_at=time.time() + 60, headers=lambda *_: {})

    async def arevoke(self, handle: str, expires_at: float) -> None:
        await asyncio.sleep(0)
        self.revoked.append(handle)


@pytest.mark.promise("closing-leaves-nothing-alive")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_broker_of_event_loops_is_asked_on_one(
    kit: Kit, blocking: Blocking, asynchronous: bool
) -> None:
    broker: Any = OnLoop()
    guard = kit.another(brokers={(None, path): broker for path in ToolPath})
    call = Calls(guard, Mode("async")).start(guard.wrap(blocking.tool)[0], ARGUMENT)
    await asyncio.to_thread(blocking.runs.wait, 5)
    await close(guard, Mode("async" if asynchronous else "sync"), 0.05)
    assert broker.issued == broker.revoked != []
    blocking.may_end.set()
    call.exception(5)


def test_many_threads_and_loops_close_a_guard_once(kit: Kit, blocking: Blocking) -> None:
    closed: list[int] = []

    class Store(type(kit.store)):  # type: ignore[misc]  # one that counts
        def close(self) -> None:
            closed.append(1)

    guard = kit.another(store=Store())
    call = Calls(guard, Mode("sync")).start(guard.wrap(blocking.tool)[0], ARGUMENT)
    assert blocking.runs.wait(5)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(guard.close, 30) for _ in range(3)]
        waiting += [threads.submit(lambda: asyncio.run(guard.aclose(30))) for _ in range(3)]
        time.sleep(0.05)
        assert not any(one.done() for one in waiting)
        waiting += [threads.submit(guard.close, 0.0)]  # the earliest deadline counts
        for one in waiting:
            one.result(10)
    assert (closed, time.monotonic() - began < 10) == ([1], True)
    blocking.may_end.set()
    assert code_of(call) is DenialCode.WITHHELD


async def test_a_cancelled_aclose_goes_on_to_its_end(kit: Kit, blocking: Blocking) -> None:
    call = Calls(kit.guard, Mode("sync")).start(kit.wrap(blocking.tool), ARGUMENT)
    assert await asyncio.to_thread(blocking.runs.wait, 5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(kit.guard.aclose(0.2), 0.05)
    assert (kit.broker.live, kit.guard.enforcement.calls.closed) == ((), True)
    blocking.may_end.set()
    call.exception(5)


def test_an_adapter_that_fails_to_close_keeps_no_other_from_it(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []

    class Store(type(kit.store)):  # type: ignore[misc]  # one that fails
        def close(self) -> None:
            raise OSError("no")

    class Audit(type(kit.audit)):  # type: ignore[misc]  # one that says so
        def close(self) -> None:
            closed.append("audit")

    kit.another(store=Store(), audit=Audit()).close()
    assert closed == ["audit"]
    assert "Store was not closed" in caplog.text


async def test_with_and_async_with_and_a_lifespan_close_the_guard(kit: Kit) -> None:
    with kit.another() as first:
        assert not first.enforcement.calls.closing
    async with kit.another() as second:
        assert not second.enforcement.calls.closing
    third = kit.another()
    async with third.lifespan(object()):
        assert not third.enforcement.calls.closing
    assert all(guard.enforcement.calls.closed for guard in (first, second, third))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.promise("fork-holds-nothing")
def test_a_child_that_closes_its_guard_ends_no_call_of_its_parent(kit: Kit, blocking: Blocking) -> None:
    call = Calls(kit.guard, Mode("sync")).start(kit.wrap(blocking.tool), ARGUMENT)
    assert blocking.runs.wait(5)
    pid = os.fork()
    if pid == 0:
        try:
            kit.guard.close(0)
            os._exit(0 if not kit.broker.revoked and kit.guard.enforcement.calls.closed else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    blocking.may_end.set()
    assert call.result(5) == "the result"
