"""Calls of READ tools for facts: judged, recorded and credentialed like any other, and seen by no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentguard.enforcement.guarded_call import GuardedCall
from agentguard.errors import FactError
from agentguard.facts.tool import ToolCalls
from agentguard.langchain.gate import Gate, SealedPath, ToolInput
from agentguard.langchain.registry import GateRegistry
from agentguard.langchain.seal import RunningCall, running_call
from agentguard.model import AccessRequest, Json
from agentguard.provenance.labels import record_in

__all__ = ["fact_calls"]


def fact_calls(gates: GateRegistry) -> ToolCalls:
    """Return how the tools that these gates open are called for facts."""

    async def call(request: AccessRequest, tool: str, arguments: Mapping[str, Json]) -> Any:
        gate = _gate(gates, tool)
        return await _call(gate, gate.sync, request, arguments)

    async def acall(request: AccessRequest, tool: str, arguments: Mapping[str, Json]) -> Any:
        gate = _gate(gates, tool)
        return await _call(gate, gate.async_, request, arguments)

    return ToolCalls(call, acall)


def _gate(gates: GateRegistry, tool: str) -> Gate:
    gate = gates.live(tool)
    if gate is None:
        raise FactError(f"the guard has not seen the tool {tool}, or it is gone: wrap it and keep it")
    return gate


async def _call(gate: Gate, path: SealedPath, request: AccessRequest, arguments: Mapping[str, Json]) -> Any:
    """Call a tool for the task of a request, and return the record in its result.

    Raises:
        Denied: The call is denied.
    """
    tool_input = gate.part(arguments, None, None)
    if not isinstance(tool_input, ToolInput) or tool_input.injected:
        raise FactError(f"{gate.name} needs what only an application can inject")
    invocation = gate.invocation(tool_input)._replace(named_task=request.task.id, unseen=True)
    async with GuardedCall(path.flow, invocation) as permit:
        threads = gate.enforcement.results
        call = RunningCall(permit, gate.schema, threads, gate.target, gate.remote is not None)
        token = running_call.set(call)
        try:
            await path.run(dict(invocation.values))
        finally:
            running_call.reset(token)
        if permit.withheld is not None:
            raise permit.withheld
        return record_in(permit.result)
