"""A service opens a session with its MCP server for each request: its tools stay the same tools."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool, load_mcp_tools
from mcp.server.fastmcp import FastMCP
from mcp.types import Tool

from agentguard import ConfigurationError, Guard
from agentguard.catalog import Catalog, spec_of
from tests.conftest import GO, Kit, classified, scripted, tool_call, tool_messages
from tests.doubles.mcp_server import McpServer, serving

SCHEMA = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}
Load = Callable[[MultiServerMCPClient], Any]


@pytest.fixture(scope="module")
def server() -> Iterator[McpServer]:
    tools = FastMCP("shop", stateless_http=True)

    @tools.tool()
    def look(item: str) -> str:
        """Look."""
        return f"saw {item}"

    with serving(tools) as server:
        server.verifies = "nothing"
        yield server


@pytest.fixture
def guard(kit: Kit) -> Guard:
    return kit.another(catalog=Catalog([spec_of("look", {"path": "read"})]))


class Session:
    """Stands for an open session."""


def loaded(session: object, server: str | None = "shop", schema: Any = SCHEMA) -> BaseTool:
    offered = Tool(name="look", description="Look.", inputSchema=schema)
    return convert_mcp_tool_to_langchain_tool(session, offered, server_name=server)  # type: ignore[arg-type]  # a stand-in


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize("by", ["wrap", "middleware"])
@pytest.mark.parametrize("way", ["session", "connection"])
async def test_each_request_has_a_session_of_its_own(
    guard: Guard, server: McpServer, by: str, way: str
) -> None:
    for number in range(3):
        client = MultiServerMCPClient({"shop": server.connection()})  # type: ignore[dict-item]  # a connection
        interceptors: list[Any] = [guard.mcp_interceptor()]
        async with client.session("shop") as session:
            tools: list[Any] = await load_mcp_tools(
                session if way == "session" else None,
                connection=None if way == "session" else server.connection(),  # type: ignore[arg-type]  # a connection
                server_name="shop",
                tool_interceptors=interceptors,
            )
            layers: list[Any] = [guard.middleware()]
            if by == "wrap":
                tools, layers = list(guard.wrap(tools)), []
            agent: Any = create_agent(scripted(tool_call("look", item=str(number))), tools, middleware=layers)
            with guard.task("look", subject=f"user:{number}", mandate={"tools": "*"}):
                (message,) = tool_messages(await agent.ainvoke(GO))
        assert f"saw {number}" in str(message.content)


@pytest.mark.promise("tools-of-a-request")
def test_another_schema_another_server_or_another_classification_is_another_tool(
    kit: Kit, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    guard.wrap(loaded(Session()))
    wider = {**SCHEMA, "properties": {**SCHEMA["properties"], "all": {"type": "boolean"}}}  # type: ignore[dict-item]  # a mapping
    for other in (loaded(Session(), schema=wider), loaded(Session(), "evil")):
        with pytest.raises(ConfigurationError, match="two tools are named look"):
            guard.wrap(other)
    assert "look of the MCP server shop, and look of the MCP server evil" in caplog.text
    fresh = kit.another(catalog=Catalog())
    fresh.wrap(classified(loaded(Session()), path="read"))
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        fresh.wrap(classified(loaded(Session()), path="write"))


@pytest.mark.promise("tools-of-a-request")
def test_a_session_without_a_servers_name_is_the_same_only_as_itself(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session()
    guard.wrap(loaded(session, None))
    guard.wrap(loaded(session, None))
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        guard.wrap(loaded(Session(), None))
    (record,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert "give load_mcp_tools a server_name" in record.getMessage()


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize("number", [160, pytest.param(4_000, marks=pytest.mark.exhaustive)])
def test_the_sessions_of_thousands_of_requests_leave_memory_where_it_was(guard: Guard, number: int) -> None:
    gates, sessions, counts, rounds = guard._gates, weakref.WeakSet[Session](), list[int](), 4
    for _ in range(rounds):
        for _ in range(number // rounds):
            session = Session()
            sessions.add(session)
            gates.look_at([loaded(session)])
            guard.wrap(loaded(session))
        del session
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert len(sessions) == 0
    assert gates._present == {}
    assert counts[-1] - counts[1] < 100, counts
