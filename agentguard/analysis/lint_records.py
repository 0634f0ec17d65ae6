"""Gaps in a set of policies that only show beside facts, or beside calls that were recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from agentguard.analysis.changes import approved
from agentguard.audit.requests import replayed
from agentguard.model import ToolSpec
from agentguard.policies.cedar.source import Rule

__all__ = ["find_unasked_facts", "find_unmet"]


def find_unasked_facts(policy: Any, tools: Iterable[ToolSpec]) -> tuple[str, ...]:
    """Return the facts that no rule looks at; none where the policy does not say what it looks at."""
    facts_for = getattr(policy, "facts_for", None)
    specs = tuple(tools)
    if facts_for is None:
        return ()
    names = {fact.name for spec in specs for fact in spec.facts}
    return tuple(sorted(names - {name for spec in specs for name in facts_for(spec)}))


def find_unmet(
    policy: Any, records: Iterable[Mapping[str, Any]], tool: Callable[[str], ToolSpec | None]
) -> Iterator[Rule]:
    """Yield each rule that applies to no recorded request, with or without a person's approval.

    A rule about a rare case is one of these. So is a rule whose author has erred.
    """
    examine, rules = getattr(policy, "examine", None), tuple(getattr(policy, "rules", ()))
    if examine is None:
        return
    met = set[str]()
    for record in records:
        spec, request = tool(str(record.get("tool"))), record.get("request")
        if record.get("event") != "decision" or spec is None or not isinstance(request, Mapping):
            continue
        try:
            question = replayed(request, spec)
            for version in (question, approved(question)):
                met |= {one.rule.id for one in examine(version) if not one.unmet}
        except ValueError:  # the tool takes other arguments now
            continue
    yield from (rule for rule in rules if rule.id not in met)
