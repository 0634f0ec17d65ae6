"""A web service that ends in order: on SIGTERM no call begins, those that run end in time or are ended."""

import asyncio
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from langchain.agents import create_agent
from langchain_core.tools import tool

import agentguard
from agentguard.testing import ScriptedChatModel

guard = agentguard.Guard.from_file(Path(__file__).with_name("agentguard.toml"))
# the guard is closed when the server has shut down; of a lifespan of your own: `async with guard: yield`
app = FastAPI(lifespan=guard.lifespan)


@app.get("/orders/{order_id}")
async def answer(order_id: str, seconds: float = 0.0) -> str:
    """Let an agent answer, which is made for this request."""

    @tool
    async def get_order(order_id: str) -> str:
        """Read an order."""
        # in a real tool: httpx.AsyncClient(auth=agentguard.auth("orders"))
        agentguard.credential("orders").reveal()
        print("reading", flush=True)
        await asyncio.sleep(seconds)
        return f"Order {order_id}: kettle, EUR 40."

    # stands for a model
    script = [[("get_order", {"order_id": order_id})], f"I have read order {order_id}."]
    agent = create_agent(ScriptedChatModel(script=script), [get_order], middleware=[guard.middleware()])
    async with guard.task("Answer", subject="user://alice", mandate={"tools": ["get_order"]}):
        result = await agent.ainvoke({"messages": [("user", f"What is order {order_id}?")]})
    return str(result["messages"][-1].text)


if __name__ == "__main__":
    # a request has 2 seconds to end after SIGTERM; then uvicorn cancels it, and closes the guard
    uvicorn.run(app, port=int(sys.argv[1]), timeout_graceful_shutdown=2, log_level="warning")
