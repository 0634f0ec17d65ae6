"""Whatever a tool looks like: if it calls an MCP server without its credential, nothing comes back."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from langchain_core.tools import StructuredTool, ToolException
from mcp.server.fastmcp import FastMCP
from mcp.shared.memory import create_connected_server_and_client_session as connected

import agentguard
from tests.conftest import Kit, Mode, tool_call

shop = FastMCP("shop", log_level="CRITICAL")
URL = "https://orders.example/orders"


@shop.tool()
def order(item: str) -> str:
    """Read an order."""
    if item == "wrong":
        raise ValueError("words of the server")
    return f"words of the server: {item}"


async def call(item: str = "x") -> str:
    """Call the server as code does that opens its session itself."""
    async with connected(shop._mcp_server) as session:
        return str((await session.call_tool("order", {"item": item})).content)


def attach() -> None:
    """Use the credential for a request of our own."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(200))
    with httpx.Client(transport=transport, auth=agentguard.auth("orders")) as client:
        client.get(URL)


async def alone() -> str:
    return await call()


async def after_another_request() -> str:
    attach()
    return await call()


async def before_another_request() -> str:
    text = await call()
    attach()
    return text


async def as_a_failure() -> str:
    raise ToolException(await call("wrong"))


async def listed_only() -> str:
    async with connected(shop._mcp_server) as session:
        return str([tool.name for tool in (await session.list_tools()).tools])


async def with_the_token() -> str:
    assert agentguard.credential("orders").reveal()  # for a client that takes no httpx.Auth
    return await call()


async def meanwhile() -> str:
    async with connected(shop._mcp_server) as session:
        send, written = session._write_stream.send, list[int]()

        async def send_with_credential(message: Any) -> None:
            attach()  # as the client's transport does for each of its requests
            written.append(1)
            await send(message)

        session._write_stream.send = send_with_credential  # type: ignore[assignment,method-assign]  # ours
        return str((await session.call_tool("order", {"item": "x"})).content)


async def _with_credential(item: str, goes_on: asyncio.Event | None = None) -> str:
    async with connected(shop._mcp_server) as session:
        send = session._write_stream.send

        async def send_with_credential(message: Any) -> None:
            if "tools/call" in str(message):
                attach()
            await send(message)
            if goes_on is not None:
                await goes_on.wait()

        session._write_stream.send = send_with_credential  # type: ignore[assignment,method-assign]  # ours
        return str((await session.call_tool("order", {"item": item})).content)


async def beside_one_with_it_that_ends_later() -> str:
    is_over = asyncio.Event()

    async def call_alone() -> str:
        text = await call()
        is_over.set()
        return text

    return str(await asyncio.gather(_with_credential("x", is_over), call_alone()))


async def beside_one_with_it_that_ends_earlier() -> str:
    async with connected(shop._mcp_server) as session:
        send = session._write_stream.send

        async def send_late(message: Any) -> None:
            if "tools/call" in str(message):
                await _with_credential("x")
            await send(message)

        session._write_stream.send = send_late  # type: ignore[assignment,method-assign]  # ours
        return str((await session.call_tool("order", {"item": "x"})).content)


async def several_at_once() -> str:
    return str(await asyncio.gather(*(_with_credential(str(number)) for number in range(5))))


async def answer(kit: Kit, mode: Mode, body: Callable[[], Awaitable[str]], **more: Any) -> str:
    if mode.asynchronous:
        tool = StructuredTool.from_function(coroutine=body, name="look", description="d", **more)
    else:

        @functools.wraps(body)
        def look() -> str:
            """Run the coroutine on a loop of its own, in the context of the call."""
            texts, context = list[object](), contextvars.copy_context()

            def run() -> None:
                try:
                    texts.append(context.run(asyncio.run, body()))  # type: ignore[arg-type]  # it is a coroutine
                except Exception as error:  # noqa: BLE001  it is raised in the other thread
                    texts.append(error)

            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
            if isinstance(texts[0], Exception):
                raise texts[0]
            return str(texts[0])

        tool = StructuredTool.from_function(look, name="look", description="d", **more)
    return str((await mode.invoke(kit.wrap(tool), tool_call("look"))).content)


@pytest.mark.promise("mcp-undelivered-denies")
@pytest.mark.parametrize(
    "body",
    [
        alone,
        after_another_request,
        before_another_request,
        as_a_failure,
        beside_one_with_it_that_ends_later,
        beside_one_with_it_that_ends_earlier,
    ],
)
async def test_what_an_mcp_server_has_said_without_the_credential_is_withheld(
    kit: Kit, task: Any, mode: Mode, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    text = await answer(kit, mode, body, handle_tool_error=True)
    assert text.startswith("Denied:")
    assert "words of the server" not in text
    assert "called without the credential of this call" in caplog.text
    assert kit.decisions("look")[-1] == "no_credential"
    assert [grant.id for grant in kit.broker.issued] == kit.broker.revoked


@pytest.mark.promise("mcp-undelivered-denies")
@pytest.mark.parametrize("body", [with_the_token, meanwhile, several_at_once])
async def test_what_an_mcp_server_has_said_to_a_call_with_the_credential_comes_back(
    kit: Kit, task: Any, mode: Mode, body: Any
) -> None:
    assert "words of the server" in await answer(kit, mode, body)
    assert kit.decisions("look") == ["permit"]


async def test_a_tool_that_lists_a_servers_tools_needs_no_credential_for_that(
    kit: Kit, task: Any, mode: Mode
) -> None:
    assert "order" in await answer(kit, mode, listed_only)


async def test_a_tool_without_a_resource_may_call_an_mcp_server(kit: Kit, task: Any) -> None:
    tool = StructuredTool.from_function(coroutine=alone, name="look", description="d")
    wrapped = kit.wrap(tool, path="read")
    assert "words of the server" in str((await wrapped.ainvoke(tool_call("look"))).content)


async def test_a_call_of_a_server_outside_of_a_guarded_call_is_as_before() -> None:
    assert "words of the server" in await call()


@pytest.mark.promise("mcp-undelivered-denies")
async def test_a_tool_that_loads_mcp_while_it_runs_brings_back_nothing_unless_it_uses_its_credential(
    kit: Kit, task: Any, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ClientSession:
        async def send_request(self, *_arguments: Any) -> None: ...

    monkeypatch.delitem(sys.modules, "mcp.client.session")
    late: Any = SimpleNamespace(ClientSession=ClientSession)

    def look() -> str:
        monkeypatch.setitem(sys.modules, "mcp.client.session", late)
        return "what a server has said"

    wrapped = kit.wrap(StructuredTool.from_function(look, name="look", description="d"))
    assert (await mode.invoke(wrapped, tool_call("look"))).content.startswith("Denied:")
    assert (await mode.invoke(wrapped, tool_call("look"))).content == "what a server has said"
