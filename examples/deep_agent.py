"""deepagents: a sub-agent does not have the middleware of its agent, so give it one."""

from pathlib import Path
from typing import Any

from deepagents import create_deep_agent  # pip install deepagents; tried with 0.7.32

import agentguard
from agentguard.testing import ScriptedChatModel

guard = agentguard.Guard.from_file(Path(__file__).with_name("agentguard.toml"))
orders: list[str] = []


def get_order(order_id: str) -> str:
    """Read an order."""
    orders.append(order_id)
    return f"order {order_id}: a kettle"


def agent_of(*subagents: Any) -> Any:
    # stands for a model: it has its sub-agent read an order that is outside the task
    work = {"description": "Look at order 4712", "subagent_type": "general-purpose"}
    script = [[("task", work)], [("get_order", {"order_id": "4712"})], "Looked.", "That is all."]
    model = ScriptedChatModel(script=script)
    return create_deep_agent(
        model=model, tools=[get_order], subagents=subagents, middleware=[guard.middleware()]
    )


def run(agent: Any, **config: Any) -> None:
    orders.clear()
    mandate = {"tools": ["task", "get_order"], "args": {"order_id": ["4711"]}}
    with guard.task("Show order 4711", subject="user://alice", mandate=mandate):
        agent.invoke({"messages": [("user", "What is in my order?")]}, config)


# deepagents adds a sub-agent "general-purpose" by itself, with all tools and without your middleware
unsafe = agent_of()
print(repr(guard.coverage(unsafe)))
run(unsafe)
print("nobody judged: ", orders)
run(unsafe, callbacks=guard.callbacks())  # the net below: what no gate lets through is stopped
print("with the net:  ", orders)

general = {
    "name": "general-purpose",  # in place of the one that deepagents would add
    "description": "Does a part of the work",
    "system_prompt": "Do what you are asked.",
    "middleware": [guard.middleware()],
}
safe = agent_of(general)
assert guard.coverage(safe)  # everything that it reaches is gated
run(safe)
print("each is judged:", orders)
guard.close()
