"""A streamed answer that waits for a person, and another stream goes on (uvicorn approval_over_http:app)."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

import agentguard
from agentguard.testing import ScriptedChatModel


def delete_account(customer: str) -> str:
    """Delete a customer's account."""
    return f"deleted account {customer}"


guard = agentguard.Guard.from_file(Path(__file__).with_name("agentguard.toml"))
model = ScriptedChatModel(script=[[("delete_account", {"customer": "ada"})], "The account is gone."])
agent = create_agent(model, [delete_account], middleware=[guard.middleware()], checkpointer=InMemorySaver())
app = FastAPI(lifespan=guard.lifespan)
conversations: dict[str, str] = {}  # each user's task; in production in your database, as the checkpoints are


async def steps(user: str, start: Any) -> AsyncIterator[str]:
    task = guard.find(conversations[user])  # of the user, so no client says which task it is
    async with task.aactive():  # not `async with task`, which would end it with this stream
        async for step in agent.astream(start, {"configurable": {"thread_id": user}}, stream_mode="values"):
            yield json.dumps([type(step["messages"][-1]).__name__, step["messages"][-1].text]) + "\n"
            for interrupt in step.get("__interrupt__", ()):
                yield json.dumps(["approval", interrupt.value["approval_id"]]) + "\n"
                return
    await task.acomplete()


@app.post("/chat")
async def chat(x_user: str = Header()) -> StreamingResponse:
    mandate = {"tools": ["delete_account"], "args": {"customer": [x_user]}}
    task = await guard.task("Close an account", subject=f"user://{x_user}", mandate=mandate).abegin()
    conversations[x_user] = task.id
    return StreamingResponse(steps(x_user, {"messages": [("user", "Please delete my account")]}))


@app.post("/chat/resume")
async def resume(x_user: str = Header()) -> StreamingResponse:
    # the value to resume with says nothing: the guard reads the person's answer in its own store
    return StreamingResponse(steps(x_user, Command(resume="go on")))


@app.post("/approvals/{approval_id}")
async def approve(approval_id: str, x_user: str = Header()) -> None:
    pending = await guard.apending(approval_id)  # what the page shows: the tool, its arguments, the purpose
    await guard.aanswer(pending, approved=True, approver=f"user://{x_user}")
