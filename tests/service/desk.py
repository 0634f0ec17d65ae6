"""A web service as a team writes it: one guard, and an agent with tools of its own for each request.

``uvicorn tests.service.desk:app --workers 2`` serves it; DESK_CONFIG names the guard's configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Generator
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool, tool
from langgraph.graph.state import CompiledStateGraph

import agentguard
from agentguard import Guard
from agentguard.jose import unverified_claims
from agentguard.testing import ScriptedChatModel

app = FastAPI()
guard = Guard.from_file(os.environ["DESK_CONFIG"])


def answer_of_the_api(request: httpx.Request) -> httpx.Response:
    """Answer as the API of the orders would: it says for whom and in which task the token is."""
    claims = unverified_claims(request.headers["Authorization"].partition(" ")[2]) or {}
    return httpx.Response(200, json={"subject": claims["sub"], "task": claims["txn"]})


api = httpx.Client(transport=httpx.MockTransport(answer_of_the_api), auth=agentguard.auth("orders"))


def tools_for(user: str) -> list[BaseTool]:
    """Return the tools of one request: closures over its user."""

    @tool
    def get_order(order_id: str) -> str:
        """Read an order."""
        answer = api.get(f"https://orders.example/orders/{order_id}").json()
        return json.dumps({"user": user, "order": order_id, **answer})

    @tool
    def refund_order(order_id: str, amount: int) -> str:
        """Refund an order."""
        return json.dumps({"user": user, "order": order_id, "refunded": amount})

    return [get_order, refund_order]


def agent_for(user: str, order: str) -> CompiledStateGraph[Any, Any, Any, Any]:
    script: list[list[tuple[str, dict[str, Any]]] | str | AIMessage] = [
        [("get_order", {"order_id": f"{user}-1"})],
        [("get_order", {"order_id": order}), ("refund_order", {"order_id": order, "amount": 5})],
        "That is all.",
    ]
    model = ScriptedChatModel(script=script)
    return create_agent(model, tools_for(user), middleware=[guard.middleware()])


def task_of(user: str) -> Any:
    mandate = {"tools": ["get_order"], "args": {"order_id": [f"{user}-1", f"{user}-2"]}}
    return guard.task("Look after my orders", subject=f"user:{user}", mandate=mandate)


def line(update: dict[str, Any]) -> str:
    """Return one step of the agent as a line of JSON: the texts of its messages."""
    texts = [message.text for state in update.values() for message in (state or {}).get("messages", [])]
    return json.dumps(texts) + "\n"


@app.get("/sync/{user}/{order}")
def ask(user: str, order: str) -> StreamingResponse:
    def steps() -> Generator[str, None, None]:
        with task_of(user):
            for update in agent_for(user, order).stream({"messages": [("user", "Look")]}):
                yield line(update)

    return StreamingResponse(guard.stream(steps()))


@app.get("/async/{user}/{order}")
async def ask_async(user: str, order: str) -> StreamingResponse:
    async def steps() -> AsyncIterator[str]:
        async with task_of(user):
            async for update in agent_for(user, order).astream({"messages": [("user", "Look")]}):
                yield line(update)

    return StreamingResponse(steps())


@app.get("/pid")
def pid() -> dict[str, int]:
    return {"pid": os.getpid()}
