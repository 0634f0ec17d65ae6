"""A graph as a LangGraph server runs it: what a client writes into `configurable` gives it no task."""

from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph

import agentguard
from agentguard.testing import ScriptedChatModel


def get_order(order_id: str) -> str:
    """Read an order."""
    return f"order {order_id}: a kettle"


guard = agentguard.Guard.from_file(Path(__file__).with_name("agentguard.toml"))
ORDERS = {"ada": ["1"], "bob": ["2"]}  # of whom each order is, by your database
script = [[("get_order", {"order_id": "2"})], "That is all."] * 4  # stands for a model
agent = create_agent(ScriptedChatModel(script=script), [get_order], middleware=[guard.middleware()])


def support(state: MessagesState, config: RunnableConfig) -> Any:
    """Run the agent in a task of the user, whom the server's own authentication names."""
    user = config["configurable"]["langgraph_auth_user"]["identity"]  # the server writes it over a client's
    mandate = {"tools": ["get_order"], "args": {"order_id": ORDERS[user]}}
    with guard.task("Answer", subject=f"user://{user}", mandate=mandate):
        return agent.invoke(state)


graph = StateGraph(MessagesState).add_node(support).add_edge(START, "support").compile()  # in langgraph.json


def serve(user: str, configurable: dict[str, Any]) -> None:
    """Stand for the server, which has authenticated *user*, and is given *configurable* by the client."""
    merged = {**configurable, "langgraph_auth_user": {"identity": user}}
    result = graph.invoke({"messages": [("user", "What is in order 2?")]}, {"configurable": merged})
    print(f"{user}: {result['messages'][-2].text}")


if __name__ == "__main__":
    serve("bob", {})
    serve("ada", {})
    bobs = guard.task("Answer", subject="user://bob", mandate={"tools": ["get_order"]}).begin()
    for claim in ({"langgraph_auth_user": {"identity": "bob"}}, {"agentguard_task": bobs.id}):
        serve("ada", claim)
    bobs.complete()
    guard.close()
