"""The resource's side: an API that verifies each call itself, and trusts no agent."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI

import agentguard
from agentguard import Resource, ToolPath
from agentguard.resource import Claims, Verifier
from agentguard.resource.asgi import require
from agentguard.stores import SqliteStore

HERE = Path(__file__).parent
ORIGIN = "http://127.0.0.1:8000"
guard = agentguard.Guard.from_file(HERE / "agentguard.toml")  # publishes its public keys

# --- the API: in production another process of the same OS user, for only this user may open state.db (0600).
# It shares the public keys and the store, but no secret. For another user or machine see api_apart.py
verifier = Verifier(
    issuer="https://agentguard.local",
    keys=json.loads((HERE / ".agentguard/jwks.json").read_text()),
    resource=Resource(name="orders", origins=(ORIGIN,)),
    store=(store := SqliteStore(HERE / ".agentguard/state.db")),  # revocations and used proofs
)
reads = require(verifier, path=ToolPath.READ, scope="orders:read", arguments=lambda request: request.params)
api = FastAPI()


@api.get("/orders/{order_id}")
async def show(order_id: str, claims: Annotated[Claims, Depends(reads)]) -> str:
    return f"order {order_id} for {claims.subject}, asked by {claims.actor}"


# --- the agent's side
client = httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url=ORIGIN)


async def get_order(order_id: str) -> str:
    """Read an order."""
    order = await client.get(f"/orders/{order_id}", auth=agentguard.auth("orders"))
    other = await client.get("/orders/4712", auth=agentguard.auth("orders"))  # not the judged call
    return f"{order.status_code} {order.json()}\n{other.status_code} {other.json()['detail']}"


async def main() -> None:
    (tool,) = guard.wrap(get_order)
    async with guard.task("Show order 4711", subject="user://alice", mandate={"tools": ["get_order"]}):
        print(await tool.ainvoke({"order_id": "4711"}))
    bare = await client.get("/orders/4711")
    print(bare.status_code, bare.headers["www-authenticate"])


asyncio.run(main())
guard.close()
store.close()
