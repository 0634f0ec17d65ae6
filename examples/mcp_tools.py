"""MCP: each call of a server's tool is judged, and has a credential that the server itself verifies."""

import asyncio
import json
from pathlib import Path

import httpx
from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from mcp.server.fastmcp import Context, FastMCP

import agentguard
from agentguard import Resource, ToolPath
from agentguard.resource import Verifier
from agentguard.stores import SqliteStore
from agentguard.testing import ScriptedChatModel

HERE, URL, READ = Path(__file__).parent, "http://127.0.0.1:8000/mcp", ToolPath.READ
guard = agentguard.Guard.from_file(HERE / "agentguard.toml")

# --- the MCP server: in production another process; it shares the public keys and the store, but no secret
verifier = Verifier(
    issuer="https://agentguard.local",
    keys=json.loads((HERE / ".agentguard/jwks.json").read_text()),
    resource=Resource(name="orders", origins=("http://127.0.0.1:8000",)),
    store=(store := SqliteStore(HERE / ".agentguard/state.db")),
)
server = FastMCP("orders", stateless_http=True, json_response=True, log_level="CRITICAL")
api = server.streamable_http_app()


@server.tool()
async def find_order(order_id: str, ctx: Context) -> str:
    """Read an order."""
    headers, call = ctx.request_context.request.headers.items(), {"order_id": order_id}
    claims = await verifier.averify("POST", URL, headers, path=READ, tool="find_order", arguments=call)
    return f"order {order_id} for {claims.subject}, asked by {claims.actor}"


# --- the agent's side; the factory stands for a network
def local(**options) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), **options)


async def main() -> None:
    connection = {"transport": "http", "url": URL, "httpx_client_factory": local}
    client = MultiServerMCPClient({"orders": connection}, tool_interceptors=[guard.mcp_interceptor()])
    model = ScriptedChatModel(script=[[("find_order", {"order_id": n})] for n in ("4711", "4712")] + ["done"])
    task = guard.task("Show", subject="user://alice", mandate={"tools": "*", "args": {"order_id": ["4711"]}})
    async with server.session_manager.run(), task:
        agent = create_agent(model, await client.get_tools())
        for message in (await agent.ainvoke({"messages": [("user", "My order?")]}))["messages"]:
            print(f"{message.type:<6}{message.text}")
        (bare,) = await MultiServerMCPClient({"orders": connection}).get_tools()
        print("bare ", (await bare.ainvoke({"order_id": "4711"}))[0]["text"])


asyncio.run(main())
guard.close()
store.close()
