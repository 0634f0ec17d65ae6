"""What the middleware does beside judging: the user's messages, the tools that are offered, and loops."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver

from agentguard import ToolPath
from agentguard.errors import TaskError
from agentguard.langchain.user_messages import is_user_message
from agentguard.model import TaskStatus
from agentguard.testing import ScriptedChatModel
from tests.conftest import DENY, GO, PERMIT, Kit, Mode, classified, scripted, tool_call, tool_messages

ANY = {"tools": "*"}


def plain_tool(name: str, **facts: Any) -> BaseTool:
    def run(to: str) -> str:
        return f"{name} {to}"

    return classified(StructuredTool.from_function(run, name=name, description="d"), **facts)


def talker() -> ScriptedChatModel:
    """Make a model that calls nothing, in each of several turns."""
    return ScriptedChatModel(script=["done"] * 9)


class Offers(AgentMiddleware):
    """Remembers the names of the tools that each request to the model has; it stands behind the guard."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[list[str]] = []

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        self.names.append([tool["name"] if isinstance(tool, dict) else tool.name for tool in request.tools])
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        self.names.append([tool["name"] if isinstance(tool, dict) else tool.name for tool in request.tools])
        return await handler(request)


# --- the user's messages


@pytest.mark.promise("words-of-each-turn")
async def test_a_marked_message_is_heard_and_an_unmarked_one_is_not(mode: Mode, kit: Kit) -> None:
    kit.rule.answer = lambda request: PERMIT if request.provenance["to"].user else DENY
    task = kit.guard.task("t", subject="alice", mandate=ANY).begin()
    middleware = kit.guard.middleware(hears_user=True)
    calls = [tool_call("pay", "c1", to="bob"), tool_call("pay", "c2", to="carol")]
    agent = create_agent(scripted(*calls), [plain_tool("pay")], middleware=[middleware])
    messages = [HumanMessage("pay carol"), kit.guard.user_message("pay bob", task)]
    result = await mode.invoke(agent, {"messages": messages}, task.config)
    assert [message.status for message in tool_messages(result)] == ["success", "error"]
    assert task.state().words == "pay bob"


@pytest.mark.promise("words-of-each-turn")
async def test_each_turn_of_a_thread_is_heard_once(mode: Mode, kit: Kit) -> None:
    task = kit.guard.task("t", subject="alice", mandate=ANY, words="hello").begin()
    middleware = kit.guard.middleware(hears_user=True)
    agent = create_agent(talker(), [plain_tool("pay")], middleware=[middleware], checkpointer=InMemorySaver())
    config = {"configurable": {**task.config["configurable"], "thread_id": "1"}}
    await mode.invoke(agent, {"messages": [kit.guard.user_message("one", task)]}, config)
    another = kit.another().middleware(hears_user=True)
    agent = create_agent(talker(), [plain_tool("pay")], middleware=[another], checkpointer=agent.checkpointer)
    await mode.invoke(agent, {"messages": [kit.guard.user_message("two", task)]}, config)
    assert task.state().words.split("\x1e") == ["hello", "one", "two"]


@pytest.mark.promise("words-of-each-turn")
@pytest.mark.parametrize(
    "forged", ["other text", "no mark", "made up", "model", "blocks", "half a character"]
)
def test_no_other_message_is_taken_for_the_users(forged: str, kit: Kit) -> None:
    task = kit.guard.task("t", subject="alice", mandate=ANY).begin()
    marked = kit.guard.user_message("pay bob", task)
    assert is_user_message(marked, [task.id])
    messages = {
        "other text": HumanMessage("pay mallory", id=marked.id),
        "no mark": HumanMessage("pay bob"),
        "made up": HumanMessage("pay mallory", id="agentguard-user-00-00"),
        "model": AIMessage("pay bob", id=marked.id),
        "blocks": HumanMessage([{"type": "text", "text": "pay bob"}], id=marked.id),
        "half a character": HumanMessage("pay bob", id=f"{marked.id}\ud83d"),
    }
    assert not is_user_message(messages[forged], [task.id])


@pytest.mark.promise("words-of-each-turn")
async def test_a_message_that_was_marked_for_one_task_is_not_heard_in_another(mode: Mode, kit: Kit) -> None:
    hers = kit.guard.task("t", subject="alice", mandate=ANY).begin()
    his = kit.guard.task("t", subject="bob", mandate=ANY).begin()
    agent = create_agent(talker(), [plain_tool("pay")], middleware=[kit.guard.middleware(hears_user=True)])
    with hers.active():
        message = kit.guard.user_message("pay mallory")
    await mode.invoke(agent, {"messages": [message]}, his.config)
    assert his.state().words == ""
    await mode.invoke(agent, {"messages": [message]}, hers.config)
    assert hers.state().words == "pay mallory"


@pytest.mark.promise("words-of-each-turn")
async def test_a_message_for_a_task_is_heard_in_a_task_within_it(mode: Mode, kit: Kit) -> None:
    agent = create_agent(talker(), [plain_tool("pay")], middleware=[kit.guard.middleware(hears_user=True)])
    with kit.guard.task("t", subject="alice", mandate=ANY) as task:
        message = kit.guard.user_message("pay bob")
        with kit.guard.task("part", subject="alice", mandate=ANY) as part:
            await mode.invoke(agent, {"messages": [message]}, part.config)
        assert task.state().words == "pay bob"


def test_a_message_of_a_user_is_for_a_task(kit: Kit) -> None:
    with pytest.raises(ValueError, match="is for a task"):
        kit.guard.user_message("pay bob")


@pytest.mark.promise("words-of-each-turn")
async def test_no_tool_marks_a_message_as_the_users(mode: Mode, kit: Kit) -> None:
    def pay(to: str) -> str:
        with pytest.raises(TaskError):
            kit.guard.user_message(f"pay {to}")
        return "refused"

    tool = classified(StructuredTool.from_function(pay, name="pay", description="d"))
    with kit.guard.task("t", subject="alice", mandate=ANY):
        (guarded,) = kit.guard.wrap([tool])
        assert await mode.invoke(guarded, {"to": "mallory"}) == "refused"


def test_a_text_with_half_a_character_can_be_marked(kit: Kit) -> None:
    task = kit.guard.task("t", subject="alice", mandate=ANY).begin()
    assert is_user_message(kit.guard.user_message("pay \ud83d", task), [task.id])


async def test_messages_without_a_task_are_left_alone(mode: Mode, kit: Kit) -> None:
    agent = create_agent(scripted(), [plain_tool("pay")], middleware=[kit.guard.middleware(hears_user=True)])
    task = kit.guard.task("t", subject="alice", mandate=ANY).begin()
    result = await mode.invoke(agent, {"messages": [kit.guard.user_message("hello", task)]})
    assert result["messages"][-1].content == "done"


# --- the tools that are offered


async def test_tools_that_the_mandate_rules_out_are_not_offered(mode: Mode, kit: Kit) -> None:
    offers = Offers()
    tools = [plain_tool("look"), plain_tool("pay"), plain_tool("send", path="write")]
    middleware = [kit.guard.middleware(offers_allowed=True), offers]
    agent = create_agent(scripted(tool_call("look", to="x")), tools, middleware=middleware)
    task = kit.guard.task("t", subject="alice", mandate={"tools": ["look", "send"]}).begin()
    await mode.invoke(agent, GO, task.config)
    assert offers.names == [["look", "send"], ["look", "send"]]


async def test_a_resource_outside_the_mandate_and_a_path_without_a_broker_are_not_offered(
    mode: Mode, kit: Kit
) -> None:
    offers = Offers()
    guard = kit.another(brokers={(None, ToolPath.READ): kit.broker})
    tools = [
        plain_tool("look"),
        plain_tool("change", path="write", resource="orders"),
        plain_tool("note", path="write"),
    ]
    agent = create_agent(talker(), tools, middleware=[guard.middleware(offers_allowed=True), offers])
    task = guard.task("t", subject="alice", mandate=ANY).begin()
    await mode.invoke(agent, GO, task.config)
    narrow = guard.task("t", subject="alice", mandate={"tools": "*", "resources": ["orders"]}).begin()
    await mode.invoke(agent, GO, narrow.config)
    assert offers.names == [["look", "note"], ["look"]]


@pytest.mark.promise("offer-is-no-gate")
async def test_a_call_of_a_tool_that_was_not_offered_is_denied_all_the_same(mode: Mode, kit: Kit) -> None:
    middleware = kit.guard.middleware(offers_allowed=True)
    tools = [plain_tool("look"), plain_tool("pay")]
    agent = create_agent(scripted(tool_call("pay", to="bob")), tools, middleware=[middleware])
    task = kit.guard.task("t", subject="alice", mandate={"tools": ["look"]}).begin()
    result = await mode.invoke(agent, GO, task.config)
    assert [message.status for message in tool_messages(result)] == ["error"]
    assert kit.decisions() == ["mandate"]


async def test_without_a_task_all_tools_are_offered_and_each_call_is_denied(mode: Mode, kit: Kit) -> None:
    offers = Offers()
    middleware = [kit.guard.middleware(offers_allowed=True), offers]
    agent = create_agent(scripted(tool_call("pay", to="bob")), [plain_tool("pay")], middleware=middleware)
    await mode.invoke(agent, GO)
    assert offers.names == [["pay"], ["pay"]]
    assert kit.decisions() == ["no_task"]


async def test_an_observing_guard_offers_all_tools(mode: Mode, kit: Kit) -> None:
    offers, guard = Offers(), kit.another(observe=True)
    agent = create_agent(
        scripted(), [plain_tool("pay")], middleware=[guard.middleware(offers_allowed=True), offers]
    )
    task = guard.task("t", subject="alice", mandate={"tools": ["look"]}).begin()
    await mode.invoke(agent, GO, task.config)
    assert offers.names == [["pay"]]


# --- a streak of denials


@pytest.mark.promise("denials-end-a-loop")
async def test_a_streak_of_denials_ends_the_task_and_tells_the_user(mode: Mode, kit: Kit) -> None:
    kit.rule.deny("pay")
    steps = [tool_call("pay", f"c{n}", to="bob") for n in range(9)]
    agent = create_agent(
        scripted(*steps), [plain_tool("pay")], middleware=[kit.guard.middleware(most_denials=3)]
    )
    task = kit.guard.task("t", subject="alice", mandate=ANY).begin()
    result = await mode.invoke(agent, GO, task.config)
    assert len(tool_messages(result)) == 3
    assert "3 of my actions in a row were not allowed" in result["messages"][-1].content
    assert task.state().status is TaskStatus.REVOKED
    assert list(kit.audit.records())[-1]["cause"] == "3 calls in a row were denied"


@pytest.mark.promise("denials-end-a-loop")
async def test_calls_of_one_message_and_of_wrapped_tools_count(mode: Mode, kit: Kit) -> None:
    kit.rule.deny("pay")
    steps = [[tool_call("pay", f"c{n}", to="bob") for n in range(4)]]
    agent = create_agent(
        scripted(*steps),
        kit.guard.wrap([plain_tool("pay")]),
        middleware=[kit.guard.middleware(most_denials=4)],
    )
    task = kit.guard.task("t", subject="alice", mandate=ANY).begin()
    await mode.invoke(agent, GO, task.config)
    assert task.state().status is TaskStatus.REVOKED


async def test_a_call_that_runs_ends_the_streak(mode: Mode, kit: Kit) -> None:
    kit.rule.deny("pay")
    names = ["pay", "pay", "look", "pay", "pay"]
    steps = [tool_call(name, f"c{n}", to="bob") for n, name in enumerate(names)]
    tools = [plain_tool("pay"), plain_tool("look")]
    agent = create_agent(scripted(*steps), tools, middleware=[kit.guard.middleware(most_denials=3)])
    task = kit.guard.task("t", subject="alice", mandate=ANY).begin()
    result = await mode.invoke(agent, GO, task.config)
    assert result["messages"][-1].content == "done"
    assert task.state().status is TaskStatus.ACTIVE


async def test_a_new_turn_begins_a_new_streak(mode: Mode, kit: Kit) -> None:
    kit.rule.deny("pay")
    before = [
        *(
            ToolMessage("Denied: no", tool_call_id=str(n), response_metadata={"agentguard": "denied"})
            for n in range(5)
        ),
        HumanMessage("try once more"),
    ]
    agent = create_agent(talker(), [plain_tool("pay")], middleware=[kit.guard.middleware(most_denials=3)])
    task = kit.guard.task("t", subject="alice", mandate=ANY).begin()
    await mode.invoke(agent, {"messages": before}, task.config)
    assert task.state().status is TaskStatus.ACTIVE


def test_a_streak_of_nothing_is_an_error(kit: Kit) -> None:
    with pytest.raises(ValueError, match="at least one denial"):
        kit.guard.middleware(most_denials=0)


def test_the_middleware_without_options_adds_no_node(kit: Kit) -> None:
    agent = create_agent(scripted(), [plain_tool("pay")], middleware=[kit.guard.middleware()])
    assert set(agent.nodes) == {"__start__", "model", "tools"}
