"""A grant that the user has not given, on a call of an MCP tool: the run waits, by each way in."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from agentguard import Denied
from agentguard.errors import DenialCode, GrantMissing
from tests.conftest import GO, scripted, tool_call, tool_messages
from tests.langchain.test_mcp import Gate, World, gate, server, text, world

__all__ = ["gate", "server", "world"]

CALL = tool_call("refund_order", order_id="4711", amount=3)
MISSING = GrantMissing(
    "answered 400 consent_required", code="consent_required", issuer="https://login.example"
)


@pytest.mark.promise("missing-grant-asked", "missing-grant-url")
async def test_a_call_of_an_mcp_tool_waits_for_what_its_issuer_misses(world: World, gate: Gate) -> None:
    world.bearers()
    world.bearer.issue_error = MISSING
    tools, layers = gate(world, await world.tool("refund_order"))
    agent: Any = create_agent(scripted(CALL), tools, middleware=layers, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    async with world.task():
        (question,) = (await agent.ainvoke(GO, config))["__interrupt__"]
        assert world.server.calls() == []
        world.bearer.issue_error = None
        result = await agent.ainvoke(Command(resume={question.id: True}), config)
    assert question.value["grant"] == {
        "code": "consent_required",
        "issuer": "https://login.example",
        "resource": "orders",
        "scopes": [],
    }
    assert text(tool_messages(result)[0]) == "refunded 3 for 4711"
    assert len(world.server.calls()) == 1


@pytest.mark.promise("missing-grant-denied")
async def test_a_call_of_an_mcp_tool_outside_a_graph_is_denied(world: World) -> None:
    world.bearers()
    world.bearer.issue_error = MISSING
    tool = await world.tool("refund_order")
    async with world.task():
        with pytest.raises(Denied, match="has not given"):
            await tool.ainvoke(CALL)
    assert world.kit.decisions()[-1] == DenialCode.GRANT_MISSING
    assert world.server.calls() == []
