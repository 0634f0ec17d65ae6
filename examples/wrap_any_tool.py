"""Guarded tools for anything that runs tools: an application's own call, a ToolNode, an executor."""

from pathlib import Path

from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.messages import AIMessage, ToolCall
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

import agentguard
from agentguard.testing import ScriptedChatModel


def get_order(order_id: str) -> str:
    """Read an order."""
    return f"Order {order_id}: kettle, EUR 40"


def refund_order(order_id: str, amount: int) -> str:
    """Pay back an amount in euros."""
    return f"refunded EUR {amount} for order {order_id}"


guard = agentguard.Guard.from_file(Path(__file__).with_name("agentguard.toml"))
tools = guard.wrap([get_order, refund_order])  # functions, tools, and runnables made tools by `as_tool`
read, refund = tools

too_much = {"order_id": "4711", "amount": 5000}
message = AIMessage("", tool_calls=[ToolCall(name="refund_order", args=too_much, id="c1")])
graph = StateGraph(MessagesState).add_node("tools", ToolNode(tools)).set_entry_point("tools").compile()

prompt = ChatPromptTemplate([("human", "{input}"), MessagesPlaceholder("agent_scratchpad")])
model = ScriptedChatModel(script=[[("refund_order", too_much)], "I may not refund so much."])
executor = AgentExecutor(agent=create_tool_calling_agent(model, tools, prompt), tools=tools)

with guard.task("Refund order 4711", subject="user://alice", mandate={"tools": "*"}) as task:
    print("plain:   ", read.invoke({"order_id": "4711"}))
    try:
        refund.invoke(too_much)
    except agentguard.Denied as denied:
        # the reason is for you and your log; str(denied) is all that a model may be told
        print("plain:   ", denied.code, "-", denied.reason, "-", denied)
    print("ToolNode:", graph.invoke({"messages": [message]})["messages"][-1].text)
    print("executor:", executor.invoke({"input": "Refund 5000 euros of order 4711"})["output"])

try:
    read.invoke({"order_id": "4711"})
except agentguard.Denied as denied:
    print("no task: ", denied.code, "-", denied)

print(f"\n{task.timeline()}")
guard.close()
