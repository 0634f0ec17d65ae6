"""LangChain's own MCP adapter, against a real server of mcp 2: a credential arrives, or the call is denied.

`langchain.mcp` and `agentguard[mcp]` cannot be installed together, so this file runs where
``agentguard[mcp2]`` is installed. `test_delivery` has a stand-in of the adapter for where it is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the namespace is in beta
    mcp = pytest.importorskip("langchain.mcp", reason="needs agentguard[mcp2]", exc_type=ImportError)

import fastmcp
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool

import agentguard
from agentguard import CredentialUnavailable, Guard, Resource, ToolPath
from agentguard.catalog import Catalog, spec_of
from agentguard.credentials import LocalIssuer, jwks
from tests.conftest import GO, Kit, scripted, tool_call, tool_messages
from tests.doubles.mcp_server import McpServer, serving

ISSUER = "https://issuer.test"
SCHEMA = {
    "type": "object",
    "properties": {"order_id": {"type": "string"}},
    "required": ["order_id"],
    "additionalProperties": False,
}
pytestmark = pytest.mark.filterwarnings("default")  # those of fastmcp and of mcp are not ours


@pytest.fixture(scope="module")
def server() -> Iterator[McpServer]:
    shop: Any = fastmcp.FastMCP("shop")

    def get_order(order_id: str) -> str:
        return f"order {order_id}"

    shop.tool(get_order)
    tools: Any = SimpleNamespace(streamable_http_app=shop.http_app)
    with serving(tools) as server:
        yield server


@pytest.fixture
def guard(kit: Kit, server: McpServer) -> Guard:
    issuers = {path: LocalIssuer(path, issuer=ISSUER, store=kit.store) for path in ToolPath}
    server.seen.clear()
    server.believe(ISSUER, jwks(*issuers.values()), kit.store)
    facts = {"path": "read", "resource": "orders"}
    catalog = Catalog(
        [spec_of("get_order", facts, SCHEMA)], [Resource(name="orders", origins=(server.origin,))]
    )
    return kit.another(catalog=catalog, brokers={(None, path): issuer for path, issuer in issuers.items()})


async def call(guard: Guard, tools: Any) -> str:
    model = scripted([tool_call("get_order", order_id="7")])
    agent = create_agent(model, tools, middleware=[guard.middleware()])
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        state = await agent.ainvoke(GO)
    return str(tool_messages(state)[-1].content)


@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_tool_whose_client_carries_no_credential_is_denied_before_the_server_is_called(
    kit: Kit, guard: Guard, server: McpServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.verifies = "nothing"  # it would answer anybody
    answer = await call(guard, await mcp.MCPAdapter(server.url).list_tools())
    assert answer.startswith("Denied:")
    assert "httpx2" not in answer
    assert 'fastmcp.Client(url, auth=agentguard.auth("orders", library="httpx2"))' in caplog.text
    assert kit.decisions("get_order") == ["no_credential"]
    assert not server.calls()


@pytest.mark.promise("mcp-undelivered-denies", "mcp-judged-and-verified")
@pytest.mark.parametrize("held_open", [False, True])
async def test_a_client_with_our_auth_carries_a_bound_credential_that_the_server_verifies(
    kit: Kit, guard: Guard, server: McpServer, held_open: bool
) -> None:
    client: Any = fastmcp.Client(server.url, auth=agentguard.auth("orders", library="httpx2"))
    adapter = mcp.MCPAdapter(client)
    if held_open:  # the session then belongs to no call, and outlives this one
        async with adapter:
            answer = await call(guard, await adapter.list_tools())
    else:
        answer = await call(guard, await adapter.list_tools())
    assert "order 7" in answer
    (request,) = server.calls()
    assert request.status == 200
    assert request.headers["authorization"].startswith("DPoP ")
    assert request.headers["dpop"]
    assert next(seen for seen in server.seen if seen.rpc == "tools/list").authorization is None
    assert kit.decisions("get_order") == ["permit"]


async def test_a_call_outside_of_the_guard_is_refused_by_the_auth_and_never_sent(
    guard: Guard, server: McpServer
) -> None:
    client: Any = fastmcp.Client(server.url, auth=agentguard.auth("orders", library="httpx2"))

    async def call_alone() -> None:
        async with client:
            assert await client.list_tools()
            await client.call_tool("get_order", {"order_id": "7"})

    with pytest.raises(CredentialUnavailable):
        await call_alone()
    assert not server.calls()


@pytest.mark.promise("mcp-undelivered-denies")
async def test_an_auth_of_another_resource_is_not_taken_for_the_tools(
    kit: Kit, guard: Guard, server: McpServer
) -> None:
    client: Any = fastmcp.Client(server.url, auth=agentguard.auth("payments", library="httpx2"))
    assert (await call(guard, await mcp.MCPAdapter(client).list_tools())).startswith("Denied:")
    assert kit.decisions("get_order") == ["no_credential"]
    assert not server.calls()


@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_client_whose_own_http_client_leaves_out_the_auth_brings_back_no_result(
    kit: Kit, guard: Guard, server: McpServer
) -> None:
    server.verifies = "nothing"

    def without(**options: Any) -> Any:
        from mcp.shared._httpx_utils import create_mcp_http_client

        return create_mcp_http_client(headers=options.get("headers"))

    transport = fastmcp.client.transports.StreamableHttpTransport(
        server.url, auth=agentguard.auth("orders", library="httpx2"), httpx_client_factory=without
    )
    answer = await call(guard, await mcp.MCPAdapter(fastmcp.Client(transport)).list_tools())
    assert answer.startswith("Denied:")
    assert kit.decisions("get_order")[-1] == "no_credential"


async def test_tools_that_are_loaded_anew_for_each_request_are_the_same_tools(
    guard: Guard, server: McpServer
) -> None:
    for _ in range(2):
        client: Any = fastmcp.Client(server.url, auth=agentguard.auth("orders", library="httpx2"))
        assert "order 7" in await call(guard, await mcp.MCPAdapter(client).list_tools())


@pytest.mark.promise("mcp-undelivered-denies")
@pytest.mark.parametrize("carries", [False, True])
async def test_a_tool_that_opens_its_client_itself_brings_back_what_a_call_with_the_credential_has_got(
    kit: Kit, guard: Guard, server: McpServer, carries: bool
) -> None:
    if not carries:
        server.verifies = "nothing"
    options: Any = {"auth": agentguard.auth("orders", library="httpx2")} if carries else {}

    async def get_order(order_id: str) -> str:
        async with fastmcp.Client(server.url, **options) as client:
            return str((await client.call_tool("get_order", {"order_id": order_id})).content)

    tool = StructuredTool.from_function(
        coroutine=get_order, name="get_order", description="Get.", args_schema=SCHEMA
    )
    answer = await call(guard, [tool])
    assert ("order 7" in answer) is carries
    assert kit.decisions("get_order")[-1] == ("permit" if carries else "no_credential")
