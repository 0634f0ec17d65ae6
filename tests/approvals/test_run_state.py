"""What a tool is given from the state of its graph is shown to the person, and a yes is for it."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import aiosqlite
import pytest
from langchain.agents import AgentState, create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.managed import RemainingSteps
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel

from agentguard.enforcement.run_state import FIELD, FIELDS, RunState
from tests.approvals.bank import THREAD, asks_a_person
from tests.conftest import Kit, Mode, classified, scripted, tool_call, tool_messages

BY = pytest.mark.parametrize("by", ["wrap", "middleware"])


class Account(BaseModel):
    owner: str
    limits: tuple[int, ...] = (1, 2)


@dataclasses.dataclass
class Note:
    text: str
    at: datetime


class Bank(AgentState[Any]):
    to: str
    account: Account
    more: Any


STATE: dict[str, Any] = {
    "to": "alice",
    "account": Account(owner="alice"),
    "more": {"set": {"b", "a"}, "note": Note("x", datetime(2026, 1, 1, tzinfo=UTC)), "tuple": (1, [2])},
}
Make = Callable[[list[Any]], BaseTool]


def of_a_field(paid: list[Any]) -> BaseTool:
    @tool
    def pay(amount: int, to: Annotated[str, InjectedState("to")]) -> str:
        """Pay."""
        paid.append((to, amount))
        return "ok"

    return pay


def of_a_model(paid: list[Any]) -> BaseTool:
    @tool
    def pay(amount: int, account: Annotated[Any, InjectedState("account")]) -> str:
        """Pay."""
        paid.append((account.owner, amount))
        return "ok"

    return pay


def of_the_whole(paid: list[Any]) -> BaseTool:
    @tool
    def pay(amount: int, state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Pay."""
        paid.append((state["to"], amount))
        return "ok"

    return pay


def of_the_runtime(paid: list[Any]) -> BaseTool:
    @tool
    def pay(amount: int, runtime: ToolRuntime) -> str:
        """Pay."""
        paid.append((runtime.state["account"].owner, amount))
        return "ok"

    return pay


def of_a_message(paid: list[Any]) -> BaseTool:
    @tool
    def pay(amount: int, messages: Annotated[list[Any], InjectedState("messages")]) -> str:
        """Pay."""
        paid.append((messages[0].text.partition(" ")[2], amount))
        return "ok"

    return pay


MAKES = pytest.mark.parametrize(
    "make",
    [of_a_field, of_a_model, of_the_whole, of_the_runtime, of_a_message],
    ids=lambda make: str(make.__name__),
)


def an_agent(kit: Kit, pay: BaseTool, by: str, saver: Any) -> Any:
    kit.rule.answer = asks_a_person
    tools, middleware = [classified(pay, path="write")], [kit.guard.middleware()]
    if by == "wrap":
        tools, middleware = list(kit.guard.wrap(tools)), []
    model = scripted(tool_call("pay", "c1", amount=5))
    return create_agent(model, tools, middleware=middleware, checkpointer=saver, state_schema=Bank)


def swapped(value: Any) -> Any:
    """Return a value with mallory in place of alice."""
    if isinstance(value, str):
        return value.replace("alice", "mallory")
    if isinstance(value, dict):
        return {name: swapped(member) for name, member in value.items()}
    if isinstance(value, list):
        return [swapped(item) for item in value]
    if isinstance(value, Send):
        return Send(value.node, swapped(value.arg))
    field = next((name for name in ("owner", "content") if hasattr(value, name)), None)
    return value.model_copy(update={field: swapped(getattr(value, field))}) if field else value


def edited(saver: InMemorySaver) -> None:
    """Write mallory in place of alice, wherever the checkpoint has her."""
    read, write = saver.serde.loads_typed, saver.serde.dumps_typed
    for key, (kind, data) in list(saver.blobs.items()):
        if kind != "empty":
            saver.blobs[key] = write(swapped(read((kind, data))))
    for writes in saver.writes.values():
        for place, entry in list(writes.items()):
            value: Any = write(swapped(read(entry[2])))
            writes[place] = (entry[0], entry[1], value, *entry[3:])


HELLO: dict[str, Any] = {"messages": [("user", "pay alice")], **STATE}


@pytest.mark.promise("state-is-approved")
@BY
@MAKES
async def test_a_yes_does_not_hold_for_a_state_that_was_edited_in_the_checkpoint(
    by: str, make: Make, mode: Mode, kit: Kit, task: Any
) -> None:
    saver = InMemorySaver()
    agent = an_agent(kit, make(paid := list[Any]()), by, saver)
    (asked,) = (await mode.invoke(agent, HELLO, THREAD))["__interrupt__"]
    assert "alice" in str(asked.value["state"])
    value = await mode.call(kit.guard, "answer", asked.value, approved=True, approver="user:carol")
    edited(saver)
    state = await mode.invoke(agent, Command(resume={asked.id: value}), THREAD)
    assert paid == []
    (again,) = state["__interrupt__"]
    assert "mallory" in str(again.value["state"])
    assert again.value["approval_id"] != asked.value["approval_id"]
    assert again.value["arguments"] == asked.value["arguments"] == {"amount": 5}


@pytest.mark.promise("state-is-approved")
@BY
@MAKES
@pytest.mark.parametrize("saving", ["memory", "sqlite"])
async def test_control_a_yes_holds_for_the_state_that_the_checkpoint_gives_back(
    by: str, make: Make, saving: str, mode: Mode, kit: Kit, task: Any, tmp_path: Any
) -> None:
    file, saver = tmp_path / "c.db", InMemorySaver()
    close: Any = None
    if saving == "sqlite" and mode.asynchronous:
        connection = await aiosqlite.connect(file)
        saver, close = AsyncSqliteSaver(connection), connection.close  # type: ignore[assignment]  # either saver
    elif saving == "sqlite":
        plain = sqlite3.connect(file, check_same_thread=False)
        saver = SqliteSaver(plain)  # type: ignore[assignment]  # either saver
    paid = list[Any]()
    (asked,) = (await mode.invoke(an_agent(kit, make(paid), by, saver), HELLO, THREAD))["__interrupt__"]
    value = await mode.call(kit.guard, "answer", asked.value, approved=True, approver="user:carol")
    other = an_agent(kit, make(paid), by, saver)  # as in a process that resumes the run
    await mode.invoke(other, Command(resume={asked.id: value}), THREAD)
    assert paid == [("alice", 5)]
    assert task.state().questions == 1
    if close is not None:
        await close()


async def test_a_tool_that_interrupts_itself_keeps_its_state_and_its_yes(
    mode: Mode, kit: Kit, task: Any
) -> None:
    ran = list[Any]()

    @tool
    def pay(amount: int, runtime: ToolRuntime) -> str:
        """Pay."""
        ran.append((runtime.state["to"], interrupt("color?")))
        return "ok"

    agent = an_agent(kit, pay, "middleware", InMemorySaver())
    (asked,) = (await mode.invoke(agent, HELLO, THREAD))["__interrupt__"]
    value = await mode.call(kit.guard, "answer", asked.value, approved=True, approver="user:carol")
    (own,) = (await mode.invoke(agent, Command(resume={asked.id: value}), THREAD))["__interrupt__"]
    await mode.invoke(agent, Command(resume={own.id: "red"}), THREAD)
    assert ran == [("alice", "red")]


class Steps(MessagesState):
    to: str
    remaining_steps: RemainingSteps


async def test_what_langgraph_counts_anew_in_each_run_loses_no_yes(mode: Mode, kit: Kit, task: Any) -> None:
    kit.rule.answer = asks_a_person
    pay = kit.guard.wrap([classified(of_the_whole(paid := list[Any]()), path="write")])[0]
    builder: Any = StateGraph(Steps)
    builder.add_node("before", lambda _state: {"to": "alice"})
    builder.add_node("tools", ToolNode([pay]))
    builder.set_entry_point("before")
    builder.add_edge("before", "tools")
    graph = builder.compile(checkpointer=InMemorySaver())
    call = AIMessage("", tool_calls=[tool_call("pay", "c1", amount=5)])
    (asked,) = (await mode.invoke(graph, {"messages": [call]}, THREAD))["__interrupt__"]
    value = await mode.call(kit.guard, "answer", asked.value, approved=True, approver="user:carol")
    state = await mode.invoke(graph, Command(resume={asked.id: value}), THREAD)
    assert paid == [("alice", 5)], state
    assert "remaining_steps" not in asked.value["state"]


async def test_a_tool_that_is_given_nothing_of_the_state_shows_none(mode: Mode, kit: Kit, task: Any) -> None:
    @tool
    def pay(amount: int) -> str:
        """Pay."""
        return "ok"

    agent = an_agent(kit, pay, "wrap", InMemorySaver())
    (asked,) = (await mode.invoke(agent, HELLO, THREAD))["__interrupt__"]
    assert "state" not in asked.value
    value = await mode.call(kit.guard, "answer", asked.value, approved=True, approver="user:carol")
    edited(agent.checkpointer)
    state = await mode.invoke(agent, Command(resume={asked.id: value}), THREAD)
    assert tool_messages(state)[0].text == "ok"


def test_a_large_field_is_shown_by_its_digest_and_bound_as_a_whole() -> None:
    one, other = ({"text": "a" * 9_999 + end, "to": "bob"} for end in ("x", "y"))
    states = RunState.of(one), RunState.of(other)
    assert states[0].display["to"] == "bob"
    assert "10000 bytes, SHA-256 " in str(states[0].display["text"])
    assert len(str(states[0].display["text"])) < 100
    assert states[0].digest != states[1].digest
    assert states[0].display != states[1].display
    many = RunState.of({f"f{n}": "a" * (FIELD - 10) for n in range(20)})
    texts = [str(text) for text in many.display.values()]
    assert len(str(dict(many.display))) < FIELDS + 20 * 100
    assert sum("SHA-256" in text for text in texts) == 20 - FIELDS // FIELD


class Handle:
    pass


def test_what_has_no_form_in_json_is_said_not_to_be_covered() -> None:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    shown = RunState.of({"handle": Handle(), "deep": deep, "nan": float("nan"), "half": "\ud800"}).display
    assert "not covered: tests.approvals.test_run_state.Handle" in str(shown["handle"])
    assert "not covered: too deep" in str(shown["deep"])
    assert RunState.of({"handle": Handle()}) == RunState.of({"handle": Handle()})
