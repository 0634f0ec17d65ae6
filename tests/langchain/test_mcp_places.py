"""Which server a tool of MCP is of: by its URL or command, and by the name that the catalog gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool
from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool
from mcp.types import Tool

from agentguard import ConfigurationError, Guard
from agentguard.catalog import Catalog, spec_of
from agentguard.langchain.identification import McpTarget
from agentguard.langchain.mcp.names import misbound
from tests.conftest import Kit, classified
from tests.langchain.test_delivery import WRAPPERS, Client, Server, adapted, hidden

SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}


def guard_of(kit: Kit, server: str | None = "shop") -> Guard:
    facts = {"path": "read"} if server is None else {"path": "read", "server": server}
    return kit.another(catalog=Catalog([spec_of("look", facts)]))


def loaded(connection: Any, server: str = "shop") -> BaseTool:
    tool = Tool(name="look", inputSchema=SCHEMA)
    return convert_mcp_tool_to_langchain_tool(None, tool, connection=connection, server_name=server)


def at(url: str) -> dict[str, str]:
    return {"transport": "streamable_http", "url": url}


def command(**environment: str) -> dict[str, Any]:
    return {"transport": "stdio", "command": "python", "args": ["-m", "server"], "env": environment}


# --- the name of the server in the catalog


def plain(_tool: BaseTool) -> BaseTool:
    async def body() -> str:
        return "local"

    return StructuredTool.from_function(coroutine=body, name="look", description="d", args_schema=SCHEMA)


@pytest.mark.promise("mcp-name-is-bound")
@pytest.mark.parametrize("decorate", [lambda tool: tool, hidden, *WRAPPERS])
def test_a_tool_is_of_the_server_that_it_reaches_behind_whatever_wrapper(kit: Kit, decorate: Any) -> None:
    evil, shop = (loaded(at(f"https://{name}.example/mcp"), name) for name in ("evil", "shop"))
    with pytest.raises(ConfigurationError, match="of the MCP server shop, and not of evil"):
        guard_of(kit).wrap(decorate(evil))
    assert guard_of(kit).wrap(decorate(shop))


@pytest.mark.promise("mcp-name-is-bound")
def test_a_function_of_the_application_is_no_tool_of_a_server_and_takes_no_name(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    guard, shop = guard_of(kit), loaded(at("https://shop.example/mcp"))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=f"server shop, and this one is {__name__}:plain"):
            guard.wrap(plain(shop))
    assert caplog.text.count("a tool is denied") == 1
    assert guard.wrap(shop)


@pytest.mark.promise("mcp-name-is-bound")
def test_a_tool_that_reaches_two_servers_is_the_tool_of_neither(kit: Kit) -> None:
    tools: list[Any] = [loaded(at(f"https://{name}.example/mcp"), name) for name in ("shop", "evil")]

    async def both() -> None:
        for tool in tools:
            await tool.ainvoke({})

    mixed = StructuredTool.from_function(coroutine=both, name="look", description="d", args_schema=SCHEMA)
    with pytest.raises(ConfigurationError, match="and not of evil and shop"):
        guard_of(kit).wrap(mixed)


@pytest.mark.promise("mcp-name-is-bound")
@pytest.mark.parametrize("decorate", [lambda tool: tool, hidden, *WRAPPERS])
def test_a_tool_of_langchains_own_adapter_is_of_the_server_that_its_client_or_group_names(
    kit: Kit, decorate: Any
) -> None:
    def named(name: str | None) -> BaseTool:
        client: Any = Client(Server(), None, "https://evil.example/mcp")
        client.name = name
        return adapted(client)

    def in_a_group(name: str) -> BaseTool:
        member: Any = Client(Server(), None)
        group = SimpleNamespace(clients={name: member}, call=member.call)
        group._tool_routes = {"look": SimpleNamespace(client=member)}
        return adapted(group)

    for tool in (named(None), named("Client-7f3a"), named("evil"), in_a_group("evil")):
        with pytest.raises(ConfigurationError, match="is a tool of the MCP server shop"):
            guard_of(kit).wrap(decorate(tool))
    for tool in (named("shop"), in_a_group("shop")):
        assert guard_of(kit).wrap(decorate(tool))


@pytest.mark.promise("mcp-name-is-bound")
def test_the_server_of_a_classification_that_the_tool_carries_binds_too(kit: Kit) -> None:
    evil = classified(loaded(at("https://evil.example/mcp"), "evil"), path="read", server="shop")
    with pytest.raises(ConfigurationError, match="and not of evil"):
        kit.another(catalog=Catalog()).wrap(evil)


# --- a server with a URL for each user

URLS = [
    ("https://mcp.example/u/alice/mcp", "https://mcp.example/u/bob/mcp"),
    ("https://mcp.example/mcp?user_id=a", "https://mcp.example/mcp?user_id=b"),
    ("https://mcp.example/a", "https://MCP.example:443/b"),
]


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize("urls", URLS)
def test_a_server_with_a_url_for_each_user_serves_each_where_the_catalog_gives_its_name(
    kit: Kit, urls: tuple[str, str]
) -> None:
    guard = guard_of(kit)
    for url in urls:
        guard.wrap(loaded(at(url)))
        target = McpTarget("look", "shop", at(url), None)
        assert misbound(guard.catalog, "look", target) is None, "the interceptor knows it too"


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize(
    "other", ["https://evil.example/u/bob/mcp", "https://mcp.example:8443/mcp", "http://mcp.example/mcp"]
)
def test_another_origin_is_another_server_of_whatever_name(kit: Kit, other: str) -> None:
    guard = guard_of(kit)
    guard.wrap(loaded(at("https://mcp.example/u/alice/mcp")))
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        guard.wrap(loaded(at(other)))
    assert misbound(guard.catalog, "look", McpTarget("look", "shop", at(other), None)) is not None


@pytest.mark.promise("tools-of-a-request")
def test_without_the_servers_name_another_path_is_another_server_and_the_hint_says_what_to_do(
    kit: Kit,
) -> None:
    guard = guard_of(kit, None)
    guard.wrap(loaded(at(URLS[0][0])))
    with pytest.raises(ConfigurationError, match='URL for each user: server = "shop"'):
        guard.wrap(loaded(at(URLS[0][1])))


# --- the environment of a command


@pytest.mark.promise("tools-of-a-request")
@pytest.mark.parametrize(
    "other",
    [{"SERVER": "evil"}, {"SERVER": "shop", "PYTHONPATH": "/tmp/evil"}, {}, {"server": "shop"}],  # noqa: S108  only a name
)
def test_another_environment_of_a_command_is_another_server(kit: Kit, other: dict[str, str]) -> None:
    guard = guard_of(kit)
    guard.wrap(loaded(command(SERVER="shop")))
    guard.wrap(loaded(command(SERVER="shop")))
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        guard.wrap(loaded(command(**other)))


@pytest.mark.promise("tools-of-a-request")
def test_a_secret_or_a_users_name_in_the_environment_makes_no_other_server_and_is_not_kept(kit: Kit) -> None:
    guard = guard_of(kit)
    for user in ("alice", "bob"):
        guard.wrap(
            loaded(command(SERVER="shop", API_TOKEN=f"secret of {user}", USER_NAME=user, github_pat=user))
        )
    original = guard.catalog.original("look")
    assert original is not None
    assert not {"alice", "secret of alice", "shop.example"} & set(repr(original).split("'"))
    with pytest.raises(ConfigurationError, match="two tools are named look"):
        guard.wrap(loaded(command(SERVER="shop", API_TOKEN="x")))
