"""A WSGI application for several workers: ``gunicorn -c sync.conf.py sync_app:app``."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
from langchain.agents import create_agent
from langchain_core.tools import tool

import agentguard
from agentguard.testing import ScriptedChatModel

guard = agentguard.Guard.from_file(Path(__file__).parents[1] / "agentguard.toml")
shop = httpx.Client(base_url="http://127.0.0.1:8000", auth=agentguard.auth("orders"), timeout=60)


@tool
def get_order(order_id: str) -> str:
    """Read an order."""
    return shop.get(f"/orders/{order_id}").text


def answer(user: str, order_id: str) -> str:
    """Answer as an agent of this request."""
    # stands for a model
    model = ScriptedChatModel(script=[[("get_order", {"order_id": order_id})], "That is all."])
    agent = create_agent(model, [get_order], middleware=[guard.middleware()])
    # the orders that your database says are hers
    mandate = {"tools": ["get_order"], "args": {"order_id": [f"{user}-{n}" for n in (1, 2, 3)]}}
    with guard.task("Show my orders", subject=f"user://{user}", mandate=mandate):
        result = agent.invoke({"messages": [("user", f"What is in order {order_id}?")]})
    return str(result["messages"][-2].text)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request of the user whom your login has authenticated."""
    order_id, user = environ["PATH_INFO"].rpartition("/")[2], environ["HTTP_X_USER"]
    body = {"pid": os.getpid(), "answer": answer(user, order_id)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]
