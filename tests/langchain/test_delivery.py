"""Where the credential of an MCP tool's call would not arrive, the call is denied, whoever made the tool.

`test_langchain_mcp` runs LangChain's own adapter for real. It cannot be installed beside
langchain-mcp-adapters, so a stand-in of it is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import httpx
import httpx2
import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool
from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool
from mcp.types import Tool

import agentguard
from agentguard import CredentialUnavailable
from agentguard.outbound.challenges import Challenge
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")
URL = "https://orders.example/mcp"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "look"}}
SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
INSUFFICIENT = 'Bearer error="insufficient_scope", scope="orders:read orders:list"'


class Server:
    """What an MCP server has received, and how it answers."""

    def __init__(self) -> None:
        self.received: list[httpx2.Request] = []
        self.authorizations: list[str | None] = []
        self.status, self.headers = 200, dict[str, str]()

    def __call__(self, request: Any) -> Any:
        self.authorizations.append(request.headers.get("authorization"))
        return httpx2.Response(self.status, headers=self.headers, json={})


@pytest.fixture
def server() -> Server:
    return Server()


def _as_langchain_tool(tool: Any, client: Any) -> Any:
    async def call_tool(**_arguments: Any) -> tuple[str, None]:
        return await client.call(tool.name), None

    return call_tool


class Client:
    """Stands for a client of fastmcp: it has a transport, which has a URL and an auth."""

    def __init__(self, server: Server, auth: Any, url: str = URL) -> None:
        self.transport = SimpleNamespace(url=url, auth=auth)
        self._server = server

    async def call(self, _tool: str) -> str:
        transport = httpx2.MockTransport(self._server)
        async with httpx2.AsyncClient(transport=transport, auth=self.transport.auth) as client:
            response = await client.post(self.transport.url, json=CALL)
        response.raise_for_status()
        return "seen"


def adapted(client: Any, **more: Any) -> BaseTool:
    """Make a tool as `langchain.mcp` does: its function has the globals of that module."""
    make = FunctionType(_as_langchain_tool.__code__, {"__name__": "langchain.mcp.tools", "Any": Any})
    call = make(SimpleNamespace(name="look"), client)
    options = {"coroutine": call, "response_format": "content_and_artifact"} | more
    return classified(StructuredTool(name="look", description="d", args_schema=SCHEMA, **options))


def loaded(interceptors: Any = None) -> BaseTool:
    """Load a tool as langchain-mcp-adapters does."""
    connection: Any = {"transport": "streamable_http", "url": URL}
    tool = convert_mcp_tool_to_langchain_tool(
        None, Tool(name="look", inputSchema=SCHEMA), connection=connection, tool_interceptors=interceptors
    )
    return classified(tool)


async def answer(kit: Kit, tool: BaseTool, gate: str) -> str:
    if gate == "wrapped":
        message = await kit.guard.wrap(tool)[0].ainvoke(tool_call("look"))
        return str(message.content)
    model = scripted(tool_call("look"))
    state = await create_agent(model, [tool], middleware=[kit.guard.middleware()]).ainvoke(GO)
    return str(tool_messages(state)[-1].content)


def hidden(tool: BaseTool) -> BaseTool:
    """Put a decorator around the tool's function that does not say what it is put around."""
    inner: Any = tool.coroutine  # type: ignore[attr-defined]  # a StructuredTool has it

    async def again(**arguments: Any) -> Any:
        return await inner(**arguments)

    return tool.model_copy(update={"coroutine": again})


class Logged:
    """Is put around the function of an MCP tool, as an object of the application's."""

    def __init__(self, tool: Any) -> None:
        self.inner = tool.coroutine

    async def __call__(self, **arguments: Any) -> Any:
        return await self.inner(**arguments)

    async def run(self, **arguments: Any) -> Any:
        return await self.inner(**arguments)


def in_an_object(tool: Any) -> BaseTool:
    logged = Logged(tool)

    async def again(**arguments: Any) -> Any:
        return await logged(**arguments)

    return tool.model_copy(update={"coroutine": again})  # type: ignore[no-any-return]  # a tool


def by_a_method(tool: Any) -> BaseTool:
    return tool.model_copy(update={"coroutine": Logged(tool).run})  # type: ignore[no-any-return]  # a tool


def in_a_default(tool: Any) -> BaseTool:
    async def again(inner: Any = tool.coroutine, **arguments: Any) -> Any:
        return await inner(**arguments)

    return tool.model_copy(update={"coroutine": again})  # type: ignore[no-any-return]  # a tool


def in_a_dict(tool: Any) -> BaseTool:
    tools = {"look": [tool.coroutine]}

    async def again(**arguments: Any) -> Any:
        return await tools["look"][0](**arguments)

    return tool.model_copy(update={"coroutine": again})  # type: ignore[no-any-return]  # a tool


def around_the_tool(tool: Any) -> BaseTool:
    async def again(**arguments: Any) -> Any:
        return await tool.ainvoke(arguments)

    return classified(StructuredTool(name="look", description="d", args_schema=SCHEMA, coroutine=again))


class Around(BaseTool):
    name: str = "look"
    description: str = "d"
    args_schema: Any = SCHEMA
    inner: Any = None

    def _run(self, **_arguments: Any) -> str:
        raise NotImplementedError

    async def _arun(self, **arguments: Any) -> str:
        return str(await self.inner.ainvoke(arguments))


def of_a_class(tool: Any) -> BaseTool:
    return classified(Around(inner=tool))


WRAPPERS = [in_an_object, by_a_method, in_a_default, in_a_dict, around_the_tool, of_a_class]


@pytest.mark.parametrize("gate", ["wrapped", "middleware"])
@pytest.mark.parametrize("decorate", WRAPPERS)
@pytest.mark.parametrize("make", [lambda server: adapted(Client(server, None)), lambda _server: loaded()])
@pytest.mark.promise("mcp-undelivered-denies")
async def test_an_mcp_tool_behind_a_wrapper_is_denied_before_its_call_without_a_carrier(
    kit: Kit, task: Any, server: Server, gate: str, decorate: Any, make: Any
) -> None:
    assert (await answer(kit, decorate(make(server)), gate)).startswith("Denied:")
    assert kit.decisions("look") == ["no_credential"]
    assert not server.authorizations


@pytest.mark.parametrize("decorate", WRAPPERS)
@pytest.mark.promise("mcp-undelivered-denies")
async def test_an_mcp_tool_behind_a_wrapper_has_its_credential_where_its_client_carries_it(
    kit: Kit, task: Any, server: Server, decorate: Any
) -> None:
    tool = decorate(adapted(Client(server, agentguard.auth("orders", library="httpx2"))))
    assert "seen" in await answer(kit, tool, "wrapped")
    assert None not in server.authorizations
    assert kit.decisions("look") == ["permit"]


async def test_a_guarded_mcp_tool_inside_another_tool_is_judged_itself(
    kit: Kit, task: Any, server: Server
) -> None:
    inner = kit.guard.wrap(adapted(Client(server, agentguard.auth("orders", library="httpx2"))))[0]

    async def twice() -> str:
        return str(await inner.ainvoke({}))

    outer = kit.wrap(StructuredTool.from_function(coroutine=twice, name="twice", description="d"))
    assert "seen" in str((await outer.ainvoke(tool_call("twice"))).content)
    assert None not in server.authorizations


@pytest.mark.parametrize("gate", ["wrapped", "middleware"])
@pytest.mark.parametrize("decorate", [hidden, lambda tool: tool])
@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_tool_of_langchains_own_adapter_without_our_auth_is_denied_before_its_call(
    kit: Kit,
    task: Any,
    server: Server,
    gate: str,
    decorate: Callable[[BaseTool], BaseTool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = await answer(kit, decorate(adapted(Client(server, None))), gate)
    assert text.startswith("Denied:")
    assert "httpx2" not in text
    assert 'auth=agentguard.auth("orders", library="httpx2")' in caplog.text
    assert kit.decisions("look") == ["no_credential"]
    assert not server.authorizations
    assert not kit.broker.issued


@pytest.mark.parametrize("gate", ["wrapped", "middleware"])
@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_tool_of_langchains_own_adapter_with_our_auth_has_its_credential(
    kit: Kit, task: Any, server: Server, gate: str
) -> None:
    client = Client(server, agentguard.auth("orders", library="httpx2"))
    group = SimpleNamespace(clients={"shop": client}, call=client.call)
    group._tool_routes = {"look": SimpleNamespace(client=client)}
    for n, tool in enumerate([adapted(client), hidden(adapted(client)), adapted(group)]):
        kit.guard = kit.another()
        assert "seen" in await answer(kit, tool, gate), n
    assert len(server.authorizations) == 3
    assert None not in server.authorizations
    assert kit.decisions("look") == ["permit"] * 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"url": "https://evil.example/mcp"}, "no origin of orders"),
        ({"auth": agentguard.auth("payments", library="httpx2")}, "does not carry the credential"),
        ({"auth": httpx2.BasicAuth("user", "password")}, "does not carry the credential"),
        ({"url": None}, "takes no credential for a call"),
    ],
)
@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_client_that_would_carry_another_credential_or_to_another_place_is_denied(
    kit: Kit, task: Any, server: Server, change: Any, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(server, **{"auth": agentguard.auth("orders", library="httpx2")} | change)
    assert (await answer(kit, adapted(client), "wrapped")).startswith("Denied:")
    assert expected in caplog.text
    assert not server.authorizations


@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_client_that_changes_after_its_tool_was_wrapped_is_looked_at_again(
    kit: Kit, task: Any, server: Server
) -> None:
    client = Client(server, agentguard.auth("orders", library="httpx2"))
    tool = kit.guard.wrap(adapted(client))[0]
    client.transport.auth = None
    assert str((await tool.ainvoke(tool_call("look"))).content).startswith("Denied:")
    assert not server.authorizations


@pytest.mark.parametrize("gate", ["wrapped", "middleware"])
@pytest.mark.parametrize("decorate", [hidden, lambda tool: tool])
@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_tool_that_was_loaded_without_the_interceptor_is_denied(
    kit: Kit,
    task: Any,
    gate: str,
    decorate: Callable[[BaseTool], BaseTool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert (await answer(kit, decorate(loaded()), gate)).startswith("Denied:")
    assert "guard.mcp_interceptor()" in caplog.text
    assert kit.decisions("look") == ["no_credential"]


@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_tool_of_an_adapter_that_is_not_known_is_denied(
    kit: Kit, task: Any, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    ran = []
    tool = StructuredTool.from_function(lambda: ran.append(1), name="look", description="d")
    tool.metadata = {"mcp": {"server": {"name": "shop"}}}
    message = await mode.invoke(kit.guard.wrap(classified(tool))[0], tool_call("look"))
    assert message.content.startswith("Denied:")
    assert "no way is known" in caplog.text
    assert not ran


class Foreign:
    """Stands for a client of an MCP library, which is known by the package of its class."""

    def call(self) -> str:
        return "from the server"


Foreign.__module__ = "mcp.client.session"


@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_result_without_the_credential_is_withheld_where_nothing_was_seen_before(
    kit: Kit, task: Any, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    session = Foreign()

    def look() -> str:
        return session.call()

    wrapped = kit.wrap(StructuredTool.from_function(look, description="d"))
    message = await mode.invoke(wrapped, tool_call("look"))
    assert message.content.startswith("Denied:")
    assert "from the server" not in repr(message)
    assert "without its credential" in caplog.text
    assert kit.decisions("look")[-1] == "no_credential"
    assert [grant.id for grant in kit.broker.issued] == kit.broker.revoked


class Toolkit:
    def __init__(self, session: Foreign) -> None:
        self.session = session

    def look(self) -> str:
        """Look."""
        return self.session.call()


@pytest.mark.promise("mcp-undelivered-denies")
@pytest.mark.parametrize("make", [lambda kit: kit.look, lambda kit: lambda: kit.look()])
async def test_a_toolkit_with_a_session_brings_back_nothing_without_the_credential(
    kit: Kit, task: Any, mode: Mode, make: Any
) -> None:
    look = make(Toolkit(Foreign()))
    wrapped = kit.wrap(StructuredTool.from_function(look, name="look", description="d"))
    assert (await mode.invoke(wrapped, tool_call("look"))).content.startswith("Denied:")
    assert kit.decisions("look")[-1] == "no_credential"


async def test_a_tool_that_is_no_mcp_tool_may_leave_its_credential_unused(
    kit: Kit, task: Any, mode: Mode
) -> None:
    tool = kit.wrap(StructuredTool.from_function(lambda: "cached", name="look", description="d"))
    assert (await mode.invoke(tool, tool_call("look"))).content == "cached"


@pytest.mark.promise("mcp-scope-for-the-operator")
@pytest.mark.parametrize("status", [401, 403])
async def test_the_operator_is_told_the_scope_that_a_server_demands_and_the_model_is_not(
    kit: Kit, task: Any, server: Server, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.status, server.headers = status, {"WWW-Authenticate": INSUFFICIENT}
    tool = adapted(Client(server, agentguard.auth("orders", library="httpx2")))
    text = await answer(kit, tool, "wrapped")
    assert text.startswith("Denied:")
    assert "orders:list" not in text
    assert "it demands the scope orders:read orders:list" in caplog.text
    denial = next(r for r in kit.audit.records() if r.get("code") == "no_credential")
    assert "orders:read orders:list" in str(denial["reason"])
    assert kit.outcomes() == ["failed"]


@pytest.mark.promise("mcp-scope-for-the-operator")
async def test_a_demanded_scope_that_the_tool_hides_is_told_all_the_same(
    kit: Kit, task: Any, mode: Mode, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    session = Foreign()

    def look() -> str:
        def refuse(_request: httpx.Request) -> httpx.Response:
            return httpx.Response(403, headers={"WWW-Authenticate": INSUFFICIENT})

        with httpx.Client(transport=httpx.MockTransport(refuse), auth=agentguard.auth("orders")) as client:
            client.post(URL, json=CALL)
        return f"{session} says: ask for orders:list"

    tool = kit.wrap(StructuredTool.from_function(look, description="d"))
    message = await mode.invoke(tool, tool_call("look"))
    assert message.content.startswith("Denied:")
    assert "orders:list" not in repr(message)
    assert "orders:read orders:list" in caplog.text


async def test_a_refusal_for_another_reason_is_the_tools_failure(
    kit: Kit, task: Any, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.status, server.headers = 403, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    tool = kit.guard.wrap(adapted(Client(server, agentguard.auth("orders", library="httpx2"))))[0]
    with pytest.raises(httpx2.HTTPStatusError):
        await tool.ainvoke(tool_call("look"))
    assert kit.decisions("look") == ["permit"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (INSUFFICIENT, ("insufficient_scope", "orders:read orders:list", None)),
        ('Bearer realm="a, error=x", error=insufficient_scope', ("insufficient_scope", "", None)),
        ('DPoP algs="ES256", resource_metadata="https://a.example/m"', (None, "", "https://a.example/m")),
        ('Bearer scope="a\x1b[2Jb"', (None, "a?[2Jb", None)),
        ("", (None, "", None)),
        ('Bearer scope="one", scope="two"', (None, "one", None)),
    ],
)
def test_a_challenge_is_read_as_far_as_it_can_be(header: str, expected: Any) -> None:
    assert tuple(Challenge.parse(header)) == expected


def test_reading_a_long_challenge_takes_no_time() -> None:
    Challenge.parse("scope=" * 200_000)
    Challenge.parse('scope="' + "a" * 1_000_000)


# --- the auth of httpx2 itself


@pytest.mark.parametrize("rpc", ["tools/call", "resources/read", "prompts/get", None])
async def test_without_a_call_only_a_request_that_discovers_goes_out(
    server: Server, mode: Mode, rpc: str | None
) -> None:
    auth: Any = agentguard.auth("orders", library="httpx2")
    transport = httpx2.MockTransport(server)

    async def post(body: Any) -> None:
        if mode.asynchronous:
            async with httpx2.AsyncClient(transport=transport, auth=auth) as client:
                await client.post(URL, json=body)
        else:
            with httpx2.Client(transport=transport, auth=auth) as blocking:
                await asyncio.to_thread(blocking.post, URL, json=body)

    await post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert server.authorizations == [None]
    for body in ({"method": rpc}, [{"method": "tools/list"}, CALL], "x"):
        with pytest.raises(CredentialUnavailable):
            await post(body)
    assert server.authorizations == [None]
