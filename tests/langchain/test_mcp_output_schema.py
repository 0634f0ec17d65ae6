"""A server's own schema for its result holds up neither the event loop nor the end of the credential."""

from __future__ import annotations

import time
from typing import Any

import pytest
from langchain_mcp_adapters.client import MultiServerMCPClient

from agentguard import Resource
from agentguard.catalog import Catalog
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
    with served(HostileServer(schema, {"x": "a" * 40 + "!"})) as server:
        kit = Kit()
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
            answer = await tool.ainvoke(tool_call("pay"))
        assert time.monotonic() - started < 5, "either schema takes Python's own engine years"
        assert server.calls == 1
        assert answer.status == "success"
        assert not kit.broker.live
