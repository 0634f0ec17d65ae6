"""A server's own schema for its result holds up neither the event loop nor the end of the credential."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from langchain_mcp_adapters.client import MultiServerMCPClient

from agentguard import Denied, Resource
from agentguard.catalog import Catalog
from agentguard.langchain.messages import refusal
from agentguard.model import ToolPath, ToolSpec
from tests.conftest import Kit, tool_call
from tests.doubles.mcp_server import HostileServer, served

PATTERN = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}
REFERENCES = {
    "type": "object",
    "allOf": [{"$ref": "#/$defs/a0"}],
    "$defs": {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(22)} | {"a22": {}},
}


@pytest.mark.promise("schemas-in-bounded-time")
@pytest.mark.parametrize("schema", [PATTERN, REFERENCES])
@pytest.mark.parametrize("way", ["wrap", "interceptor"])
async def test_a_result_is_not_validated_by_a_schema_of_the_server(schema: dict[str, Any], way: str) -> None:
    kit = Kit()
    answer = await answer_of(kit, HostileServer(schema, {"x": "a" * 40 + "!"}), way)
    assert answer.status == "success"


@pytest.mark.promise("limits-hold", "revoked-before-looking")
@pytest.mark.parametrize("way", ["wrap", "interceptor"])
async def test_a_large_result_of_a_server_is_looked_at_without_a_credential(way: str) -> None:
    kit = Kit()
    content = {"rows": ["x" * 100] * 1_000}
    answer = await answer_of(kit, HostileServer({"type": "object"}, content), way)
    assert answer.status == "success"
    assert len(kit.broker.revoked) == 1


@pytest.mark.promise("body-bounded", "revoked-before-looking")
@pytest.mark.parametrize("way", ["wrap", "interceptor"])
async def test_an_answer_of_a_server_beyond_the_bounds_is_a_failed_call(way: str) -> None:
    kit = Kit()
    hostile = HostileServer({"type": "object"}, {"rows": [[]] * 250_000})
    with pytest.raises(httpx.RemoteProtocolError, match="holds more than is read of one"):
        await answer_of(kit, hostile, way)
    assert kit.outcomes() == ["failed"]
    assert len(kit.broker.revoked) == 1
    assert not kit.broker.live


async def answer_of(kit: Kit, hostile: HostileServer, way: str) -> Any:
    """Return what a call of the server's tool is answered with, in bounded time."""
    with served(hostile) as server:
        api = Resource(name="api", origins=(server.origin,))
        spec = ToolSpec(
            name="pay", path=ToolPath.WRITE, resource="api", schema={"type": "object"}, server="shop"
        )
        guard = kit.another(catalog=Catalog([spec], [api]))
        connection: Any = {"transport": "streamable_http", "url": f"{server.origin}/mcp"}
        client = MultiServerMCPClient({"shop": connection}, tool_interceptors=[guard.mcp_interceptor()])
        (tool,) = await client.get_tools()
        if way == "wrap":
            (tool,) = guard.wrap(tool)
        started = time.monotonic()
        async with guard.task("pay", subject="alice", mandate={"tools": "*"}):
            try:
                answer = await tool.ainvoke(tool_call("pay"))
            except Denied as denied:  # by the interceptor alone, outside of an agent
                answer = refusal(denied, "pay", "c1")
        assert time.monotonic() - started < 5, "either schema takes Python's own engine years"
        assert server.calls == 1
        assert not kit.broker.live
        return answer
