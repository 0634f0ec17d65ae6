"""What is asked of the analyzer about old and new rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from cedarpy import policies_from_json_str, policies_to_json_str

from agentguard.cli.prove.analyzer import Answer
from agentguard.model import ToolSpec
from agentguard.policies.cedar.instances import opened
from agentguard.policies.cedar.policy import CedarPolicy
from agentguard.policies.cedar.shapes import ToolShape
from agentguard.policies.cedar.slices import slices
from agentguard.policies.cedar.source import Rule
from agentguard.policies.cedar.types import shape_of

__all__ = ["Finding", "Rules", "joint_schema", "never_matching", "reached", "widened"]

Ask = Callable[..., Answer]
_OLD = "old rule "
_APPROVAL = {"left": {"Var": "context"}, "attr": "approval"}


class Finding(NamedTuple):
    """What was found of a tool or a rule, and a request that shows it."""

    subject: str
    example: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """Some rules as they are for some tools: for each tool those whose head can be true."""

    by_tool: dict[str, tuple[Rule, ...]]
    resource_types: dict[str, str]
    all: tuple[Rule, ...]

    @classmethod
    def of(cls, rules: Iterable[Rule], tools: Sequence[ToolSpec]) -> Rules:
        """Divide rules by tool."""
        rules = tuple(rules)
        shapes: dict[str, ToolShape] = {spec.name: shape_of(spec) for spec in tools}
        divided = slices(opened(rules, shapes), tools)
        types = {name: "Resource" if s.instance is None else s.instance.entity for name, s in shapes.items()}
        return cls({name: part.rules for name, part in divided.items()}, types, rules)

    def text(self, tool: str) -> str:
        """Return the rules for a tool, as Cedar reads them; without any, each call is denied."""
        return "\n".join(rule.text for rule in self.by_tool.get(tool, ()))


def joint_schema(
    old: Iterable[Rule], new: Iterable[Rule], tools: Sequence[ToolSpec], environment: Iterable[str]
) -> str:
    """Return a schema in which old and new rules have all that they look at.

    Raises:
        ConfigurationError: An old or a new rule does not fit these tools.
    """
    renamed = [replace(rule, id=f"{_OLD}{rule.id}") for rule in old]
    policy = CedarPolicy([*renamed, *new], environment=environment)
    policy.check_tools(tools)
    return policy.schema


def widened(ask: Ask, old: Rules, new: Rules) -> Iterator[Finding]:
    """Yield each tool of which the new rules permit a call that the old ones do not, with such a call."""
    for tool in sorted(new.by_tool):
        kind = new.resource_types[tool]
        answer = ask("implies", tool, kind, policies1=new.text(tool), policies2=old.text(tool))
        if not answer.holds:
            yield Finding(tool, answer.example)


def never_matching(ask: Ask, rules: Rules) -> Iterator[Finding]:
    """Yield each rule that matches no call of any tool."""
    tools_of: dict[str, list[tuple[str, Rule]]] = {}
    for tool, of_tool in sorted(rules.by_tool.items()):
        for rule in of_tool:
            tools_of.setdefault(rule.id, []).append((tool, rule))
    for places in tools_of.values():
        if all(
            ask("never-matches", tool, rules.resource_types[tool], policies=rule.text).holds
            for tool, rule in places
        ):
            rule = places[0][1]
            yield Finding(f"{rule.id} ({rule.file}:{rule.line})")
    for rule in rules.all:  # the head of these fits no tool, so nothing was asked about them
        if rule.id not in tools_of:
            yield Finding(f"{rule.id} ({rule.file}:{rule.line})")


def reached(ask: Ask, rules: Rules) -> Iterator[Finding]:
    """Yield each forbid of which an approval lets a call through, with such a call.

    A mandate, and so a template of a task, only takes away. So what no approval reaches, nothing reaches.
    """
    for tool, of_tool in sorted(rules.by_tool.items()):
        for rule in of_tool:
            if rule.node.effect != "forbid" or (exposed_calls := _without_approval(rule)) is None:
                continue
            kind = rules.resource_types[tool]
            answer = ask("disjoint", tool, kind, policies1=rules.text(tool), policies2=exposed_calls)
            if not answer.holds:
                yield Finding(f"{rule.id} ({rule.file}:{rule.line}): {tool}", answer.example)


def _without_approval(rule: Rule) -> str | None:
    """Return a permit of all that a forbid names where nobody has approved; None if it asks for no approval.

    A rule may ask for one in an ``unless``, in a ``when``, and deep within either. Where it does not ask,
    Cedar lets nothing through that the forbid names.
    """
    form = json.loads(policies_to_json_str(rule.text))
    (policy,) = form["staticPolicies"].values()
    clauses = policy.get("conditions", [])
    unapproved = _without_approvals(clauses)
    if unapproved == clauses:
        return None
    policy |= {"effect": "permit", "conditions": unapproved}
    return policies_from_json_str(json.dumps(form))


def _without_approvals(part: Any) -> Any:
    """Return a part of a rule in which ``context has approval`` is false.

    The validator lets a rule look into an approval only behind that question.
    """
    if isinstance(part, list):
        return list(map(_without_approvals, part))
    if not isinstance(part, dict):
        return part
    if part.get("has") == _APPROVAL:
        return {"Value": False}
    return {name: _without_approvals(inner) for name, inner in part.items()}
