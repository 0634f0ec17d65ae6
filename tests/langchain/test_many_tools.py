"""An agent with many tools is looked at once, and agents that come and go leave nothing behind."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import weakref
from collections.abc import Iterable
from threading import Barrier, Thread
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware.types import ToolCallRequest
from langchain.tools import ToolRuntime
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, StructuredTool

from agentguard.catalog import Catalog, spec_of
from agentguard.errors import ConfigurationError
from agentguard.model import ToolSpec
from agentguard.policies.cedar import CedarPolicy
from tests.conftest import GO, Kit, Mode, Rule, classified, scripted, tool_call, tool_messages

SCHEMA = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(3)}}


class CheckingRule(Rule):
    """A policy that counts how often it is checked, and against how many tools in all."""

    def __init__(self, problem: str = "") -> None:
        super().__init__()
        self.checks: list[int] = []
        self.problem = problem

    def check_tools(self, tools: Iterable[ToolSpec]) -> None:
        names = [spec.name for spec in tools]
        self.checks.append(len(names))
        if self.problem in names:
            raise ConfigurationError(f"a rule does not fit {self.problem}")


def some_tools(number: int, kind: type[StructuredTool] = StructuredTool) -> list[BaseTool]:
    def made(name: str) -> BaseTool:
        def body(**arguments: Any) -> str:
            return name

        return kind(name=name, description="T.", func=body, args_schema=SCHEMA)

    return [classified(made(f"t{n}"), path="read") for n in range(number)]


def a_call(middleware: Any, tools: list[BaseTool], place: int = 0) -> ToolMessage:
    """Have the middleware judge a call as a ToolNode does, with a list of its own for each call."""
    call = tool_call(tools[place].name, p0="x")
    runtime: Any = ToolRuntime(
        state={},
        context=None,
        config={},
        stream_writer=print,
        tool_call_id="c1",
        store=None,
        tools=list(tools),
    )
    request = ToolCallRequest(tool_call=call, tool=tools[place], state={}, runtime=runtime)
    return middleware.wrap_tool_call(request, lambda request: request.tool.invoke(call))  # type: ignore[no-any-return]  # as the handler


class Counting(StructuredTool):
    """A tool that counts how often something of any of its kind is looked at."""

    def __getattribute__(self, name: str) -> Any:
        LOOKS[0] += 1
        return super().__getattribute__(name)


LOOKS = [0]


def looks(middleware: Any, tools: list[BaseTool]) -> int:
    """Return how often a call looks at something of the agent's tools."""
    before = LOOKS[0]
    assert a_call(middleware, tools).text == "t0"
    return LOOKS[0] - before


@pytest.mark.promise("tools-known-once")
def test_a_call_costs_the_same_beside_ten_tools_and_beside_a_hundred(kit: Kit, task: Any) -> None:
    costs = list[int]()
    for number in (10, 100):
        tools, middleware = some_tools(number, Counting), kit.another().middleware()
        first = looks(middleware, tools)
        assert first > 10 * number
        costs += [looks(middleware, tools), looks(middleware, tools)]
    assert len(set(costs)) == 1


@pytest.mark.promise("tools-known-once")
def test_the_first_call_of_an_agent_costs_in_proportion_to_its_tools(kit: Kit, task: Any) -> None:
    costs = []
    for number in (10, 40):
        rule = CheckingRule()
        tools, middleware = some_tools(number, Counting), kit.another(policy=rule).middleware()
        costs.append(looks(middleware, tools))
        assert rule.checks == [0, number]
    assert costs[1] <= costs[0] * 4, costs


@pytest.mark.promise("tools-known-once")
async def test_an_agent_of_many_tools_has_its_policies_checked_once(kit: Kit, mode: Mode, task: Any) -> None:
    rule = CheckingRule()
    calls = [tool_call(f"t{n}", f"c{n}", p0="x") for n in (0, 39, 7)]
    agent: Any = create_agent(
        scripted(*calls), some_tools(40), middleware=[kit.another(policy=rule).middleware()]
    )
    done = await mode.invoke(agent, GO)
    assert [message.text for message in tool_messages(done)] == ["t0", "t39", "t7"]
    assert rule.checks == [0, 40]


@pytest.mark.promise("tools-known-once")
def test_rules_that_do_not_fit_are_checked_once_for_all_calls_until_something_changes(
    kit: Kit, task: Any
) -> None:
    rule = CheckingRule(problem="t1")
    catalog = Catalog([spec_of("t0", {"path": "read"}), spec_of("t1", {"path": "read"})])
    with pytest.raises(ConfigurationError):
        kit.another(policy=rule, catalog=catalog)
    rule.problem = ""
    guard = kit.another(policy=rule, catalog=catalog)
    tools, middleware = some_tools(2), guard.middleware()
    rule.problem, before = "t1", len(rule.checks)
    for _ in range(5):
        for place in (0, 1):
            assert a_call(middleware, tools, place).status == "error"
    assert len(rule.checks) == before + 1
    rule.problem, rule.version = "", "2"  # as after a reload
    assert a_call(middleware, tools).text == "t0"


def test_a_limit_on_an_argument_of_a_tool_that_was_not_called_yet_holds(kit: Kit) -> None:
    tools, middleware = some_tools(3), kit.guard.middleware()
    with kit.guard.task("test", subject="alice", mandate={"tools": "*", "args": {"p0": ["x"]}}):
        assert a_call(middleware, tools).text == "t0"
    assert {spec.name for spec in kit.guard.catalog} == {"t0", "t1", "t2"}


def test_many_threads_that_meet_the_same_tools_look_at_them_once(kit: Kit) -> None:
    rule = CheckingRule()
    guard, tools, barrier, texts = kit.another(policy=rule), some_tools(40), Barrier(8), list[str]()
    middleware = guard.middleware()

    def use(place: int) -> None:
        barrier.wait()
        with guard.task("test", subject="alice", mandate={"tools": "*"}):
            texts.append(a_call(middleware, tools, place).text)

    threads = [Thread(target=use, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts) == [f"t{n}" for n in range(8)]
    assert rule.checks == [0, 40]


# --- what lives, and for how long


class User:
    """What the tools of a request hold."""

    name = "alice"


def a_tool_of(user: User) -> BaseTool:
    def whoami(p0: str = "") -> str:
        """Say who asks."""
        return user.name

    return classified(StructuredTool.from_function(whoami), path="read")


@pytest.mark.promise("tools-known-once")
@pytest.mark.parametrize("by", ["wrap", "middleware", "own middleware"])
async def test_agents_that_are_made_for_a_request_leave_nothing_behind(
    by: str, kit: Kit, mode: Mode, task: Any
) -> None:
    shared, users = kit.guard.middleware(), list[weakref.ref[User]]()
    for _ in range(4):
        user = User()
        users.append(weakref.ref(user))
        tool = a_tool_of(user)
        middleware = [] if by == "wrap" else [shared if by == "middleware" else kit.guard.middleware()]
        tools: list[Any] = kit.guard.wrap(tool) if by == "wrap" else [tool]
        agent: Any = create_agent(scripted(tool_call("whoami")), tools, middleware=middleware)
        done = await mode.invoke(agent, GO)
        assert tool_messages(done)[0].text == "alice"
        del user, tool, tools, agent, middleware, done
    for _ in range(200):  # the guard's thread lets go of the last call in its own time
        gc.collect()
        if not any(user() for user in users):
            break
        await asyncio.sleep(0.01)
    assert [user() for user in users] == [None] * 4
    assert kit.guard._gates._present == {}
    decision = await mode.call(kit.guard, "decide", "whoami", {"p1": "x"})
    assert decision.reason.startswith("invalid_arguments") or decision.permitted


def test_a_copy_of_a_tool_is_another_tool(kit: Kit, task: Any) -> None:
    gates = kit.guard._gates
    tool = a_tool_of(User())
    form = gates.at_first_sight(tool)
    assert gates.at_first_sight(tool) is form
    for other in (copy.copy(tool), tool.model_copy(), copy.deepcopy(tool)):
        assert gates.at_first_sight(other) is not form
        assert gates.at_first_sight(other) is gates.at_first_sight(other)

    def evil(p0: str = "") -> str:
        return "evil"

    with pytest.raises(ConfigurationError, match="two tools are named"):
        gates.at_first_sight(tool.model_copy(update={"func": evil}))
    assert tool == tool.model_copy()
    assert "agentguard_forms" not in repr(tool) + str(tool.model_dump())


class Plain(BaseTool):
    name: str = "plain"
    description: str = "Plain."

    def _run(self, p0: str = "") -> str:
        return "ok"


def test_a_tool_that_can_be_pickled_can_be_so_after_it_was_called(kit: Kit, task: Any) -> None:
    tool = classified(Plain(), path="read")
    kit.guard._gates.at_first_sight(tool)
    tool.metadata = None
    again = pickle.loads(pickle.dumps(tool))  # noqa: S301  of this test
    assert again.invoke({"p0": "x"}) == "ok"
    assert kit.another()._gates.at_first_sight(again) is not None


def test_each_guard_has_a_form_of_its_own_that_ends_with_it(kit: Kit, task: Any) -> None:
    tool, one, other = a_tool_of(User()), kit.another(), kit.another()
    forms = [guard._gates.at_first_sight(tool) for guard in (one, other)]
    assert forms[0] is not forms[1]
    ended = weakref.ref(one._gates)
    del one, forms
    gc.collect()
    assert ended() is None
    assert other._gates.at_first_sight(tool) is other._gates.at_first_sight(tool)


def test_with_cedar_an_agent_of_many_tools_is_known_before_its_first_call(kit: Kit) -> None:
    guard = kit.another(policy=CedarPolicy.from_text('@id("all") permit (principal, action, resource);'))
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        tools = some_tools(30)
        assert a_call(guard.middleware(), tools, 29).text == "t29"
