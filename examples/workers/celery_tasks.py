"""Agents in Celery's workers: ``celery -A celery_tasks worker``, and ``python celery_tasks.py ada ada-1``."""

import os
import sys
from pathlib import Path

import httpx
from celery import Celery
from celery.signals import worker_process_shutdown
from langchain.agents import create_agent
from langchain_core.tools import tool

import agentguard
from agentguard.testing import ScriptedChatModel

HERE = Path(__file__).parent
QUEUE = HERE / ".queue"  # of files; in production the URL of Redis or RabbitMQ
QUEUE.mkdir(exist_ok=True)
app = Celery("celery_tasks", broker="filesystem://", backend=f"file://{QUEUE}")
app.conf.broker_transport_options = {
    "data_folder_in": str(QUEUE), "data_folder_out": str(QUEUE), "control_folder": str(QUEUE),
    "polling_interval": 0.1,
}  # fmt: skip
# made before Celery forks the processes of its pool
guard = agentguard.Guard.from_file(HERE.parent / "agentguard.toml")
# after SIGTERM Celery waits for the tasks that run, and nothing ends a tool in a thread but its own time-out
shop = httpx.Client(base_url="http://127.0.0.1:8000", auth=agentguard.auth("orders"), timeout=10)


@worker_process_shutdown.connect
def close(**_: object) -> None:
    """Close the guard of a process of the pool. Celery holds a function weakly: a lambda would be gone."""
    guard.close()


@tool
def get_order(order_id: str) -> str:
    """Read an order."""
    return shop.get(f"/orders/{order_id}").text


@app.task
def answer(user: str, order_id: str) -> dict[str, object]:
    """Answer as an agent of this task, for the user whom the sender has authenticated."""
    # stands for a model
    model = ScriptedChatModel(script=[[("get_order", {"order_id": order_id})], "That is all."])
    agent = create_agent(model, [get_order], middleware=[guard.middleware()])
    # the orders that your database says are hers
    mandate = {"tools": ["get_order"], "args": {"order_id": [f"{user}-{n}" for n in (1, 2, 3)]}}
    with guard.task("Show my orders", subject=f"user://{user}", mandate=mandate):
        result = agent.invoke({"messages": [("user", f"What is in order {order_id}?")]})
    return {"pid": os.getpid(), "answer": result["messages"][-2].text}


if __name__ == "__main__":
    answers = [answer.delay(*order) for order in zip(sys.argv[1::2], sys.argv[2::2], strict=True)]
    for pending in answers:
        print(pending.get(timeout=60))
