"""Whose tool a name of the catalog is: the application binds it to a server, and not the first to call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from mcp.server.fastmcp import FastMCP

from agentguard import ConfigurationError, Denied, Guard
from agentguard.catalog import Catalog, spec_of
from agentguard.config import build, load
from agentguard.errors import DenialCode
from tests.conftest import Kit, tool_call
from tests.doubles.mcp_server import McpServer, serving

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}


class Place:
    """A real server, whose tools the application may know as those of several; `ran` are its calls."""

    def __init__(self, server: McpServer, ran: list[str]) -> None:
        self._server, self.ran = server, ran

    def connections(self, *names: str) -> Any:
        return {name: self._server.connection() for name in names}

    async def tool(self, server: str, tool: str, *interceptors: Any) -> BaseTool:
        client = MultiServerMCPClient(self.connections(server), tool_interceptors=list(interceptors))
        return next(t for t in await client.get_tools() if t.name == tool)


@pytest.fixture(scope="module")
def running() -> Iterator[Place]:
    tools, ran = FastMCP("place", log_level="CRITICAL"), list[str]()

    def offer(name: str) -> None:
        def body(to: str) -> str:
            """Do it."""
            ran.append(name)
            return to

        tools.tool(name=name)(body)

    for name in ("pay", "shop_pay", "x_pay"):
        offer(name)
    with serving(tools) as server:
        yield Place(server, ran)


@pytest.fixture
def place(running: Place) -> Place:
    running.ran.clear()
    return running


def guard_of(kit: Kit, name: str, server: str | None = None) -> Guard:
    facts = {"path": "read", "server": server} if server else {"path": "read"}
    return kit.another(catalog=Catalog([spec_of(name, facts, SCHEMA)]))


async def denial(guard: Guard, tool: BaseTool) -> str:
    """Call the tool, and return why that is denied; "" if it is not."""
    async with guard.task("test", subject="alice", mandate={"tools": "*"}):
        try:
            await tool.ainvoke({"to": "x"})
        except Denied as denied:
            return f"{denied.code}: {denied.reason}"
    return ""


@pytest.mark.promise("mcp-name-is-bound")
@pytest.mark.parametrize(
    ("name", "bound", "server", "tool", "reason"),
    [
        ("pay", "shop", "shop", "pay", ""),
        ("shop_pay", None, "shop", "pay", ""),
        ("shop_pay", "shop", "shop", "pay", ""),
        ("shop_x_pay", "shop", "shop", "x_pay", ""),
        ("shop_x_pay", "shop_x", "shop_x", "pay", ""),
        ("pay", None, "shop", "pay", "bound to no server"),
        ("pay", "shop", "evil", "pay", "a tool of shop, and not of evil"),
        ("shop_pay", None, "evil", "shop_pay", "bound to no server"),
        ("shop_pay", "shop", "evil", "shop_pay", "a tool of shop, and not of evil"),
        ("shop_x_pay", None, "shop", "x_pay", "bound to no server"),
        ("shop_x_pay", None, "shop_x", "pay", "bound to no server"),
        ("shop_x_pay", "shop_x", "shop", "x_pay", "a tool of shop_x, and not of shop"),
        # one server with `pay` and `shop_pay`: the name is that of one of them
        ("shop_pay", "shop", "shop", "shop_pay", "names the tool pay of shop"),
        ("shop_shop_pay", "shop", "shop", "shop_pay", ""),
    ],
)
async def test_a_name_is_a_tool_of_the_server_that_the_application_says(
    place: Place, kit: Kit, name: str, bound: str | None, server: str, tool: str, reason: str
) -> None:
    guard = guard_of(kit, name, bound)
    called = await place.tool(server, tool, guard.mcp_interceptor())
    result = await denial(guard, called)
    assert reason in result
    assert result.partition(":")[0] == (DenialCode.UNKNOWN_TOOL if reason else "")
    assert place.ran == ([] if reason else [tool])


@pytest.mark.promise("mcp-name-is-bound")
@pytest.mark.parametrize("bound", ["shop", None])
async def test_who_calls_first_takes_no_name(place: Place, kit: Kit, bound: str | None) -> None:
    guard = guard_of(kit, "shop_pay", bound)
    interceptor = guard.mcp_interceptor()
    assert await denial(guard, await place.tool("evil", "shop_pay", interceptor))
    assert not await denial(guard, await place.tool("shop", "pay", interceptor))
    assert place.ran == ["pay"]


@pytest.mark.promise("mcp-name-is-bound")
@pytest.mark.parametrize("bound", ["shop", None])
async def test_two_interceptors_of_one_guard_know_the_same_servers(
    place: Place, kit: Kit, bound: str | None
) -> None:
    guard = guard_of(kit, "pay", bound)
    denials = [
        await denial(guard, await place.tool(server, "pay", guard.mcp_interceptor()))
        for server in ("evil", "shop", "news")
    ]
    assert list(map(bool, denials)) == [True, bound is None, True]
    assert place.ran == (["pay"] if bound else [])


@pytest.mark.promise("mcp-name-is-bound")
@pytest.mark.parametrize("name", ["pay", "unknown_pay"])
@pytest.mark.parametrize("bound", [None, "unknown", "shop"])
async def test_a_session_without_a_servers_name_is_no_server(
    place: Place, kit: Kit, name: str, bound: str | None
) -> None:
    guard = guard_of(kit, name, bound)
    own: Any = {"tool_interceptors": [guard.mcp_interceptor()]}
    async with MultiServerMCPClient(place.connections("shop")).session("shop") as session:
        tool = (await load_mcp_tools(session, **own))[0]
        assert "give load_mcp_tools a server_name" in await denial(guard, tool)
        if bound == "shop" and name == "pay":
            tool = (await load_mcp_tools(session, server_name="shop", **own))[0]
            assert not await denial(guard, tool)


async def test_control_a_session_without_a_name_may_be_wrapped(place: Place, kit: Kit) -> None:
    guard = guard_of(kit, "pay")
    async with MultiServerMCPClient(place.connections("shop")).session("shop") as session:
        tools = await load_mcp_tools(session, tool_interceptors=[guard.mcp_interceptor()])
        (guarded,) = guard.wrap(tools[0])
        async with guard.task("test", subject="alice", mandate={"tools": "*"}):
            await guarded.ainvoke(tool_call("pay", to="x"))
    assert place.ran == ["pay"]


@pytest.mark.promise("mcp-name-is-bound")
async def test_a_wrapped_tool_of_another_server_than_the_catalogs_is_refused_and_takes_no_name(
    place: Place, kit: Kit
) -> None:
    guard = guard_of(kit, "pay", "shop")
    with pytest.raises(ConfigurationError, match="a tool of the MCP server shop, and not of evil"):
        guard.wrap(await place.tool("evil", "pay"))
    (guarded,) = guard.wrap(await place.tool("shop", "pay", guard.mcp_interceptor()))
    async with guard.task("test", subject="alice", mandate={"tools": "*"}):
        await guarded.ainvoke(tool_call("pay", to="x"))
    assert place.ran == ["pay"]


def test_the_file_gives_the_server(tmp_path: Any) -> None:
    (tmp_path / "policy.cedar").write_text('@id("all") permit (principal, action, resource);')
    file = tmp_path / "agentguard.toml"
    file.write_text('[policy]\ncedar = ["policy.cedar"]\n[tools.pay]\npath = "read"\nserver = "shop"\n')
    guard = Guard.from_parts(build(load(file)))
    spec = guard.catalog.tool("pay")
    assert spec is not None
    assert spec.server == "shop"
    guard.close()
