"""A guard around one policy, for tests of what is made of its decisions."""

from __future__ import annotations

from typing import Any

from agentguard import Guard
from agentguard.analysis.decide import Decide, decider
from agentguard.catalog import Catalog
from agentguard.identity import LocalIdentity
from agentguard.model import Resource, ToolPath, ToolSpec
from agentguard.stores import MemoryStore
from agentguard.testing import RecordingAudit, RecordingBroker

__all__ = ["deciding", "guard_with"]


def guard_with(policy: Any, *tools: ToolSpec, **changes: Any) -> Guard:
    """Return a guard with this policy and these tools, a broker for each path, and a log of all requests."""
    resources = [Resource(name=name) for name in sorted({tool.resource for tool in tools if tool.resource})]
    parts: dict[str, Any] = {
        "catalog": Catalog(tools, resources),
        "policy": policy,
        "identity": LocalIdentity("agent://a"),
        "brokers": {(None, path): RecordingBroker() for path in ToolPath},
        "store": MemoryStore(),
        "audit": RecordingAudit(),
        "record_requests": True,
    }
    return Guard(**(parts | changes))


def deciding(policy: Any, *tools: ToolSpec) -> Decide:
    """Return the decisions of a guard with this policy and these tools."""
    return decider(guard_with(policy, *tools).enforcement)
