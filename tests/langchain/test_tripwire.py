"""The tripwire stops and records a tool that starts without a permit, on every path of langchain's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from agentguard import Denied
from agentguard.langchain import Tripwire
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call

Ran = list[str]


def sync_only(ran: Ran) -> BaseTool:
    def pay(to: str) -> str:
        ran.append(to)
        return "paid"

    return classified(StructuredTool.from_function(pay, name="pay", description="d"))


def with_async(ran: Ran) -> BaseTool:
    def pay(to: str) -> str:
        ran.append(to)
        return "paid"

    async def apay(to: str) -> str:
        return pay(to)

    return classified(StructuredTool.from_function(pay, apay, name="pay", description="d"))


class Body(BaseTool):
    name: str = "pay"
    description: str = "d"
    ran: Any

    def _run(self, to: str) -> str:
        self.ran.append(to)
        return "paid"


def by_class(ran: Ran) -> BaseTool:
    return classified(Body(ran=ran))


MAKERS = [sync_only, with_async, by_class]


async def alone(mode: Mode, tool: BaseTool, config: Any) -> Any:
    return await mode.invoke(tool, {"to": "a"}, config)


async def as_call(mode: Mode, tool: BaseTool, config: Any) -> Any:
    return await mode.invoke(tool, tool_call("pay", to="a"), config)


async def by_run(mode: Mode, tool: BaseTool, config: Any) -> Any:
    return await mode.run(tool, {"to": "a"}, callbacks=config["callbacks"])


async def in_batch(mode: Mode, tool: BaseTool, config: Any) -> Any:
    return await mode.call(tool, "batch", [{"to": "a"}, {"to": "b"}], config)


async def in_chain(mode: Mode, tool: BaseTool, config: Any) -> Any:
    return await mode.invoke(RunnableLambda(lambda given: given) | tool, {"to": "a"}, config)


async def in_node(mode: Mode, tool: BaseTool, config: Any) -> Any:
    node = ToolNode([tool], handle_tool_errors=False)
    graph = StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile()
    return await mode.invoke(graph, {"messages": scripted(tool_call("pay", to="a")).script[:1]}, config)


async def in_agent(mode: Mode, tool: BaseTool, config: Any) -> Any:
    return await mode.invoke(create_agent(scripted(tool_call("pay", to="a")), [tool]), GO, config)


WAYS: list[Callable[..., Any]] = [alone, as_call, by_run, in_batch, in_chain, in_node, in_agent]


@pytest.mark.exhaustive
@pytest.mark.promise("tripwire")
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_tool_around_the_gate_is_stopped_and_recorded(
    way: Any, make: Any, mode: Mode, kit: Kit, task: Any
) -> None:
    ran: Ran = []
    with pytest.raises(Denied, match="stopped"):
        await way(mode, make(ran), {"callbacks": kit.guard.callbacks()})
    assert ran == []
    assert set(kit.decisions()) == {"unguarded"}
    assert kit.broker.issued == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_tool_behind_its_gate_passes(way: Any, make: Any, mode: Mode, kit: Kit, task: Any) -> None:
    ran: Ran = []
    (guarded,) = kit.guard.wrap(make(ran))
    await way(mode, guarded, {"callbacks": kit.guard.callbacks()})
    assert ran
    assert set(kit.decisions()) == {"permit"}
    assert len(kit.decisions()) == len(ran)


@pytest.mark.parametrize("make", MAKERS)
async def test_a_tool_that_a_permitted_tool_starts_needs_a_permit_of_its_own(
    make: Any, mode: Mode, kit: Kit, task: Any
) -> None:
    ran: Ran = []
    inner = make(ran)

    def outer(to: str) -> str:
        return str(inner.invoke({"to": to}))

    guarded = kit.wrap(StructuredTool.from_function(outer, name="outer", description="d"))
    with pytest.raises(Denied, match="stopped"):
        await mode.invoke(guarded, {"to": "a"}, {"callbacks": kit.guard.callbacks()})
    assert ran == []
    assert kit.decisions("pay") == ["unguarded"]
    assert kit.outcomes() == ["failed"]


@pytest.mark.promise("tripwire")
async def test_a_tool_cannot_start_its_unguarded_self_on_its_own_permit(
    mode: Mode, kit: Kit, task: Any
) -> None:
    ran: Ran = []

    def pay(to: str) -> str:
        ran.append(to)
        return str(original.invoke({"to": "evil"})) if to == "a" else "paid"

    original = classified(StructuredTool.from_function(pay, name="pay", description="d"))
    (guarded,) = kit.guard.wrap(original)
    with pytest.raises(Denied, match="stopped"):
        await mode.invoke(guarded, {"to": "a"}, {"callbacks": kit.guard.callbacks()})
    assert ran == ["a"]


class Between(BaseCallbackHandler):
    """Does something in the moment between the permit and the tool."""

    run_inline = raise_error = True

    def __init__(self, act: Callable[[dict[str, Any]], object]) -> None:
        self.act = act

    def on_tool_start(self, *_args: Any, inputs: dict[str, Any] | None = None, **_kwargs: Any) -> None:
        self.act(inputs or {})


async def test_a_permit_on_its_way_is_no_permit_for_another_tool(mode: Mode, kit: Kit, task: Any) -> None:
    ran: Ran = []
    other = StructuredTool.from_function(lambda: ran.append("other"), name="other", description="d")
    watched: RunnableConfig = {"callbacks": [*kit.guard.callbacks()]}
    between = Between(lambda _inputs: other.invoke({}, watched))
    (guarded,) = kit.guard.wrap(sync_only(ran))
    with pytest.raises(Denied, match="stopped"):
        await mode.invoke(guarded, {"to": "a"}, {"callbacks": [between]})
    assert ran == []


@pytest.mark.promise("tripwire")
async def test_a_permit_that_was_never_used_lets_nothing_start_later(mode: Mode, kit: Kit, task: Any) -> None:
    def pay(to: list[str]) -> str:
        raise AssertionError

    original = classified(StructuredTool.from_function(pay, name="pay", description="d"))
    (guarded,) = kit.guard.wrap(original)
    changing = Between(lambda inputs: inputs["to"].append("evil"))
    with pytest.raises(Denied, match="changed"):
        await mode.invoke(guarded, {"to": ["a"]}, {"callbacks": [changing]})
    with pytest.raises(Denied, match="stopped"):
        await mode.invoke(original, {"to": ["a"]}, {"callbacks": kit.guard.callbacks()})


async def test_a_handler_that_handles_errors_shows_the_model_nothing_more(
    mode: Mode, kit: Kit, task: Any
) -> None:
    node = ToolNode([sync_only([])], handle_tool_errors=True)
    graph = StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile()
    asked = scripted(tool_call("pay", to="a")).script[:1]
    result = await mode.invoke(graph, {"messages": asked}, {"callbacks": kit.guard.callbacks()})
    assert "started without a permit" not in repr(result)
    assert kit.decisions() == ["unguarded"]


def test_it_is_of_the_one_kind_that_langchain_lets_stop_a_tool() -> None:
    assert Tripwire.raise_error
    assert Tripwire.run_inline
    assert not inspect.iscoroutinefunction(Tripwire.on_tool_start)


@pytest.mark.promise("tripwire")
async def test_it_stops_the_tool_also_when_it_cannot_be_recorded(mode: Mode, kit: Kit, task: Any) -> None:
    ran: Ran = []
    kit.audit.error = OSError("disk full")
    with pytest.raises(Denied, match="stopped"):
        await mode.invoke(sync_only(ran), {"to": "a"}, {"callbacks": kit.guard.callbacks()})
    assert ran == []
    kit.audit.error = None
