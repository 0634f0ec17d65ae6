"""The conditions of rules, one by one: which of them hold for a request, and the values that they see.

For authors of rules, and no part of a decision. Cedar answers for a whole rule alone. So a rule is taken
apart into the parts that must all hold: the operands of ``&&`` in a ``when``, and of ``||`` in an ``unless``,
of which none may hold. Each part is made a rule of its own, and Cedar evaluates all of them at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from cedarpy import PolicySet, policies_from_json_str, policies_to_json_str

from agentguard.model.arguments import Json
from agentguard.policies.cedar.source import Rule

__all__ = ["Conditions", "ExaminedCondition", "ExaminedRule", "conditions_of"]

_KEPT = 1024  # rules that are kept taken apart
_NAME_IN_PARENTHESES = re.compile(r'("(?:[^"\\]|\\.)*")|(?<!\w)\(([\w.]+)\)')  # or a text, which stays
_ANY = {"op": "All"}


@dataclass(frozen=True, slots=True)
class ExaminedCondition:
    """A part of a rule that must hold for the rule to apply, as it was for one request.

    `text` is the part in Cedar, with ``unless`` before one that must not hold. `is_met` is None where the
    part cannot be evaluated for this request. `values` are what it looks at, by place; what is not there is
    left out.
    """

    text: str
    is_met: bool | None
    values: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExaminedRule:
    """A rule whose head fits a request, and its conditions."""

    rule: Rule
    conditions: tuple[ExaminedCondition, ...]

    @property
    def unmet(self) -> tuple[ExaminedCondition, ...]:
        """The conditions that do not hold; none where the rule applies."""
        return tuple(condition for condition in self.conditions if not condition.is_met)


@dataclass(frozen=True, slots=True)
class _Part:
    """One part: its Cedar text, whether it must not hold, and the places that it looks at."""

    text: str
    is_exception: bool
    places: tuple[tuple[str, ...], ...]


class Conditions:
    """The parts of one rule, which Cedar has parsed."""

    def __init__(self, parts: tuple[_Part, ...]) -> None:
        self._parts = parts

    @cached_property
    def policies(self) -> PolicySet:
        """A permit for each part, which holds if the part is true; their numbers are the parts' places."""
        head = "permit (principal, action, resource)"
        return PolicySet.from_str("\n".join(f"{head} when {{ {part.text} }};" for part in self._parts))

    def examined(
        self, true: frozenset[str], unclear: frozenset[str], roots: Mapping[str, Json]
    ) -> tuple[ExaminedCondition, ...]:
        """Return the conditions.

        *true* are the numbers of the parts that are so, and *unclear* those of parts that cannot be
        evaluated. *roots* are the values of Cedar's variables.
        """
        return tuple(self._examined(true, unclear, roots))

    def _examined(
        self, true: frozenset[str], unclear: frozenset[str], roots: Mapping[str, Json]
    ) -> Iterator[ExaminedCondition]:
        for place, part in enumerate(self._parts):
            number = f"policy{place}"
            is_met = None if number in unclear else (number in true) is not part.is_exception
            text = f"unless {part.text}" if part.is_exception else part.text
            values = {".".join(path): value for path, value in _values(part.places, roots)}
            yield ExaminedCondition(text, is_met, values)


@lru_cache(_KEPT)
def conditions_of(rule_text: str) -> Conditions:
    """Take a rule apart."""
    (policy,) = json.loads(policies_to_json_str(rule_text))["staticPolicies"].values()
    parts = []
    for clause in policy.get("conditions", ()):
        is_exception = clause["kind"] == "unless"
        for body in _operands(clause["body"], "||" if is_exception else "&&"):
            places = tuple(dict.fromkeys(_places(body)))
            parts.append(_Part(_text(body), is_exception, places))
    return Conditions(tuple(parts))


def _operands(body: Any, operator: str) -> Iterator[Any]:
    """Yield the operands of an operator in their order, also where it is nested."""
    waiting = [body]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and operator in part:
            waiting += [part[operator]["right"], part[operator]["left"]]
        else:
            yield part


def _text(body: Any) -> str:
    """Return an expression in Cedar, without the parentheses that Cedar writes around each name."""
    policy: dict[str, Any] = {"effect": "permit", "principal": _ANY, "action": _ANY, "resource": _ANY}
    policy["conditions"] = [{"kind": "when", "body": body}]
    form = {"templates": {}, "staticPolicies": {"policy0": policy}, "templateLinks": []}
    text = policies_from_json_str(json.dumps(form))
    text = text[text.index("when {") + len("when {") : text.rindex("}")].strip()
    while (plainer := _NAME_IN_PARENTHESES.sub(r"\1\2", text)) != text:
        text = plainer
    return text


def _places(body: Any) -> Iterator[tuple[str, ...]]:
    """Yield the paths of attributes that an expression looks at, each from one of Cedar's variables."""
    waiting = [body]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if path := _path(part):
                yield path
                continue
            waiting += list(part.values())[::-1]
        elif isinstance(part, list):
            waiting += part[::-1]


def _path(part: Mapping[str, Any]) -> tuple[str, ...]:
    if "Var" in part:
        return (part["Var"],)
    attribute = part.get(".") or part.get("has")
    if isinstance(attribute, dict) and (base := _path(attribute["left"])):
        return (*base, attribute["attr"])
    return ()


def _values(
    places: tuple[tuple[str, ...], ...], roots: Mapping[str, Json]
) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Yield the values at these places; what is not there is left out, and so are whole variables."""
    for path in places:
        value: Any = roots
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None and len(path) > 1:
            yield path, _plain(value)


def _plain(value: Json) -> Json:
    """Return a value without the forms in which Cedar's JSON writes decimals, times and entities."""
    if isinstance(value, dict):
        if len(value) == 1 and "__extn" in value:
            return value["__extn"]["arg"]
        if len(value) == 1 and "__entity" in value:
            return value["__entity"]["id"]
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value
