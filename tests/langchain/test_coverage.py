"""`guard.coverage(agent)` names every tool that an agent can reach, and never says too much."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor
from langchain_core.agents import AgentFinish
from langchain_core.messages import SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from agentguard.langchain.coverage import Coverage
from tests.conftest import GO, Kit, classified, scripted


@tool
def search(x: str) -> str:
    """Search."""
    return x


@tool
def pay(x: str) -> str:
    """Pay."""
    return x


def reached(coverage: Coverage) -> dict[str, str]:
    return {f"{reach.agent}: {reach.tool}": reach.gated_by for reach in coverage.reaches}


global_agent = create_agent(scripted(), [pay])


def ask_the_global_agent(x: str) -> str:
    return str(global_agent.invoke(GO))


@tool
def delegate(x: str) -> str:
    """Ask another agent."""
    return ask_the_global_agent(x)


@tool
def chained(x: str) -> str:
    """Call another tool."""
    return str(pay.invoke({"x": x}))


class Delegate(BaseTool):
    name: str = "class_delegate"
    description: str = "Ask another agent."
    agent: Any = None

    def _run(self, x: str) -> str:
        return str(self.agent.invoke(x) or global_agent)


@pytest.mark.promise("ungated-is-named")
def test_what_gates_each_tool_is_named(kit: Kit) -> None:
    (guarded,) = kit.guard.wrap(search)
    found = kit.guard.coverage(create_agent(scripted(), [guarded, pay]))
    assert reached(found) == {"agent: search": "tool", "agent: pay": "nothing"}
    assert not found
    assert [reach.tool for reach in found.ungated] == ["pay"]
    assert "agent: pay: NOT GATED" in str(found)


def test_the_middleware_gates_all_tools_of_its_agent(kit: Kit) -> None:
    found = kit.guard.coverage(create_agent(scripted(), [search, pay], middleware=[kit.guard.middleware()]))
    assert reached(found) == {"agent: search": "middleware", "agent: pay": "middleware"}
    assert found


@pytest.mark.promise("ungated-is-named")
def test_a_tool_that_runs_at_the_models_provider_is_outside(kit: Kit) -> None:
    provider = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    agent = create_agent(scripted(), [search, provider], middleware=[kit.guard.middleware()])
    assert reached(kit.guard.coverage(agent)) == {
        "agent: search": "middleware",
        "agent: web_search": "outside",
    }
    assert not kit.guard.coverage(agent)


def test_a_middleware_in_one_node_does_not_gate_another(kit: Kit) -> None:
    inner = create_agent(scripted(), [search], middleware=[kit.guard.middleware()])
    graph = StateGraph(MessagesState).add_node("agent", inner).add_node("tools", ToolNode([pay]))
    found = kit.guard.coverage(graph.add_edge(START, "agent").add_edge("agent", "tools").compile())
    assert reached(found) == {"agent: search": "middleware", "agent: pay": "nothing"}


def test_a_tool_in_a_gated_and_an_ungated_node_is_not_gated(kit: Kit) -> None:
    inner = create_agent(scripted(), [pay], middleware=[kit.guard.middleware()])
    graph = StateGraph(MessagesState).add_node("agent", inner).add_node("tools", ToolNode([pay]))
    found = kit.guard.coverage(graph.add_edge(START, "agent").add_edge("agent", "tools").compile())
    assert reached(found) == {"agent: pay": "nothing"}


@pytest.mark.promise("ungated-is-named")
@pytest.mark.parametrize(
    ("wrappers", "by"),
    [
        (("wrap_tool_call", "awrap_tool_call"), "middleware"),
        (("wrap_tool_call",), "middleware"),
        (("awrap_tool_call",), "nothing"),
    ],
)
def test_a_node_with_only_the_async_wrapper_is_not_gated(
    kit: Kit, wrappers: tuple[str, ...], by: str
) -> None:
    middleware = kit.guard.middleware()
    node = ToolNode([pay], **{name: getattr(middleware, name) for name in wrappers})
    assert reached(kit.guard.coverage(node)) == {"agent: pay": by}


@pytest.mark.promise("ungated-is-named")
@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("delegating", [delegate, Delegate(agent=global_agent), Delegate()])
def test_a_sub_agent_inside_a_tool_is_found(kit: Kit, guarded: bool, delegating: BaseTool) -> None:
    tools = kit.guard.wrap(delegating) if guarded else [delegating]
    found = reached(kit.guard.coverage(create_agent(scripted(), tools)))
    name = delegating.name
    assert found == {f"agent: {name}": "tool" if guarded else "nothing", f"agent > {name}: pay": "nothing"}


def test_a_sub_agent_in_a_closure_is_found_with_its_own_middleware(kit: Kit) -> None:
    sub = create_agent(scripted(), [pay], middleware=[kit.guard.middleware()])

    @tool
    def ask(x: str) -> str:
        """Ask."""
        return str(sub.invoke(GO))

    found = kit.guard.coverage(create_agent(scripted(), kit.guard.wrap(ask)))
    assert reached(found) == {"agent: ask": "tool", "agent > ask: pay": "middleware"}
    assert found


def test_a_tool_that_a_tool_calls_is_found(kit: Kit) -> None:
    found = reached(kit.guard.coverage(create_agent(scripted(), kit.guard.wrap(chained))))
    assert found == {"agent: chained": "tool", "agent > chained: pay": "nothing"}


def test_executors_lists_and_chains_are_looked_through(kit: Kit) -> None:
    (guarded,) = kit.guard.wrap(classified(search))
    decide: Any = RunnableLambda(lambda _given: AgentFinish({}, ""))
    executor = AgentExecutor(agent=decide, tools=[guarded, pay])
    expected = {"agent: search": "tool", "agent: pay": "nothing"}
    assert reached(kit.guard.coverage(executor)) == expected
    assert reached(kit.guard.coverage([guarded, pay])) == expected
    assert reached(kit.guard.coverage(guarded.bind() | pay)) == expected


@pytest.mark.promise("ungated-is-named")
def test_an_agent_that_is_too_large_is_not_called_covered(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Coverage.__module__], "_MOST", 3)
    agent = create_agent(scripted(), kit.guard.wrap(search))
    found = kit.guard.coverage(agent)
    assert not found
    assert "not all was seen" in str(found)


@pytest.mark.promise("lint-names-ungated")
def test_a_tool_that_a_gated_agent_and_its_ungated_sub_agent_share_is_named_for_both(kit: Kit) -> None:
    expert = create_agent(scripted(), [pay])

    @tool
    def ask_expert(question: str) -> str:
        """Ask the expert."""
        return str(expert.invoke(GO))

    agent = create_agent(scripted(), [pay, ask_expert], middleware=[kit.guard.middleware()])
    assert reached(kit.guard.coverage(agent)) == {
        "agent: pay": "middleware",
        "agent: ask_expert": "middleware",
        "agent > ask_expert: pay": "nothing",
    }


# --- a value for an assertion


def test_a_coverage_says_on_one_line_what_is_not_gated_and_by_which_sub_agent(kit: Kit) -> None:
    experts = {name: create_agent(scripted(), [pay, search], name=name) for name in ("buyer", "finder")}

    @tool
    def task(kind: str) -> str:
        """Ask one of the sub-agents."""
        return str(experts[kind].invoke(GO))

    web = {"type": "web_search_20250305", "name": "web_search"}
    found = kit.guard.coverage(
        create_agent(scripted(), [task, search, web], middleware=[kit.guard.middleware()])
    )
    assert repr(found).startswith("<Coverage: NOT GATED: ")
    for part in ("agent: web_search; ", "agent > task > buyer: ", "agent > task > finder: ", "; 2 gated>"):
        assert part in repr(found)
    assert "\n" not in repr(found)
    assert {reach.agent for reach in found.reaches} == {
        "agent",
        "agent > task > buyer",
        "agent > task > finder",
    }
    with pytest.raises(AssertionError, match=r"agent > task > buyer: search, pay;"):
        assert kit.guard.coverage([task])
    assert repr(kit.guard.coverage(kit.guard.wrap(search))) == "<Coverage: 1 gated>"


def test_content_blocks_of_a_prompt_are_no_tools_of_the_provider(kit: Kit) -> None:
    blocks: list[Any] = [{"type": "image_url", "image_url": {"url": "https://shop.example/a.png"}}]
    prompt = SystemMessage(blocks)
    agent = create_agent(scripted(), kit.guard.wrap(search), system_prompt=prompt)
    assert kit.guard.coverage(agent)
    template: Any = ChatPromptTemplate.from_messages([("human", blocks)])
    chain = template | kit.guard.wrap(search)[0]
    assert kit.guard.coverage(chain)


def test_the_tools_that_a_sub_agent_was_made_of_are_judged_with_it_and_those_that_code_calls_by_themselves(
    kit: Kit,
) -> None:
    spec = {"name": "buyer", "tools": [search]}
    buyer = create_agent(scripted(), [search, pay], middleware=[kit.guard.middleware()], name="buyer")

    @tool
    def task(kind: str) -> str:
        """Ask a sub-agent, as deepagents does."""
        return str(spec) + str(buyer.invoke(GO))

    assert kit.guard.coverage(kit.guard.wrap(task))

    @tool
    def hasty(kind: str) -> str:
        """Ask a sub-agent, and call its tool past it."""
        return str(buyer.invoke(GO)) + str(pay.invoke(kind))

    found = reached(kit.guard.coverage(kit.guard.wrap(hasty)))
    assert found["agent > hasty: pay"] == "nothing"
