"""For each tool, the policies that can hold for it, so that a decision evaluates only these.

Cedar evaluates a policy as ``principal && action && resource && conditions`` and stops at the first
that is false. A head compares entities, which cannot fail. So a policy whose head is false for a tool
neither matches nor fails, whatever its conditions say. The answer without it has the same effect, the same
determining policies and the same errors (https://docs.cedarpolicy.com/auth/authorization.html). The entities
of a request are one action, whose only parent is the tool's path, and one resource: the tool's own, which has
no parent, or a thing, whose only parent is the tool's own. A head that names a thing is open to any tool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

from cedarpy import PolicySet

from agentguard.model import ToolSpec
from agentguard.policies.cedar.answers import Constants, constants_of
from agentguard.policies.cedar.schema import resource_of
from agentguard.policies.cedar.source import Rule

__all__ = ["Slice", "slices"]


class Slice:
    """Some rules in their order. Cedar parses them at their first use, once for all tools that share them."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)

    @cached_property
    def policies(self) -> PolicySet:
        """The rules as Cedar evaluates them; the number of each is its place among `rules`."""
        return PolicySet.from_str("\n".join(rule.text for rule in self.rules))

    @cached_property
    def constants(self) -> Constants:
        """The numbers that the rules only compare with constants, each with these."""
        return constants_of(self.policies)

    def rule(self, number: str) -> Rule:
        """Return the rule that Cedar knows by this number, such as ``policy7``.

        Raises:
            LookupError: There is none.
        """
        return self.rules[int(number.removeprefix("policy"))]


def slices(rules: Sequence[Rule], tools: Iterable[ToolSpec]) -> dict[str, Slice]:
    """Return, for each tool by its name, the rules whose head can be true for it.

    Tools with the same rules share one slice. A rule that is open to any tool is in each slice. So memory
    grows with the number of such rules times the number of tools that have rules of their own.
    """
    places: defaultdict[tuple[str | None, str | None], list[int]] = defaultdict(list)
    for place, rule in enumerate(rules):
        for action in (None,) if rule.head.actions is None else rule.head.actions:
            places[action, rule.head.resource].append(place)
    shared: dict[tuple[int, ...], Slice] = {}
    by_tool = {}
    for spec in tools:
        keys = [(a, r) for a in (spec.name, str(spec.path), None) for r in (resource_of(spec), None)]
        places_of_tool = tuple(sorted({place for key in keys for place in places.get(key, ())}))
        if places_of_tool not in shared:
            shared[places_of_tool] = Slice([rules[place] for place in places_of_tool])
        by_tool[spec.name] = shared[places_of_tool]
    return by_tool
