"""What an author of policies should know and no type check says: gaps, not errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cedarpy import pst

from agentguard.model import ToolSpec
from agentguard.policies.cedar_source import Rule
from agentguard.policies.cedar_types import shape_of

__all__ = ["unclassified", "unmentioned", "unseen_arguments"]


def unseen_arguments(tools: Iterable[ToolSpec]) -> Mapping[str, tuple[str, ...]]:
    """Return, for each tool that has such, the arguments that no rule can see.

    Cedar has no type for them; ``*`` stands for arguments that the schema accepts without naming.
    """
    unseen = {spec.name: shape_of(spec).unseen for spec in tools}
    return {name: places for name, places in sorted(unseen.items()) if places}


def unmentioned(rules: Iterable[Rule], tools: Iterable[ToolSpec]) -> tuple[str, ...]:
    """Return the tools that no policy means: neither by name, nor by path, nor by permitting any."""
    named: set[str] = set()
    for rule in rules:
        actions = {
            uid.id for uid in pst.entity_uids(rule.node) if uid.type == pst.EntityType(basename="Action")
        }
        if not actions and rule.node.effect == "permit":
            return ()
        named |= actions
    return tuple(sorted(spec.name for spec in tools if not {spec.name, str(spec.path)} & named))


def unclassified(names: Iterable[str], tools: Iterable[ToolSpec]) -> tuple[str, ...]:
    """Return which of these names are nowhere classified; a call to such a tool is denied."""
    return tuple(sorted(set(names) - {spec.name for spec in tools}))
