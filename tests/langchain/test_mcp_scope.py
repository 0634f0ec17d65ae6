"""The scope that an MCP server demands is told to the operator, by whichever gate its tool is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.doubles.mcp_server import McpServer, serving
from tests.doubles.mcp_shop import shop
from tests.langchain.test_mcp import Gate, World, alone, ask, middleware, wrapped


@pytest.fixture(scope="module")
def server() -> Iterator[McpServer]:
    with serving(shop()) as server:
        yield server


@pytest.fixture
def world(server: McpServer) -> World:
    return World(server)


@pytest.mark.promise("mcp-scope-for-the-operator")
@pytest.mark.parametrize("gate", [alone, wrapped, middleware])
async def test_a_call_that_lacks_a_scope_is_a_denial_that_names_the_scope_to_the_operator_alone(
    world: World, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    tool = await world.tool("get_order")
    world.server.scope = "orders:audit"
    with world.task():
        message: Any = await ask(world, gate, tool, order_id="4711")
    assert message.status == "error"
    assert message.text.startswith("Denied:")
    assert "orders:audit" not in repr(message)
    assert "it demands the scope orders:audit" in caplog.text
    denial = next(r for r in world.kit.audit.records() if r.get("code") == "no_credential")
    assert "orders:audit" in str(denial["reason"])
    assert len(world.server.calls()) == 1
