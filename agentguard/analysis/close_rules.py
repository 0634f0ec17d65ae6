"""The rules that came close to another decision, with the conditions that failed and what these saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentguard.model import AccessRequest
from agentguard.policies.cedar.conditions import ExaminedCondition, ExaminedRule

__all__ = ["close_rules"]

MOST = 5
"""How many rules are told at most, those with the fewest failed conditions first."""


def close_rules(policy: Any, request: AccessRequest, *, permitted: bool) -> Iterator[str]:
    """Yield a line for each condition that failed, of the rules that could have turned the decision.

    These are permits where the call is denied or needs a person, and forbids where it is permitted. A policy
    that has no `examine`, such as a decision point elsewhere, yields nothing.
    """
    examine = getattr(policy, "examine", None)
    try:
        rules: tuple[ExaminedRule, ...] = () if examine is None else examine(request)
    except ValueError:  # the request has no Cedar form, and the decision has said so
        return
    effect = "forbid" if permitted else "permit"
    near = [rule for rule in rules if rule.unmet and rule.rule.node.effect == effect]
    for rule in sorted(near, key=lambda rule: len(rule.unmet))[:MOST]:
        for condition in rule.unmet:
            yield f"{rule.rule.id} ({rule.rule.file}:{rule.rule.line}): {_words(condition)}"


def _words(condition: ExaminedCondition) -> str:
    problem = "does not hold" if condition.is_met is False else "cannot be evaluated for this call"
    values = ", ".join(f"{place} is {value!r}" for place, value in condition.values.items())
    return f"{condition.text} {problem}{f'; {values}' if values else ''}"
