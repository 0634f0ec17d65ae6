"""A credential is dead before a result is looked at that may take long: first the secret dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.types import Command, Interrupt
from pydantic import BaseModel, computed_field

from agentguard import ToolPath
from agentguard.credentials import LocalIssuer
from agentguard.ports import BrokerTraits
from agentguard.stores.memory import MemoryStore
from agentguard.testing import RecordingBroker
from tests.conftest import GO, Kit, Mode, scripted, tool_call, tool_messages

alive: list[bool] = []
"""Whether a credential lived, each time when code of the application wrote a text."""
kit_of_now: list[Kit] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    alive.clear()


def look() -> str:
    alive.append(bool(kit_of_now[-1].broker.live))
    return "a text of its own"


class Written:
    """An object whose text takes as long as its class wishes, as that of a row which is loaded lazily."""

    def __str__(self) -> str:
        return look()

    __repr__ = __str__


class Text(str):
    def __str__(self) -> str:
        return look()


class Counted(list[int]):
    def __iter__(self) -> Any:
        look()
        return super().__iter__()


class Computed(BaseModel):
    @computed_field
    def text(self) -> str:
        return look()


@dataclass
class Around:
    inner: Any


class Failure(ToolException):
    def __str__(self) -> str:
        return look()


class Pretending:
    """Has code that runs as soon as anybody asks for its class."""

    @property  # type: ignore[misc]  # as an object that pretends
    def __class__(self) -> Any:
        look()
        return Pretending


class Reduced:
    """Has code that runs when it is pickled."""

    def __reduce__(self) -> Any:
        look()
        return int, ()


class Named(BaseModel):
    """Has its text written by another method than `__repr__`."""

    def __repr_str__(self, join_str: str) -> str:
        return look()


@dataclass
class Watched:
    """A dataclass whose attributes the application reads itself."""

    x: int = 1

    def __getattribute__(self, name: str) -> Any:
        look()
        return object.__getattribute__(self, name)


@dataclass
class CallToolResult:
    """Has the name of the result of an MCP client, and an attribute that the application computes."""

    @property
    def isError(self) -> bool:
        look()
        return False


def raised(error: BaseException) -> Any:
    raise error


def caused() -> Any:
    raise ToolException("x") from Failure()


RESULTS: dict[str, Callable[[], Any]] = {
    "object": Written,
    "within a list": lambda: [Written()],
    "within a dataclass": lambda: Around(Written()),
    "text": lambda: [Text("x")],
    "list": lambda: Counted([1]),
    "model": Computed,
    "exception within a list": lambda: [Failure("x")],
    "raised": lambda: raised(Failure("x")),
    "cause": caused,
    "class": lambda: [Pretending()],
    "pickled": lambda: partial(print, Reduced()),
    "text of a model": Named,
    "watched dataclass": lambda: Watched(x=1),
    "result of a client": CallToolResult,
}
QUIET = {"text", "result of a client", "pickled"}  # of which nobody runs the code


def the_tool(body: Callable[[], Any], *, coroutine: bool) -> BaseTool:
    async def arun() -> Any:
        return body()

    return StructuredTool.from_function(
        body, arun if coroutine else None, name="read", description="d", handle_tool_error=True
    )


async def called(kit: Kit, tool: BaseTool, mode: Mode, way: str, **config: Any) -> Any:
    guarded = kit.wrap(tool)
    kit_of_now.append(kit)
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        if way == "wrap":
            return await mode.invoke(guarded, tool_call("read"), config)
        agent: Any = create_agent(
            scripted(tool_call("read")), [tool], middleware=[kit.guard.middleware()], debug=False
        )
        return tool_messages(await mode.invoke(agent, GO, config))[0]


@pytest.mark.promise("revoked-before-looking")
@pytest.mark.parametrize("kind", RESULTS)
@pytest.mark.parametrize("coroutine", [True, False])
@pytest.mark.parametrize("way", ["wrap", "middleware"])
async def test_no_code_of_a_result_runs_while_its_credential_lives(
    kit: Kit, mode: Mode, kind: str, coroutine: bool, way: str
) -> None:
    await called(kit, the_tool(RESULTS[kind], coroutine=coroutine), mode, way)
    assert not any(alive)
    assert alive or kind in QUIET
    assert len(kit.broker.revoked) == len(kit.broker.issued) == 1
    (outcome,) = [record for record in kit.audit.records() if record["event"] == "outcome"]
    assert outcome["revoked"] is True


CONTROL_FLOW: dict[str, Callable[[], BaseException]] = {
    "interrupt": lambda: GraphInterrupt((Interrupt(value=Written()),)),
    "parent command": lambda: ParentCommand(Command(graph="p", update={"x": Written()})),
    "cancelled": lambda: asyncio.CancelledError(Written()),
}


@pytest.mark.promise("revoked-before-looking")
@pytest.mark.parametrize("kind", CONTROL_FLOW)
@pytest.mark.parametrize("coroutine", [True, False])
async def test_no_code_of_what_control_flow_carries_runs_while_the_credential_lives(
    kit: Kit, mode: Mode, kind: str, coroutine: bool
) -> None:
    tool = the_tool(lambda: raised(CONTROL_FLOW[kind]()), coroutine=coroutine)
    kinds = (GraphInterrupt, ParentCommand, asyncio.CancelledError)
    with pytest.raises(kinds):
        await called(kit, tool, mode, "wrap")
    assert not any(alive)
    assert len(kit.broker.revoked) == 1


class Watching(BaseCallbackHandler):
    """Sees what langchain passes on of a tool's result."""

    def on_tool_end(self, output: Any, **_more: Any) -> None:
        look()


LARGE: dict[str, Any] = {
    "text": "x" * 70_000,
    "rows": [{"id": number, "name": "x"} for number in range(500)],
    "levels": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["x"]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],
}


@pytest.mark.promise("revoked-before-looking")
@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("coroutine", [True, False])
async def test_a_large_result_is_written_when_its_credential_is_dead(
    kit: Kit, mode: Mode, kind: str, coroutine: bool
) -> None:
    tool = the_tool(lambda: LARGE[kind], coroutine=coroutine)
    answer = await called(kit, tool, mode, "wrap", callbacks=[Watching()])
    assert answer.status == "success"
    assert alive == [False]
    assert len(kit.broker.revoked) == 1


async def test_an_issuer_that_is_down_is_asked_once_by_the_call_and_the_result_is_passed_on(
    kit: Kit, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    kit.broker.revoke_error = ConnectionError("down")
    answer = await called(kit, the_tool(lambda: "x" * 70_000, coroutine=True), mode, "wrap")
    assert answer.content == "x" * 70_000
    # the outbox goes on with it, and logs in its own room
    assert [record.module for record in caplog.records].count("failures") == 1
    (outcome,) = [record for record in kit.audit.records() if record["event"] == "outcome"]
    assert outcome["revoked"] is False
    assert [live.call_id for live in kit.store.live()] == [outcome["call"]]


class Asynchronous:
    """A broker that works on event loops only."""

    def __init__(self) -> None:
        self.inner = RecordingBroker()
        self.paths = self.inner.paths

    async def aissue(self, grant: Any) -> Any:
        return self.inner.issue(grant)

    async def arevoke(self, handle: str, expires_at: float) -> None:
        self.inner.revoke(handle, expires_at)


async def cancelled_while_it_revokes(*, coroutine: bool) -> tuple[Kit, Asynchronous]:
    """Cancel a call while its broker, which takes its time, revokes."""
    kit, broker, under_way = Kit(), Asynchronous(), asyncio.Event()

    async def slowly(handle: str, expires_at: float) -> None:
        under_way.set()
        await asyncio.sleep(0.05)
        broker.inner.revoke(handle, expires_at)

    broker.arevoke = slowly  # type: ignore[method-assign]  # one that takes its time
    kit.guard = kit.another(brokers=dict.fromkeys([(None, path) for path in ToolPath], broker))
    tool = the_tool(lambda: "x" * 70_000, coroutine=coroutine)
    call = asyncio.create_task(called(kit, tool, Mode("async"), "wrap"))
    await under_way.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    return kit, broker


async def test_a_call_that_is_cancelled_while_it_revokes_early_has_revoked_once() -> None:
    kit, broker = await cancelled_while_it_revokes(coroutine=True)
    assert len(broker.inner.revoked) == 1
    (outcome,) = [record for record in kit.audit.records() if record["event"] == "outcome"]
    assert outcome["revoked"] is True
    assert kit.store.live() == ()


@pytest.mark.parametrize("coroutine", [True, False])
async def test_a_broker_of_event_loops_revokes_once_also_for_a_tool_in_a_thread(
    coroutine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    kit, broker = Kit(), Asynchronous()
    kit.guard = kit.another(brokers=dict.fromkeys([(None, path) for path in ToolPath], broker))
    tool = the_tool(lambda: "x" * 70_000, coroutine=coroutine)
    await called(kit, tool, Mode("async"), "wrap")
    assert len(broker.inner.revoked) == 1
    assert [record for record in caplog.records if record.module == "issuance"] == []


@pytest.mark.promise("revoked-before-looking")
@pytest.mark.parametrize("kind", RESULTS)
@pytest.mark.parametrize("coroutine", [True, False])
async def test_a_broker_of_event_loops_revokes_before_code_of_a_result_runs(
    kind: str, coroutine: bool
) -> None:
    kit, broker = Kit(), Asynchronous()
    kit.broker = broker.inner
    kit.guard = kit.another(brokers=dict.fromkeys([(None, path) for path in ToolPath], broker))
    await called(kit, the_tool(RESULTS[kind], coroutine=coroutine), Mode("async"), "wrap")
    assert not any(alive)
    assert alive or kind in QUIET
    assert len(broker.inner.revoked) == len(broker.inner.issued) == 1


async def test_a_call_that_is_cancelled_while_its_thread_waits_for_the_loop_ends() -> None:
    _, broker = await cancelled_while_it_revokes(coroutine=False)
    assert broker.inner.revoked
    assert not broker.inner.live


class Noting(MemoryStore):
    """Remembers what is noted in it."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def _remember(self, key: str, until: float) -> bool:
        self.notes.append(key)
        return super()._remember(key, until)


@pytest.mark.promise("revoked-before-looking")
@pytest.mark.parametrize("size", [10, 70_000])
async def test_a_note_in_the_store_is_made_before_a_large_result_is_written(mode: Mode, size: int) -> None:
    kit = Kit()
    store = Noting()
    issuers = [LocalIssuer(path, issuer="https://guard.example", store=store) for path in ToolPath]
    kit.guard = kit.another(store=store, brokers={(None, issuer.path): issuer for issuer in issuers})
    noted: list[bool] = []

    class Handler(BaseCallbackHandler):
        def on_tool_end(self, output: Any, **_more: Any) -> None:
            noted.append(bool(store.notes))

    answer = await called(
        kit, the_tool(lambda: "x" * size, coroutine=True), mode, "wrap", callbacks=[Handler()]
    )
    assert answer.content == "x" * size
    assert noted == [size > 10]  # a small one costs no transaction of its own
    assert len(store.notes) == 1
    assert store.live() == ()


class Structured(BaseModel):
    """Computes what the structured content of an MCP result would be."""

    @property
    def structuredContent(self) -> Any:
        return look()


class Rows(dict[str, Any]):
    def __contains__(self, key: object) -> bool:
        look()
        return True


@pytest.mark.promise("revoked-before-looking")
@pytest.mark.parametrize("make", [Structured, lambda: Rows(email=1), lambda: Watched(x=1)])
async def test_no_code_of_a_result_runs_for_its_labels_before_the_note(
    mode: Mode, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, store, noted = Kit(), Noting(), list[bool]()
    issuers = [LocalIssuer(path, issuer="https://guard.example", store=store) for path in ToolPath]
    kit.guard = kit.another(store=store, brokers={(None, issuer.path): issuer for issuer in issuers})

    def look_at_the_notes() -> str:
        noted.append(bool(store.notes))
        return "x"

    monkeypatch.setitem(globals(), "look", look_at_the_notes)
    options: dict[str, Any] = {"resource": "orders", "trusted": ["email"], "untrusted": True}
    guarded = kit.wrap(the_tool(make, coroutine=True), path="read", **options)
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(guarded, tool_call("read"))
    assert all(noted)
    assert noted
    assert len(store.notes) == 1


async def test_a_credential_that_serves_the_whole_task_is_not_revoked_with_its_call(mode: Mode) -> None:
    class Reusing(RecordingBroker):
        traits = BrokerTraits(reuse=frozenset(ToolPath))

    kit = Kit(broker=Reusing())
    tool = the_tool(lambda: "x" * 70_000, coroutine=True)
    guarded = kit.wrap(tool)
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        for number in range(2):
            await mode.invoke(guarded, tool_call("read", f"c{number}"))
        assert (len(kit.broker.issued), kit.broker.revoked) == (1, [])
    assert len(kit.broker.revoked) == 1
