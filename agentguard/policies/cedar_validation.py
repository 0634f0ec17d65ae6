"""The type check of Cedar policies against the catalog, as errors that say where and how to mend.

Cedar's validator names neither file nor line nor @id; all three are put back here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from cedarpy import Schema, validate_policies

from agentguard.errors import ConfigurationError
from agentguard.model import ToolPath, ToolSpec
from agentguard.policies.cedar_schema import resource_of
from agentguard.policies.cedar_source import Rule, closest
from agentguard.policies.cedar_types import ToolShape

__all__ = ["validate"]

_PREFIX = re.compile(r"^for policy `policy\d+`[,:] ")
_ATTRIBUTE = re.compile(r'attribute `args\.([^`]*)` in context for Action::"(.*)" not found')
_ACTION = re.compile(r'unrecognized action `Action::"(.*)"`')
_RESOURCE = re.compile(r'enumerated entity type, but `"(.*)"` is not')
_MENDS = (
    ("saw decimal", 'a JSON number is a Cedar decimal: .lessThanOrEqual(decimal("100.0")), and so on'),
    ("optional attribute", "test for it first: context.args has note && context.args.note == ..."),
    ("applicable action", "let the rule name a tool or a path, a principal of type Agent, and a resource"),
)


def validate(
    text: str,
    numbered: Mapping[str, Rule],
    schema: str,
    specs: Collection[ToolSpec],
    shapes: Mapping[str, ToolShape],
) -> None:
    """Check *text*, whose policies Cedar knows by the numbers in *numbered*, against *schema*.

    The arguments of a tool whose schema is not known yet are checked when it is, and until then
    every call of it that has arguments is denied.

    Raises:
        ConfigurationError: For the first policy that is wrong, with file, line and @id.
    """
    try:
        found = validate_policies(text, Schema.from_str(schema)).errors
    except ValueError as error:
        raise ConfigurationError(
            f"the tools have no Cedar schema: {error}", mend="rename the tool or argument that it names"
        ) from error
    untyped = {spec.name for spec in specs if spec.schema is None}
    errors = [error for error in found if not _is_early(error.error, untyped)]
    if not errors:
        return
    order = list(numbered)
    first = min(errors, key=lambda error: order.index(error.policy_id))
    rule, problem = numbered[first.policy_id], _PREFIX.sub("", first.error)
    others = len({error.policy_id for error in errors}) - 1
    raise ConfigurationError(
        f'policy "{rule.id}": {problem}' + (f" (other policies with errors: {others})" if others else ""),
        mend=_mend(problem, shapes, specs),
        file=rule.file,
        line=rule.line_of(problem),
    )


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
    return next((mend for word, mend in _MENDS if word in problem), "correct the rule, or the tool's schema")
