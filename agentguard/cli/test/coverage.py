"""Which rules and which of their conditions the scenarios have tried."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentguard.analysis.changes import approved
from agentguard.audit.requests import replayed
from agentguard.errors import DenialCode
from agentguard.model import ToolSpec

__all__ = ["Coverage", "coverage_of"]


_AFTER_RULES = frozenset(
    {
        *(None, DenialCode.POLICY, DenialCode.OBLIGATION, DenialCode.BUDGET),
        *(DenialCode.APPROVAL_REFUSED, DenialCode.APPROVAL_UNAVAILABLE),
    }
)
"""How calls end that the rules were asked about: a permit, and denials by the rules or after them."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many rules have decided a call, how many conditions were met and unmet, and what was not tried."""

    rules: int
    conditions: int
    all_rules: int
    all_conditions: int
    gaps: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.rules} of {self.all_rules} rules have decided a call, and {self.conditions} of"
            f" {self.all_conditions} conditions were both met and not met"
        )


def coverage_of(
    policy: Any, records: Iterable[Mapping[str, Any]], tool: Callable[[str], ToolSpec | None]
) -> Coverage | None:
    """Return what the recorded decisions have tried of a policy; None if it has no rules to look into.

    A condition is tried in both ways if it was met by one request and not by another. One that stands alone
    in its rule is counted too: a rule that always applies is tested for half of what it says.
    """
    examine, rules = getattr(policy, "examine", None), tuple(getattr(policy, "rules", ()))
    if examine is None:
        return None
    decisive, ways = set[str](), defaultdict[tuple[str, str], set[bool | None]](set)
    for record in records:
        decisive.update(map(str, record.get("policies", ())))
        spec, request = tool(str(record.get("tool"))), record.get("request")
        if record.get("code") not in _AFTER_RULES or spec is None or not isinstance(request, Mapping):
            continue
        question = replayed(request, spec)
        # a record holds the question as it was before a person has approved the call
        for request_then in (question, approved(question)) if record.get("approval") else (question,):
            for examined in examine(request_then):
                for condition in examined.conditions:
                    ways[examined.rule.id, condition.text].add(condition.is_met)
    both = sum({True, False} <= way for way in ways.values())
    names = {rule.id: f"{rule.id} ({rule.file}:{rule.line})" for rule in rules}
    gaps = tuple(_gaps(names, decisive, ways))
    return Coverage(len(decisive & names.keys()), both, len(names), len(ways), gaps)


def _gaps(
    names: Mapping[str, str], decisive: set[str], ways: Mapping[tuple[str, str], set[bool | None]]
) -> Iterator[str]:
    for rule_id, name in names.items():
        if rule_id not in decisive:
            yield f"{name} has decided no call"
        for (of_rule, text), way in ways.items():
            if of_rule == rule_id and True not in way:
                yield f"{name}: {text} was never met"
            elif of_rule == rule_id and False not in way:
                yield f"{name}: {text} was always met"
