"""A streamed answer: a client reads the agent's steps as they come, and the task ends with the stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from fastapi import Body, FastAPI, Header
from fastapi.responses import StreamingResponse
from langchain.agents import create_agent

import agentguard
from agentguard.testing import ScriptedChatModel

guard = agentguard.Guard.from_file(Path(__file__).with_name("agentguard.toml"))
app = FastAPI(lifespan=guard.lifespan)
ORDERS = {"ada": ["1", "2"], "bob": ["3"]}  # of whom each order is, by your database


def get_order(order_id: str) -> str:
    """Read an order."""
    return f"order {order_id}: a kettle"


@app.post("/chat")
async def chat(order_id: str = Body(), x_user: str = Header()) -> StreamingResponse:
    """Answer the user whom your login has authenticated, as lines of JSON."""
    script = [[("get_order", {"order_id": order_id})], "That is all."]  # stands for a model
    agent = create_agent(ScriptedChatModel(script=script), [get_order], middleware=[guard.middleware()])
    mandate = {"tools": ["get_order"], "args": {"order_id": ORDERS[x_user]}}

    async def lines() -> AsyncIterator[str]:
        # the task lives as long as the stream: it also ends when the client goes away. For a synchronous
        # generator with `agent.stream`, return StreamingResponse(guard.stream(lines()))
        async with guard.task("Answer", subject=f"user://{x_user}", mandate=mandate):
            question = {"messages": [("user", f"What is in order {order_id}?")]}
            async for message, _ in agent.astream(question, stream_mode="messages"):
                if message.text:
                    yield json.dumps({message.type: message.text}) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def main() -> None:
    """Be two clients."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://chat") as client:
        for user in ("ada", "bob"):
            async with client.stream("POST", "/chat", json="1", headers={"X-User": user}) as answer:
                async for line in answer.aiter_lines():
                    print(user, line)
    await guard.aclose()


asyncio.run(main())
