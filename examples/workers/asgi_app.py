"""An ASGI application for several workers: ``gunicorn -c asgi.conf.py asgi_app:app``."""

import os
from pathlib import Path

import httpx
from fastapi import FastAPI, Header
from langchain.agents import create_agent
from langchain_core.tools import tool

import agentguard
from agentguard.testing import ScriptedChatModel

guard = agentguard.Guard.from_file(Path(__file__).parents[1] / "agentguard.toml")
app = FastAPI(lifespan=guard.lifespan)  # each worker closes its guard when it ends
shop = httpx.AsyncClient(base_url="http://127.0.0.1:8000", auth=agentguard.auth("orders"), timeout=60)


@tool
async def get_order(order_id: str) -> str:
    """Read an order."""
    return (await shop.get(f"/orders/{order_id}")).text


@app.get("/orders/{order_id}")
async def answer(order_id: str, x_user: str = Header()) -> dict[str, object]:
    """Answer as an agent of this request, for the user whom your login has authenticated."""
    # stands for a model
    model = ScriptedChatModel(script=[[("get_order", {"order_id": order_id})], "That is all."])
    agent = create_agent(model, [get_order], middleware=[guard.middleware()])
    # the orders that your database says are hers
    mandate = {"tools": ["get_order"], "args": {"order_id": [f"{x_user}-{n}" for n in (1, 2, 3)]}}
    async with guard.task("Show my orders", subject=f"user://{x_user}", mandate=mandate):
        result = await agent.ainvoke({"messages": [("user", f"What is in order {order_id}?")]})
    return {"pid": os.getpid(), "answer": result["messages"][-2].text}
