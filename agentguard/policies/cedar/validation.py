"""The type check of Cedar policies against the catalog, with errors that say where and how to correct a rule.

Cedar's validator names neither the file, nor the line, nor the @id of a rule. They are added here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from cedarpy import Schema, validate_policies

from agentguard.errors import ConfigurationError
from agentguard.model import ToolPath, ToolSpec
from agentguard.policies.cedar.instances import wrong_comparisons
from agentguard.policies.cedar.names import names_at, wrong_names
from agentguard.policies.cedar.schema import resource_of, schema_text
from agentguard.policies.cedar.shapes import FactShape, ToolShape
from agentguard.policies.cedar.source import Rule, closest
from agentguard.policies.cedar.tallies import WINDOWS
from agentguard.policies.cedar.types import UNTYPED

__all__ = ["validate"]

_PREFIX = re.compile(r"^for policy `policy\d+`[,:] ")
_ATTRIBUTE = re.compile(r'attribute `(?:provenance\.)?args\.([^`]*)` in context for Action::"(.*)" not found')
_INNER = re.compile(
    r"attribute `((?:provenance\.args|sizes|counts|task\.done|done_by_user|done_by_agent)[^`]*)\.([^`.]*)`"
    r' in context for Action::"(.*)" not found'
)  # of a record inside of the provenance of an argument, of the lists, or of what was done
_ACTION = re.compile(r'unrecognized action `Action::"(.*)"`')
_RESOURCE = re.compile(r'enumerated entity type, but `"(.*)"` is not')
_FACT = re.compile(r'attribute `facts\.([^`]*)` in context for Action::"(.*)" not found')
_NO_FACTS = re.compile(r"attribute `(?:provenance\.)?facts` in context for Action::")
_FIELD = re.compile(r"attribute `([^`]*)` on entity type `(.*)` not found")
_OPTIONAL_FACT = re.compile(r"optional attribute `facts\.(?:([^`]*)\.)?([^`.]*)`")
_OPTIONAL_FIELD = re.compile(r"optional attribute `([^`.]*)` on entity type")
_OPTIONAL = re.compile(r"optional attribute `(?:args\.)?([^`.]*)")
_VISIBLE = "rules see only whether it is there, and where it came from"
_COUNT_IT = "say in the catalog what is counted: [tools.NAME] counted = true, or with sums and windows"
_HINTS = (
    *((f"attribute `{part}` in context", _COUNT_IT) for part in ("task.done", *WINDOWS)),
    ("`sizes` in context", "the tool has no list of which the schema says that it is one"),
    ("`counts` in context", "the tool has no list whose entries have a text to count them by"),
    ("saw decimal", 'a JSON number is a Cedar decimal: .lessThanOrEqual(decimal("100.0")), and so on'),
    (UNTYPED, f"Cedar has no type for this argument: {_VISIBLE}"),
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

    Cedar checks each rule for each tool, so the time would grow with the number of rules times the number
    of tools. A rule whose head names only a few tools is therefore first checked against a subset of
    *together* tools. All other tools make its head false, and behind a false head Cedar finds no error.
    Checking a rule against a subset can only report extra errors, never hide one. So a rule that passes is
    correct; a rule that fails is checked again against all tools.

    The arguments of a tool without a schema are checked as soon as its schema is known. Until then, every
    call of the tool that has arguments is denied.

    Raises:
        ConfigurationError: For the first policy that is wrong, with file, line and @id.
    """
    remaining: set[int] = set()
    for part, places in _parts(rules, specs, together):
        failed = places if part is None else _errors(rules, places, schema_text(part, shapes, environment))
        remaining.update(failed)
    errors_by_place = _errors(rules, sorted(remaining), schema_text(specs, shapes, environment))
    untyped = {spec.name for spec in specs if spec.schema is None}
    errors = [
        (place, problem)
        for place, problems in errors_by_place.items()
        for problem in problems
        if not _is_early(problem, untyped)
    ]
    if errors:
        raise _first(errors, rules, shapes, specs)
    for rule in rules:
        wrong_names_of_rule = wrong_names(rule, specs, shapes, tuple(environment))
        for wrong in chain(wrong_names_of_rule, wrong_comparisons(rule, specs, shapes)):
            raise ConfigurationError(
                f'policy "{rule.id}": {wrong.problem}',
                hint=wrong.hint,
                file=rule.file,
                line=rule.line_of(wrong.problem),
            )


def _first(
    errors: Sequence[tuple[int, str]],
    rules: Sequence[Rule],
    shapes: Mapping[str, ToolShape],
    specs: Collection[ToolSpec],
) -> ConfigurationError:
    """Return the error of the first rule that has one, by its place, with the number of the others."""
    # of several errors in one rule, always report the same one, and one that quotes a name if there is one
    place, problem = min(errors, key=lambda error: (error[0], "`" not in error[1], error[1]))
    rule = rules[place]
    other_count = len({place for place, _ in errors}) - 1
    return ConfigurationError(
        f'policy "{rule.id}": {problem}'
        + (f" (other policies with errors: {other_count})" if other_count else ""),
        hint=_hint(problem, shapes, specs),
        file=rule.file,
        line=rule.line_of(problem),
    )


def _parts(
    rules: Sequence[Rule], specs: Collection[ToolSpec], together: int
) -> Iterator[tuple[list[ToolSpec] | None, list[int]]]:
    """Yield the places of rules, each with the few tools that its rules name; None stands for all tools."""
    tools = sorted(specs, key=lambda spec: spec.name)
    several = len(tools) > together
    part_of = {spec.name: place // together for place, spec in enumerate(tools)} if several else {}
    parts: dict[int | None, list[int]] = {}
    for place, rule in enumerate(rules):
        numbers = {part_of.get(name) for name in rule.head.actions or ()}
        parts.setdefault(numbers.pop() if len(numbers) == 1 else None, []).append(place)
    for part, places in parts.items():
        yield None if part is None else tools[part * together : (part + 1) * together], places


def _errors(rules: Sequence[Rule], places: Sequence[int], schema: str) -> dict[int, list[str]]:
    """Return the errors that Cedar finds in the rules at these places, by place."""
    text = "\n".join(rules[place].text for place in places)
    try:
        problems = validate_policies(text, Schema.from_str(schema)).errors
    except ValueError as error:
        raise ConfigurationError(
            f"the tools have no Cedar schema: {error}", hint="rename the tool or argument that it names"
        ) from error
    errors: dict[int, list[str]] = {}
    for problem in problems:
        place = places[int(problem.policy_id.removeprefix("policy"))]
        errors.setdefault(place, []).append(_PREFIX.sub("", problem.error))
    return errors


def _is_early(problem: str, untyped: set[str]) -> bool:
    attribute = _ATTRIBUTE.search(problem)
    return attribute is not None and attribute[2] in untyped


def _hint(problem: str, shapes: Mapping[str, ToolShape], specs: Collection[ToolSpec]) -> str:
    if (inner := _INNER.search(problem)) and inner[3] in shapes:
        path = ("context", *inner[1].split("."))
        called = [spec for spec in specs if spec.name == inner[3]]
        return closest(inner[2], names_at(path, called, shapes) or ())
    if attribute := _ATTRIBUTE.search(problem):
        name, shape = attribute[1], shapes.get(attribute[2])
        if shape is not None and {name, name.partition(".")[0]} & {*shape.unseen, *shape.untyped}:
            return f"Cedar has no type for {name}: give it a plain type, or test another argument"
        return closest(name, () if shape is None else shape.names)
    if hint := _fact_hint(problem, shapes):
        return hint
    optional = _OPTIONAL.search(problem)
    if optional and any(optional[1] in shape.untyped for shape in shapes.values()):
        return f"Cedar has no type for {optional[1]}: {_VISIBLE}"
    if action := _ACTION.search(problem):
        return closest(action[1], [*shapes, *ToolPath])
    if resource := _RESOURCE.search(problem):
        return closest(resource[1], [resource_of(spec) for spec in specs])
    return next((hint for word, hint in _HINTS if word in problem), "correct the rule, or the tool's schema")


def _fact_hint(problem: str, shapes: Mapping[str, ToolShape]) -> str:
    """Return what to do about a mistake in what a rule says of facts, or nothing."""
    if optional := _OPTIONAL_FACT.search(problem):
        record = "context.facts" if optional[1] is None else f"context.facts.{optional[1]}"
        return f"test for it first: {record} has {optional[2]} && ..."
    if optional := _OPTIONAL_FIELD.search(problem):
        return f"test for it first: resource has {optional[1]} && ..."
    if _NO_FACTS.search(problem):
        names = ", ".join(sorted(name for name, shape in shapes.items() if shape.facts))
        return f"let the rule name tools that have facts: {names or 'there are none'}"
    if match := _FACT.search(problem):
        shape = shapes.get(match[2])
        return _field_hint(match[1].split("."), {} if shape is None else shape.facts)
    match = _FIELD.search(problem)
    things = [shape.instance for shape in shapes.values() if shape.instance is not None]
    return "" if match is None or not things else _thing_hint(match[1], match[2], things)


def _field_hint(path: Sequence[str], facts: Mapping[str, FactShape]) -> str:
    name, *fields = path
    if name not in facts:
        return closest(name, facts)
    if ".".join(fields) in facts[name].unseen:
        return f"Cedar has no type for {'.'.join(path)}: give it a plain type, or test another field"
    return closest(fields[-1], facts[name].fields(fields[:-1]))


def _thing_hint(path: str, kind: str, things: Sequence[FactShape]) -> str:
    if kind == "Resource":
        return f"say of which kind it is: resource is {min(fact.entity for fact in things)} && ..."
    fields = [name for fact in things if fact.entity == kind for name in fact.fields(path.split(".")[:-1])]
    return closest(path.rpartition(".")[2], fields)
