"""The facts of one tool, out of all that are declared, and what they must satisfy together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agentguard.errors import ConfigurationError
from agentguard.model.facts import FactSpec
from agentguard.model.tool import ToolPath, ToolSpec

__all__ = ["require_no_circle", "with_facts"]


def with_facts(spec: ToolSpec, facts: Mapping[str, FactSpec]) -> ToolSpec:
    """Return a classification with those of *facts* that hold for its tool.

    Raises:
        ConfigurationError: An argument of a key does not exist, two facts are what the tool acts on, or the
            tool reads a fact and is not on the READ path.
    """
    own_facts = tuple(fact for _, fact in sorted(facts.items()) if spec.name in fact.keys)
    for fact in own_facts:
        _require_arguments(fact, spec)
    for fact in facts.values():
        if fact.tool == spec.name and spec.path is not ToolPath.READ:
            raise ConfigurationError(
                f"fact {fact.name} is read by {spec.name}, which is a tool of the path {spec.path}",
                hint="let a READ tool read it: a decision changes nothing",
            )
    resources = [fact for fact in own_facts if fact.resource]
    if len(resources) > 1:
        names = " and ".join(fact.name for fact in resources)
        raise ConfigurationError(
            f"the facts {names} are both what {spec.name} acts on", hint="leave resource out of one of them"
        )
    if resources and spec.instance is not None and resources[0].keys[spec.name] != (spec.instance,):
        raise ConfigurationError(
            f"tool {spec.name} acts on what {spec.instance} names, and fact {resources[0].name} is another",
            hint=f"let {spec.instance} be the key of the fact, or leave out one of the two",
        )
    return spec if own_facts == spec.facts else replace(spec, facts=own_facts)


def _require_arguments(fact: FactSpec, spec: ToolSpec) -> None:
    properties = (spec.schema or {}).get("properties")
    if properties is None:  # not known yet
        return
    if unknown := [name for name in fact.keys[spec.name] if name not in properties]:
        raise ConfigurationError(
            f"fact {fact.name}: tool {spec.name} has no argument {unknown[0]}",
            hint=f"use: {', '.join(sorted(properties)) or 'none: it has no arguments'}",
        )


def require_no_circle(facts: Mapping[str, FactSpec]) -> None:
    """Refuse facts of which one is needed to judge the reading of itself.

    A fact that a tool reads needs all the facts that hold for this tool, since its call is judged like any
    other.

    Raises:
        ConfigurationError: There is such a circle.
    """
    needs = {
        name: [other for other, own_facts in facts.items() if fact.tool in own_facts.keys]
        for name, fact in facts.items()
    }
    for start in sorted(facts):
        waiting, reached = list(needs[start]), set[str]()
        while waiting:
            name = waiting.pop()
            if name == start:
                raise ConfigurationError(
                    f"fact {start} is needed to judge the call of {facts[start].tool}, by which it is read",
                    hint=f"leave {facts[start].tool} out of the tools of the fact, or read it otherwise",
                )
            if name not in reached:
                reached.add(name)
                waiting += needs[name]
