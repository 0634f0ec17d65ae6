"""A running tool sees its own credential, in its own call, and nothing of it after or outside."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command
from pydantic import BaseModel

from agentguard import CredentialUnavailable, Denied, bind, credential
from agentguard.lease import Lease, current
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages

SECRET = "test-secret-"
NOTHING = "nothing"


class Options(BaseModel):
    options: dict[str, Any]


def held(resource: str | None = "orders") -> str:
    """Say which secret is at hand here, if any."""
    try:
        return credential(resource).reveal()
    except CredentialUnavailable:
        return NOTHING


def tool_of(name: str, function: Callable[..., Any], coroutine: Any = None, **more: Any) -> BaseTool:
    return classified(StructuredTool.from_function(function, coroutine, name=name, description="d", **more))


# --- its own credential, and no other's


async def test_a_running_tool_has_a_credential_and_nobody_else(mode: Mode, kit: Kit, task: Any) -> None:
    seen: list[str] = []
    guarded = kit.wrap(tool_of("read", lambda: seen.append(held())))
    assert held() == NOTHING
    await mode.invoke(guarded, {})
    assert seen == [f"{SECRET}1"]
    assert held() == NOTHING
    assert current() is None


async def test_a_tool_without_a_resource_has_none(mode: Mode, kit: Kit, task: Any) -> None:
    seen: list[str] = []
    guarded = kit.wrap(tool_of("read", lambda: seen.append(held(None))), path="read")
    await mode.invoke(guarded, {})
    assert seen == [NOTHING]
    assert kit.broker.issued == []


@pytest.mark.promise("nested-judged-alone")
async def test_a_guarded_tool_in_a_tool_is_judged_by_itself_and_has_its_own_credential(
    mode: Mode, kit: Kit, task: Any
) -> None:
    seen: list[tuple[str, str]] = []
    inner = kit.wrap(tool_of("inner", lambda: seen.append(("inner", held()))))
    blind = kit.wrap(tool_of("blind", lambda: seen.append(("blind", held()))), path="read")

    def outer() -> None:
        seen.append(("before", held()))
        inner.invoke({})
        blind.invoke({})
        seen.append(("after", held()))

    async def aouter() -> None:
        seen.append(("before", held()))
        await inner.ainvoke({})
        await blind.ainvoke({})
        seen.append(("after", held()))

    await mode.invoke(kit.wrap(tool_of("outer", outer, aouter)), {})
    assert seen == [
        ("before", f"{SECRET}1"),
        ("inner", f"{SECRET}2"),
        ("blind", NOTHING),
        ("after", f"{SECRET}1"),
    ]
    assert sorted(kit.decisions()) == ["permit"] * 3
    assert not kit.broker.live


async def test_a_denied_inner_call_leaves_the_outer_one_its_own_credential(
    mode: Mode, kit: Kit, task: Any
) -> None:
    inner = kit.wrap(tool_of("inner", lambda: "ran"))
    kit.rule.deny("inner")

    def outer() -> str:
        with pytest.raises(Denied):
            inner.invoke({})
        return "had one" if held() == f"{SECRET}1" else "had none"

    assert await mode.invoke(kit.wrap(tool_of("outer", outer)), {}) == "had one"
    assert len(kit.broker.issued) == 1


@pytest.mark.promise("nested-judged-alone")
@pytest.mark.parametrize("layer", ["tools", "middleware"])
async def test_the_tools_of_a_sub_agent_are_judged_by_themselves(
    layer: str, mode: Mode, kit: Kit, task: Any
) -> None:
    seen: list[str] = []
    inner = tool_of("inner", lambda: seen.append(held()))
    given = {"tools": kit.guard.wrap(inner)} if layer == "tools" else {"tools": [inner]}
    middleware = [] if layer == "tools" else [kit.guard.middleware()]
    sub = create_agent(scripted(tool_call("inner")), given["tools"], middleware=middleware)

    def delegate() -> str:
        return str(sub.invoke(GO)["messages"][-1].content)

    async def adelegate() -> str:
        return str((await sub.ainvoke(GO))["messages"][-1].content)

    agent = create_agent(
        scripted(tool_call("delegate")),
        [tool_of("delegate", delegate, adelegate)],
        middleware=[kit.guard.middleware()],
    )
    await mode.invoke(agent, GO)
    assert seen == [f"{SECRET}2"]
    assert (kit.decisions("delegate"), kit.decisions("inner")) == (["permit"], ["permit"])


@pytest.mark.promise("nested-judged-alone")
async def test_an_unguarded_tool_of_a_sub_agent_gets_no_credential_of_its_own(
    mode: Mode, kit: Kit, task: Any
) -> None:
    sub = create_agent(scripted(tool_call("inner")), [tool_of("inner", lambda: "ran")])
    agent = create_agent(
        scripted(tool_call("delegate")), kit.guard.wrap(tool_of("delegate", lambda: str(sub.invoke(GO))))
    )
    await mode.invoke(agent, GO)
    assert [grant.tool for grant in kit.broker.issued] == ["delegate"]
    assert kit.decisions("inner") == []


class Between(BaseCallbackHandler):
    """Does something in the moment between the permit and the tool."""

    run_inline = raise_error = True

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def on_tool_start(self, *_args: Any, **_kwargs: Any) -> None:
        self.act()


async def test_the_inside_of_another_tool_of_that_name_is_not_opened_by_this_permit(
    mode: Mode, kit: Kit, task: Any
) -> None:
    ran: list[str] = []
    mine, other = (tool_of("read", lambda who=who: ran.append(who)) for who in ("mine", "other"))
    (inside,) = Kit().guard.wrap(other)
    (guarded,) = kit.guard.wrap(mine)
    between = Between(lambda: inside.gate.sealed.invoke({"who": "mine"}))
    with pytest.raises(Denied):
        await mode.invoke(guarded, {"who": "mine"}, {"callbacks": [between]})
    assert ran == []


# --- none after its end


@pytest.mark.promise("dead-lease-in-threads")
async def test_a_thread_of_the_tools_own_has_nothing_and_a_bound_one_a_lease_that_dies_with_the_call(
    mode: Mode, kit: Kit, task: Any
) -> None:
    seen: dict[str, str] = {}
    over = threading.Event()
    threads: list[threading.Thread] = []

    def outliving() -> None:
        seen["bound, during"] = held()
        over.wait(5)
        seen["bound, after"] = held()

    def spawn() -> None:
        raw = threading.Thread(target=lambda: seen.update({"raw": held()}))
        bound = threading.Thread(target=bind(outliving))
        threads.append(bound)
        raw.start()
        bound.start()
        raw.join()
        while "bound, during" not in seen:
            time.sleep(0.001)

    await mode.invoke(kit.wrap(tool_of("spawn", spawn)), {})
    over.set()
    threads[0].join()
    assert seen == {"raw": NOTHING, "bound, during": f"{SECRET}1", "bound, after": NOTHING}


@pytest.mark.promise("dead-lease-in-threads")
async def test_a_background_task_finds_a_dead_lease(kit: Kit, task: Any) -> None:
    seen: list[str] = []
    over = asyncio.Event()
    left: list[asyncio.Task[None]] = []

    async def outliving() -> None:
        seen.append(held())
        await over.wait()
        seen.append(held())

    async def spawn() -> str:
        left.append(asyncio.ensure_future(outliving()))
        await asyncio.sleep(0)
        return "spawned"

    await kit.wrap(StructuredTool.from_function(coroutine=spawn, name="s", description="d")).ainvoke({})
    over.set()
    await left[0]
    assert seen == [f"{SECRET}1", NOTHING]


@pytest.mark.promise("dead-lease-in-threads")
async def test_a_lease_that_was_kept_is_dead_after_the_call(mode: Mode, kit: Kit, task: Any) -> None:
    kept: list[Lease] = []

    def keep() -> None:
        kept.append(credential())

    await mode.invoke(kit.wrap(tool_of("keep", keep)), {})
    with pytest.raises(CredentialUnavailable, match="is over"):
        kept[0].reveal()
    assert SECRET not in repr(kept[0])


async def test_arguments_that_look_like_a_config_are_the_tools(mode: Mode, kit: Kit, task: Any) -> None:
    options = {"configurable": {"__pregel_runtime": {"stream_writer": "mine"}}}
    tool = kit.wrap(tool_of("keep", lambda options: options, args_schema=Options))
    assert await mode.invoke(tool, {"options": options}) == options


async def test_a_tool_that_fails_leaves_nothing_behind(mode: Mode, kit: Kit, task: Any) -> None:
    kept: list[Lease] = []

    def fail() -> None:
        kept.append(credential())
        raise KeyError

    with pytest.raises(KeyError):
        await mode.invoke(kit.wrap(tool_of("fail", fail)), {})
    with pytest.raises(CredentialUnavailable):
        kept[0].reveal()
    assert not kit.broker.live
    assert current() is None


async def test_a_cancelled_call_leaves_nothing_behind(kit: Kit, task: Any) -> None:
    kept: list[Lease] = []

    begun = asyncio.Event()

    async def hang() -> None:
        kept.append(credential())
        begun.set()
        await asyncio.sleep(60)

    tool = kit.wrap(StructuredTool.from_function(coroutine=hang, name="hang", description="d"))
    running = asyncio.ensure_future(tool.ainvoke({}))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(CredentialUnavailable):
        kept[0].reveal()
    assert (kit.outcomes(), kit.broker.live) == (["cancelled"], ())


@pytest.mark.promise("clearing-errors-harmless")
async def test_an_error_that_two_calls_share_ends_one_and_not_the_other(kit: Kit, task: Any) -> None:
    broken = ConnectionError("reset")
    failed = asyncio.Event()

    async def read() -> str:
        raise broken

    async def recover() -> str:
        try:
            return await read()
        except ConnectionError:
            await failed.wait()
        return f"recovered with {len(held())}"

    async def fail() -> str:
        await asyncio.sleep(0)
        return await read()

    tools = [
        kit.wrap(StructuredTool.from_function(coroutine=body, name=body.__name__, description="d"))
        for body in (recover, fail)
    ]
    recovering = asyncio.ensure_future(tools[0].ainvoke({}))
    with pytest.raises(ConnectionError, match="reset"):
        await tools[1].ainvoke({})
    failed.set()
    assert await asyncio.wait_for(recovering, 5) == f"recovered with {len(SECRET) + 1}"
    assert sorted(kit.outcomes()) == ["done", "failed"]


# --- 64 at once

MANY = 64


@pytest.mark.exhaustive
@pytest.mark.promise("parallel-own-credential")
@pytest.mark.parametrize(
    ("mode", "kind"),
    [("sync", "sync body"), ("async", "sync body"), ("async", "async body")],
    indirect=["mode"],
)
@pytest.mark.parametrize("layer", ["tools", "middleware", "create_agent"])
async def test_each_of_64_parallel_calls_sees_its_own_credential_only(
    layer: str, kind: str, mode: Mode, kit: Kit, task: Any
) -> None:
    seen: dict[int, set[str]] = {}
    kept: list[Lease] = []

    def look(n: int) -> str:
        first, lease = held(), credential()
        time.sleep(0.002)
        seen[n] = {first, held(), lease.reveal()}
        kept.append(lease)
        return "looked"

    async def alook(n: int) -> str:
        first, lease = held(), credential()
        await asyncio.sleep(0.01)
        seen[n] = {first, held(), lease.reveal()}
        kept.append(lease)
        return "looked"

    tool = tool_of("look", look, alook if kind == "async body" else None)
    calls = [tool_call("look", f"c{n}", n=n) for n in range(MANY)]
    middleware = kit.guard.middleware()
    if layer == "create_agent":
        graph: Any = create_agent(scripted(calls), [tool], middleware=[middleware])
        given = GO
    else:
        wrappers: dict[str, Any] = {}
        if layer == "middleware":
            wrappers = {n: getattr(middleware, n) for n in ("wrap_tool_call", "awrap_tool_call")}
        node = ToolNode([tool] if wrappers else kit.guard.wrap(tool), **wrappers)
        graph = StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile()
        given = {"messages": [AIMessage("", tool_calls=calls)]}
    result = await mode.invoke(graph, given)
    assert [m.content for m in tool_messages(result)] == ["looked"] * MANY
    assert sorted(seen) == list(range(MANY))
    assert all(len(secrets) == 1 for secrets in seen.values())
    assert len(set.union(*seen.values())) == MANY
    assert kit.decisions() == ["permit"] * MANY
    assert not kit.broker.live
    for lease in kept:
        with pytest.raises(CredentialUnavailable):
            lease.reveal()


@pytest.mark.promise("parallel-own-credential")
async def test_parallel_calls_in_an_async_gather_are_kept_apart(kit: Kit, task: Any) -> None:
    async def look(n: int) -> str:
        first = held()
        await asyncio.sleep(0.005)
        return first if first == held() else "mixed"

    tool = kit.wrap(StructuredTool.from_function(coroutine=look, name="look", description="d"))
    secrets: list[str] = []

    async def call(n: int) -> None:
        await tool.ainvoke({"n": n})
        secrets.append(held())

    await asyncio.gather(*(call(n) for n in range(MANY)))
    assert secrets == [NOTHING] * MANY
    assert len(kit.broker.issued) == MANY
    assert not kit.broker.live


# --- what a tool echoes


class Everything(BaseTracer):
    """Keeps all that a tracer is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def _persist_run(self, run: Run) -> None:
        self.told.append(repr(run.model_dump() if hasattr(run, "model_dump") else run.dict()))


def as_text(secret: str) -> Any:
    return f"your token is {secret}"


def as_artifact(secret: str) -> Any:
    return "told", {"deep": [secret]}


def as_command(secret: str) -> Any:
    return Command(update={"messages": [ToolMessage(secret, tool_call_id="c1")]})


def as_exception(secret: str) -> Any:
    try:
        raise ValueError(secret)
    except ValueError as error:
        raise RuntimeError(f"failed with {secret}") from error


def as_interrupt(secret: str) -> Any:
    from langgraph.types import interrupt

    return interrupt({"token": secret})


def as_denial(secret: str) -> Any:
    raise Denied("policy", secret, advice=f"use {secret}")  # type: ignore[arg-type]  # a tool may raise anything


def as_log(secret: str) -> Any:
    logging.getLogger("tool").warning("using %s", secret)
    return "logged"


ECHOES = [as_text, as_artifact, as_command, as_exception, as_interrupt, as_denial, as_log]


@pytest.mark.exhaustive
@pytest.mark.promise("no-secret-in-any-sink")
@pytest.mark.parametrize("kind", ["function", "async function", "class"])
@pytest.mark.parametrize("layer", ["tools", "middleware"])
@pytest.mark.parametrize("echo", ECHOES)
async def test_what_a_tool_echoes_reaches_nobody(
    echo: Callable[[str], Any],
    layer: str,
    kind: str,
    mode: Mode,
    kit: Kit,
    task: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    form: Any = "content_and_artifact" if echo is as_artifact else "content"

    def body() -> Any:
        token = credential().reveal()
        return echo(token)

    async def abody() -> Any:
        return body()

    class Body(BaseTool):
        name: str = "leak"
        description: str = "d"

        def _run(self) -> Any:
            return body()

    if kind == "class":
        tool: BaseTool = classified(Body(response_format=form))
    else:
        tool = tool_of("leak", body, abody if kind == "async function" else None, response_format=form)
    tracer, saver = Everything(), InMemorySaver()
    inside = layer == "middleware"
    agent = create_agent(
        scripted(tool_call("leak")),
        [tool] if inside else kit.guard.wrap(tool),
        middleware=[kit.guard.middleware()] if inside else [],
        checkpointer=saver,
    )
    shown: list[Any] = []
    try:
        shown = await mode.stream(agent, GO, {"configurable": {"thread_id": "t"}, "callbacks": [tracer]})
    except Exception as error:  # noqa: BLE001  its text and chain are looked at
        shown = [error, error.args, error.__cause__, error.__context__]
    assert len(kit.broker.issued) == 1
    for place in (shown, tracer.told, saver.storage, saver.writes, saver.blobs, caplog.text):
        assert SECRET not in repr(place)
    assert tracer.told
    for record in kit.audit.records():
        assert SECRET not in repr(record)
