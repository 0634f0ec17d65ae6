"""How you test what a person decides: `pytest examples/test_your_approvals.py`. No model, no person."""

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from agentguard import AccessRequest, Guard, Task, ToolPath
from agentguard.stores import MemoryStore
from agentguard.testing import RecordingAudit, RecordingBroker, ScriptedChatModel

THREAD: RunnableConfig = {"configurable": {"thread_id": "1"}}
MANDATE = {"tools": ["delete_account"], "args": {"customer": ["alice"]}}
CALL = ("delete_account", {"customer": "alice"})
deleted: list[str] = []


def delete_account(customer: str) -> str:
    """Delete a customer's account."""
    deleted.append(customer)
    return "done"


def parts(approver: Any = None) -> tuple[Guard, Any, Task]:
    """Return a guard with your own rules, and fakes for the rest; an agent; and its task."""
    deleted.clear()
    brokers = {(None, path): RecordingBroker() for path in ToolPath}
    fakes: dict[str, Any] = {"brokers": brokers, "audit": RecordingAudit(), "store": MemoryStore()}
    guard = Guard.from_file(Path(__file__).with_name("agentguard.toml"), approver=approver, **fakes)
    model, saver = ScriptedChatModel(script=[[CALL], "That is all."]), InMemorySaver()
    agent = create_agent(model, [delete_account], middleware=[guard.middleware()], checkpointer=saver)
    return guard, agent, guard.task("Close an account", subject="user://alice", mandate=MANDATE).begin()


@pytest.mark.parametrize(("approved", "ran"), [(True, ["alice"]), (False, [])])
def test_the_call_waits_for_a_person_and_runs_if_she_agrees(approved: bool, ran: list[str]) -> None:
    guard, agent, task = parts()  # without an approver, the run is interrupted
    with task.active():
        (interrupt,) = agent.invoke({"messages": [("user", "Delete my account")]}, THREAD)["__interrupt__"]
        assert deleted == []
        pending = guard.pending(interrupt.value["approval_id"])
        assert (pending["tool"], pending["arguments"]) == CALL
        guard.answer(pending, approved=approved, approver="user://bob")
        agent.invoke(Command(resume="go on"), THREAD)
    assert deleted == ran


def test_a_person_is_asked_about_exactly_this_call() -> None:
    asked: list[AccessRequest] = []
    _, agent, task = parts(approver=asked.append)  # a function that answers nothing: not approved
    with task.active():
        agent.invoke({"messages": [("user", "Delete my account")]}, THREAD)
    assert [(request.tool.name, dict(request.arguments.values)) for request in asked] == [CALL]
    assert deleted == []
