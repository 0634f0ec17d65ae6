"""The policies that can hold for a tool, apart from all others, so that a decision asks only these.

Cedar evaluates a policy as ``principal && action && resource && conditions`` and stops at the first
that is false. A head compares entities and cannot err. So a policy whose head is false for a tool
neither matches nor errs, whatever its conditions say, and the answer without it is the same: effect,
determining policies and errors (https://docs.cedarpolicy.com/auth/authorization.html). The entities
of a request are one action, whose only parent is the tool's path, and one resource, which has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

from cedarpy import PolicySet

from agentguard.model import ToolSpec
from agentguard.policies.cedar.schema import resource_of
from agentguard.policies.cedar.source import Rule

__all__ = ["Slice", "slices"]


class Slice:
    """Some rules in their order; Cedar parses them at the first use, once for all tools that share them."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)

    @cached_property
    def policies(self) -> PolicySet:
        """The rules as Cedar evaluates them; the number of each is its place among `rules`."""
        return PolicySet.from_str("\n".join(rule.text for rule in self.rules))

    def rule(self, number: str) -> Rule:
        """Return the rule that Cedar knows by this number, such as ``policy7``.

        Raises:
            LookupError: There is none.
        """
        return self.rules[int(number.removeprefix("policy"))]


def slices(rules: Sequence[Rule], tools: Iterable[ToolSpec]) -> dict[str, Slice]:
    """Return, for each tool by its name, the rules whose head can be true for it.

    Tools with the same rules share one slice. A rule that is open to any tool is in each slice, so
    memory grows with such rules times tools that have rules of their own.
    """
    places: defaultdict[tuple[str | None, str | None], list[int]] = defaultdict(list)
    for place, rule in enumerate(rules):
        for action in (None,) if rule.head.actions is None else rule.head.actions:
            places[action, rule.head.resource].append(place)
    shared: dict[tuple[int, ...], Slice] = {}
    found = {}
    for spec in tools:
        keys = [(a, r) for a in (spec.name, str(spec.path), None) for r in (resource_of(spec), None)]
        chosen = tuple(sorted({place for key in keys for place in places.get(key, ())}))
        if chosen not in shared:
            shared[chosen] = Slice([rules[place] for place in chosen])
        found[spec.name] = shared[chosen]
    return found
