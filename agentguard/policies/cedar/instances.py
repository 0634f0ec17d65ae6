"""Rules about tools that act on one thing in their resource, such as an order in a shop.

The resource of such a call is the thing, with the tool's resource as its parent. A head that says
``resource == Resource::"shop"`` means the shop and all that is in it, as it did before the thing was known.
In the conditions of a rule, the same comparison would never be true, and would turn the rule off without a
word. So it is an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from cedarpy import pst

from agentguard.errors import ConfigurationError
from agentguard.model import ToolSpec
from agentguard.policies.cedar.head import is_resource, with_resource_in
from agentguard.policies.cedar.names import WrongName, applies_to
from agentguard.policies.cedar.schema import resource_of
from agentguard.policies.cedar.shapes import FactShape, ToolShape
from agentguard.policies.cedar.source import Rule

__all__ = ["opened", "require_types", "wrong_comparisons"]

_RESERVED = frozenset(
    {
        *("Action", "Agent", "Approval", "Bool", "Entity", "Environment", "Extension", "Fact", "Long"),
        *("Provenance", "Record", "Resource", "Set", "String", "Task", "Untyped"),
    }
)


def require_types(shapes: Mapping[str, ToolShape]) -> None:
    """Require that each fact that is a thing has a type of entities of its own.

    Raises:
        ConfigurationError: Its name stands for another type.
    """
    facts: dict[str, FactShape] = {}
    for shape in shapes.values():
        if (fact := shape.instance) is None:
            continue
        other = facts.setdefault(fact.entity, fact)
        if fact.entity in _RESERVED or other.spec.name != fact.spec.name:
            raise ConfigurationError(
                f"fact {fact.spec.name}: its type in Cedar, {fact.entity}, is that of something else",
                hint="rename the fact",
            )


def opened(rules: Sequence[Rule], shapes: Mapping[str, ToolShape]) -> tuple[Rule, ...]:
    """Return the rules, of which those about a resource also hold for what is in it."""
    if all(shape.instance is None for shape in shapes.values()):
        return tuple(rules)
    return tuple(map(_opened, rules))


def _opened(rule: Rule) -> Rule:
    text = None if rule.head.resource is None else with_resource_in(rule.text)
    return rule if text is None or text == rule.text else replace(rule, text=text)


def wrong_comparisons(
    rule: Rule, specs: Collection[ToolSpec], shapes: Mapping[str, ToolShape]
) -> Iterator[WrongName]:
    """Yield where a rule takes the thing that a tool acts on for a resource of the catalog."""
    for spec in specs:
        fact = shapes[spec.name].instance
        if fact is None or not applies_to(rule.head, spec):
            continue
        node = rule.node
        if _is_of_resources(node.resource) or any(map(_bare, node.clauses)):
            yield WrongName(
                "resource",
                f"the `resource` of {spec.name} is one {fact.entity}, and equals no Resource",
                f'write resource in Resource::"{resource_of(spec)}"',
            )
            return


def _is_of_resources(scope: Any) -> bool:
    """Return whether a head admits resources of the catalog alone."""
    match scope:
        case pst.ScopeEq(entity=pst.EntityUid(type=kind)):
            return is_resource(kind)
        case pst.ScopeIs(entity_type=kind) | pst.ScopeIsIn(entity_type=kind):
            return is_resource(kind)
    return False


def _bare(clause: Any) -> bool:
    """Return whether conditions use `resource` otherwise than by its fields, its type, or what it is in."""
    waiting: list[Any] = [clause]
    while waiting:
        node = waiting.pop()
        match node:
            case pst.GetAttr(base=pst.Var(name="resource")) | pst.HasAttr(base=pst.Var(name="resource")):
                continue
            case pst.BinaryOp(op="in", left=pst.Var(name="resource"), right=rest):
                waiting.append(rest)
                continue
            case pst.Is(base=pst.Var(name="resource"), entity_type=kind, in_expr=rest):
                if is_resource(kind):
                    return True
                waiting.append(rest)
                continue
            case (
                pst.BinaryOp(left=pst.Var(name="resource"), right=pst.EntityLit(value=uid))
                | pst.BinaryOp(left=pst.EntityLit(value=uid), right=pst.Var(name="resource"))
            ) if node.op in ("eq", "not_eq") and not is_resource(uid.type):
                continue
            case pst.Var(name="resource"):
                return True
        waiting += _parts(node)
    return False


def _parts(node: Any) -> list[Any]:
    if isinstance(node, tuple | list):
        return list(node)
    if isinstance(node, Mapping):
        return list(node.values())
    if is_dataclass(node):
        return [getattr(node, field.name) for field in fields(node)]
    return []
