"""The type check of Cedar policies against the catalog, as errors that say where and how to correct it.

Cedar's validator names neither file nor line nor @id; all three are put back here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from cedarpy import Schema, validate_policies

from agentguard.errors import ConfigurationError
from agentguard.model import ToolPath, ToolSpec
from agentguard.policies.cedar.schema import resource_of, schema_text
from agentguard.policies.cedar.source import Rule, closest
from agentguard.policies.cedar.types import ToolShape

__all__ = ["validate"]

_PREFIX = re.compile(r"^for policy `policy\d+`[,:] ")
_ATTRIBUTE = re.compile(r'attribute `(?:provenance\.)?args\.([^`]*)` in context for Action::"(.*)" not found')
_ACTION = re.compile(r'unrecognized action `Action::"(.*)"`')
_RESOURCE = re.compile(r'enumerated entity type, but `"(.*)"` is not')
_HINTS = (
    ("saw decimal", 'a JSON number is a Cedar decimal: .lessThanOrEqual(decimal("100.0")), and so on'),
    ("optional attribute", "test for it first: context.args has note && context.args.note == ..."),
    ("applicable action", "let the rule name a tool or a path, a principal of type Agent, and a resource"),
)


_TOGETHER = 4


def validate(
    rules: Sequence[Rule],
    specs: Collection[ToolSpec],
    shapes: Mapping[str, ToolShape],
    environment: Iterable[str] = (),
    together: int = _TOGETHER,
) -> None:
    """Check the rules against the schema of the tools.

    Cedar checks each rule for each tool, so that time would grow with their product. Rules whose
    heads name none but a few tools are therefore first checked as if there were only *together*
    tools: the other tools make their heads false, and Cedar finds nothing wrong behind a false head.
    Fewer names can only make more errors, so what passes is right; the rest is checked for all tools.

    The arguments of a tool whose schema is not known yet are checked when it is, and until then
    every call of it that has arguments is denied.

    Raises:
        ConfigurationError: For the first policy that is wrong, with file, line and @id.
    """
    untyped = {spec.name for spec in specs if spec.schema is None}
    remaining: set[int] = set()
    for part, places in _parts(rules, specs, together):
        found = places if part is None else _errors(rules, places, schema_text(part, shapes, environment))
        remaining.update(found)
    judged = _errors(rules, sorted(remaining), schema_text(specs, shapes, environment))
    errors = [
        (place, problem)
        for place, problems in judged.items()
        for problem in problems
        if not _is_early(problem, untyped)
    ]
    if not errors:
        return
    # of several in one rule always the same, and rather one that quotes what is wrong
    place, problem = min(errors, key=lambda error: (error[0], "`" not in error[1], error[1]))
    rule = rules[place]
    others = len({place for place, _ in errors}) - 1
    raise ConfigurationError(
        f'policy "{rule.id}": {problem}' + (f" (other policies with errors: {others})" if others else ""),
        hint=_mend(problem, shapes, specs),
        file=rule.file,
        line=rule.line_of(problem),
    )


def _parts(
    rules: Sequence[Rule], specs: Collection[ToolSpec], together: int
) -> Iterator[tuple[list[ToolSpec] | None, list[int]]]:
    """Yield the places of rules with the few tools that they can be about; None stands for all tools."""
    tools = sorted(specs, key=lambda spec: spec.name)
    several = len(tools) > together
    part_of = {spec.name: place // together for place, spec in enumerate(tools)} if several else {}
    parts: dict[int | None, list[int]] = {}
    for place, rule in enumerate(rules):
        found = {part_of.get(name) for name in rule.head.actions or ()}
        parts.setdefault(found.pop() if len(found) == 1 else None, []).append(place)
    for part, places in parts.items():
        yield None if part is None else tools[part * together : (part + 1) * together], places


def _errors(rules: Sequence[Rule], places: Sequence[int], schema: str) -> dict[int, list[str]]:
    """Return what Cedar finds wrong with the rules at these places, by their places."""
    text = "\n".join(rules[place].text for place in places)
    try:
        found = validate_policies(text, Schema.from_str(schema)).errors
    except ValueError as error:
        raise ConfigurationError(
            f"the tools have no Cedar schema: {error}", hint="rename the tool or argument that it names"
        ) from error
    errors: dict[int, list[str]] = {}
    for wrong in found:
        place = places[int(wrong.policy_id.removeprefix("policy"))]
        errors.setdefault(place, []).append(_PREFIX.sub("", wrong.error))
    return errors


def _is_early(problem: str, untyped: set[str]) -> bool:
    attribute = _ATTRIBUTE.search(problem)
    return attribute is not None and attribute[2] in untyped


def _mend(problem: str, shapes: Mapping[str, ToolShape], specs: Collection[ToolSpec]) -> str:
    if found := _ATTRIBUTE.search(problem):
        shape = shapes.get(found[2])
        if shape is not None and found[1] in shape.unseen:
            return f"Cedar has no type for {found[1]}: give it a plain type, or judge another argument"
        return closest(found[1], () if shape is None else shape.names)
    if found := _ACTION.search(problem):
        return closest(found[1], [*shapes, *ToolPath])
    if found := _RESOURCE.search(problem):
        return closest(found[1], [resource_of(spec) for spec in specs])
    return next((hint for word, hint in _HINTS if word in problem), "correct the rule, or the tool's schema")
