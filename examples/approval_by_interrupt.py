"""A call that needs a person: the run waits in its checkpoint, and the answer goes to the guard's store."""

from pathlib import Path

from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

import agentguard
from agentguard.testing import ScriptedChatModel


def delete_account(customer: str) -> str:
    """Delete a customer's account."""
    return f"deleted account {customer}"


model = ScriptedChatModel(script=[[("delete_account", {"customer": "alice"})], "The account is gone."])
guard = agentguard.Guard.from_file(Path(__file__).with_name("agentguard.toml"))
agent = create_agent(model, [delete_account], middleware=[guard.middleware()], checkpointer=InMemorySaver())
thread: RunnableConfig = {"configurable": {"thread_id": "1"}}

# not `with task`, which would complete the task: it outlives this request, as the run does
mandate = {"tools": ["delete_account"], "args": {"customer": ["alice"]}}
task = guard.task("Close the account of alice", subject="user://alice", mandate=mandate)
with task.active():
    waiting = agent.invoke({"messages": [("user", "Please delete my account")]}, thread)
(interrupt,) = waiting["__interrupt__"]
approval_id = interrupt.value["approval_id"]

# elsewhere, on the page where bob has authenticated: it shows him what the guard's store holds, and
# not what the checkpoint says, which somebody may have edited
pending = guard.pending(approval_id)
print("asked:   ", pending["tool"], pending["arguments"], "for", repr(pending["purpose"]))

# the guard trusts its store, and not the value to resume with
answer = guard.answer(pending, approved=True, approver="user://bob", reason="alice asked in writing")
print("answered:", answer["answered"])

with guard.find(task.id).active():
    result = agent.invoke(Command(resume={interrupt.id: answer}), thread)
task.complete()
print("model:   ", result["messages"][-1].text)

try:
    guard.answer(pending, approved=True, approver="user://mallory")
except agentguard.AgentGuardError as error:
    print("again:   ", error)

print(f"\n{task.timeline()}")
guard.close()
