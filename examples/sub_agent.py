"""Agents that call agents: the inner agent acts for the same person, with fewer rights, in its own name."""

from pathlib import Path

from langchain.agents import create_agent

import agentguard
from agentguard.testing import ScriptedChatModel


def get_order(order_id: str) -> str:
    """Read an order."""
    return f"Order {order_id}: kettle, EUR 40"


def refund_order(order_id: str, amount: int) -> str:
    """Pay back an amount in euros."""
    return f"refunded EUR {amount} for order {order_id}"


guard = agentguard.Guard.from_file(Path(__file__).with_name("agentguard.toml"))
answer = "Order 4711 is a kettle; I was not allowed to refund it."
calls = [("get_order", {"order_id": "4711"}), ("refund_order", {"order_id": "4711", "amount": 40})]
reader = create_agent(
    ScriptedChatModel(script=[calls, answer]),
    [get_order, refund_order],
    middleware=[guard.middleware()],
)


@guard.tool(path="read")  # it uses no resource itself, so it gets no credential
def ask_reader(question: str) -> str:
    """Ask the agent that reads orders."""
    with task.delegate("agent://reader", mandate={"tools": ["get_order"]}):
        text = reader.invoke({"messages": [("user", question)]})["messages"][-1].text
    return str(text)


lead = create_agent(
    ScriptedChatModel(script=[[("ask_reader", {"question": "What is order 4711?"})], "It is a kettle."]),
    [ask_reader],
    middleware=[guard.middleware()],
)
print(guard.coverage(lead), "\n")

with guard.task("Explain order 4711", subject="user://alice", mandate={"tools": "*"}) as task:
    print(lead.invoke({"messages": [("user", "What have I bought?")]})["messages"][-1].text, "\n")

for record in task.timeline().records:
    if record["event"] == "decision":
        print(record["effect"], record["tool"], "by", record["actor"], "called by", record["chain"])
guard.close()
