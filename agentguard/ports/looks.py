"""What a policy looks at inside of the arguments of a call, so that nothing else is worked out for it."""

from __future__ import annotations

from typing import Any

from agentguard.model import ToolSpec
from agentguard.model.looks import Looks

__all__ = ["looks_of"]


def looks_of(policy: Any, tool: ToolSpec) -> Looks:
    """Return the places inside of a tool's arguments at whose provenance a policy looks.

    A policy says so by ``looks_for(tool)``. One that does not say may look at all places that the tool's
    schema declares.
    """
    looks = getattr(policy, "looks_for", None)
    if looks is None:
        return tool.looks
    places: Looks = looks(tool)
    return places
