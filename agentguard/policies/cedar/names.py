"""The names that rules ask about, compared with those that can exist.

Cedar's own type check says nothing of two kinds of mistyped names: ``context.args has nott`` is simply false,
and so is ``context.history.contains("lok")``. In a ``forbid`` or an ``unless`` such a condition turns a rule
off without a word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cedarpy import pst

from agentguard.catalog import RESERVED
from agentguard.model import TaskStatus, ToolSpec
from agentguard.model.inputs import ARGUMENT_INPUTS, INPUTS, in_group
from agentguard.model.looks import Look
from agentguard.model.origin_form import name_inside
from agentguard.policies.cedar.head import Head
from agentguard.policies.cedar.schema import resource_of
from agentguard.policies.cedar.source import Rule, closest
from agentguard.policies.cedar.syntax import Path, path_of, walk
from agentguard.policies.cedar.tallies import WINDOWS
from agentguard.policies.cedar.types import ToolShape

__all__ = ["WrongName", "applies_to", "field_names", "listed_names", "names_at", "wrong_names"]

# what a rule without any of these words asks about is checked by Cedar alone
_ASKS = re.compile(r"\\|\b(?:has|history|sources|sources_of_each|vouched_by|status|distinctions)\b")
_NAME = re.compile(r"[.:\[]")
_OF_TOOLS = frozenset({"args", "approval", "sizes", "counts"})
_PARTS = frozenset(row.cedar.partition(".")[0] for row in INPUTS if row.cedar) | _OF_TOOLS
_OF_ARGUMENT = frozenset(row.name for row in ARGUMENT_INPUTS)
_OF_ORIGIN = ("context", "provenance", "args")
_SOURCES = frozenset({"sources", "sources_of_each", "vouched_by"})
_APPROVAL = frozenset({"approvers", "approver"})
_OF_FACT = frozenset({"trusted", "sensitivity"})
_GROUPS = {
    "task": frozenset(row.name for row in in_group(INPUTS, "task")),
    "provenance": frozenset(row.name for row in in_group(INPUTS, "provenance")) | {"args", "facts"},
}


@dataclass(frozen=True, slots=True)
class WrongName:
    """A name in a rule that nothing can have; *hint* says which names there are."""

    name: str
    problem: str
    hint: str


def applies_to(head: Head, spec: ToolSpec) -> bool:
    """Return whether the head of a rule can be true for this tool."""
    by_action = head.actions is None or bool({spec.name, str(spec.path)} & set(head.actions))
    return by_action and head.resource in (None, resource_of(spec))


def wrong_names(
    rule: Rule, specs: Collection[ToolSpec], shapes: Mapping[str, ToolShape], environment: Collection[str]
) -> Iterator[WrongName]:
    """Yield the names after ``has``, of tools, of sources and of states that cannot exist.

    Nothing is said of the arguments of a tool whose schema is not known yet.
    """
    if _ASKS.search(rule.text) is None:
        return
    node = rule.node
    affected = [spec for spec in specs if applies_to(rule.head, spec)]
    for path, name in _tests(node):
        possible = names_at(path, affected, shapes, environment)
        if possible is not None and name not in possible:
            place = ".".join(path) or "context"
            hint = _unseen_hint(path, name, affected, shapes) or closest(name, possible)
            yield WrongName(name, f"`{name}` is never in {place}, so the test for it is always false", hint)
    tools = {spec.name for spec in specs}
    for place, name in listed_names(node):
        if place == "history" and name not in tools:
            problem = f"`{name}` is never in the history: there is no such tool"
            yield WrongName(name, problem, closest(name, tools))
        elif place == "sources" and name.partition(".")[0] not in tools | RESERVED and name not in tools:
            yield WrongName(name, f"no value comes from `{name}`", closest(name, tools | RESERVED))
        elif place == "status" and name not in set(TaskStatus):
            yield WrongName(name, f"no task is `{name}`", closest(name, TaskStatus))
    yield from _wrong_distinctions(node, affected, shapes)


def _wrong_distinctions(
    node: pst.Template, specs: list[ToolSpec], shapes: Mapping[str, ToolShape]
) -> Iterator[WrongName]:
    """Yield the distinctions whose first name is no argument of any of these tools.

    The rest of a distinction, such as the name of a class, is not checked: a schema does not hold it.
    """
    possible = _of_tools(["provenance", "args"], tuple(specs), shapes)
    for place, name in listed_names(node):
        if (
            place == "distinctions"
            and possible is not None
            and _NAME.split(name)[0] not in {*possible, "arguments"}
        ):
            yield WrongName(name, f"no argument is distinguished by `{name}`", closest(name, possible))


def listed_names(node: pst.Template) -> Iterator[tuple[str, str]]:
    """Yield each text that a rule compares with names in the context, and with which."""
    for expr in walk(node):
        if isinstance(expr, pst.BinaryOp):
            for side, other in ((expr.left, expr.right), (expr.right, expr.left)):
                if place := _place(path_of(side)):
                    yield from ((place, text) for text in _texts(other))


def field_names(node: pst.Template) -> Iterator[str]:
    """Yield the sources that a rule names with a field, such as ``get_order.customer``."""
    for place, name in listed_names(node):
        if place == "sources" and "." in name:
            yield name


def _place(path: Path | None) -> str:
    """Return which names the value at this path holds, or nothing."""
    if path in (("context", "history"), ("context", "distinctions")):
        return path[1]
    if path in (("context", "task", "kinds"), ("context", "task", "status")):
        return path[2]
    if path is not None and len(path) > 4 and path[:3] == _OF_ORIGIN and path[-1] in _SOURCES:
        return "sources"
    return ""


def _texts(expr: Any) -> Iterator[str]:
    """Yield the texts that an expression can be, or can hold."""
    if isinstance(expr, pst.StringLit):
        yield expr.value
    elif isinstance(expr, pst.Set):
        for element in expr.elements:
            yield from _texts(element)
    elif isinstance(expr, pst.IfThenElse):
        yield from _texts(expr.then_expr)
        yield from _texts(expr.else_expr)


def _tests(node: pst.Template) -> Iterator[tuple[Path, str]]:
    """Yield the path of each record that a rule tests with ``has``, and the name after it."""
    for expr in walk(node):
        if isinstance(expr, pst.HasAttr):
            path = path_of(expr.base) or ("?",)
            for name in expr.attrs:
                yield path, name
                path = (*path, name)


def names_at(
    path: Path, specs: Iterable[ToolSpec], shapes: Mapping[str, ToolShape], environment: Collection[str] = ()
) -> set[str] | None:
    """Return the names that the record at this path can have for some of these tools; None if not known."""
    variable, *parts = path
    if variable != "context":
        return _of_variable(variable, parts, [shapes[spec.name] for spec in specs])
    match parts:
        case []:
            return set(_PARTS)
        case ["environment" | "approval" as part]:
            return set(environment if part == "environment" else _APPROVAL)
        case ["task" | "provenance" as group]:
            return set(_GROUPS[group])
        case (
            ["provenance", "args", _, *_]
            | ["task", "done", *_]
            | ["sizes" | "counts" | "done_by_user" | "done_by_agent", *_]
        ):
            return _inside(parts, [shapes[spec.name] for spec in specs])
        case ["facts", *_] | ["provenance", "facts", *_]:
            return _of_facts(parts, [shapes[spec.name] for spec in specs])
        case ["args", *_] | ["provenance", "args"]:
            return _of_tools(parts, tuple(specs), shapes)
    return None


def _of_variable(variable: str, parts: list[str], shapes: Iterable[ToolShape]) -> set[str] | None:
    if variable == "resource":
        things = [shape.instance for shape in shapes]
        return {name for fact in things if fact is not None for name in fact.fields(parts)}
    # other entities have no attributes; a record of any other expression is left to Cedar's type check
    return set() if variable in ("principal", "action") else None


def _of_facts(parts: list[str], shapes: Sequence[ToolShape]) -> set[str]:
    if parts[0] == "provenance":
        parts = parts[1:]
        if len(parts) == 2:
            return set(_OF_FACT)
    if len(parts) == 1:
        return {name for shape in shapes for name in shape.facts}
    facts = [shape.facts.get(parts[1]) for shape in shapes]
    return {name for fact in facts if fact is not None for name in fact.fields(parts[2:])}


def _inside(parts: list[str], shapes: Iterable[ToolShape]) -> set[str]:
    """Return the names at a path in the provenance of an argument, or in what is counted."""
    if parts[0] == "task" or parts[0] in WINDOWS:
        path = parts[1:] if parts[0] == "task" else parts
        return {name for shape in shapes for name in shape.tallies.names_at(path)}
    if parts[0] == "provenance":
        return set(_OF_ARGUMENT).union(
            *(_names_inside(shape.looks.get(parts[2]), parts[3:]) for shape in shapes)
        )
    is_counted = parts[0] == "counts"
    return {name for shape in shapes for name in shape.lists.names_at(parts[1:], counted=is_counted)}


def _names_inside(look: Look | None, path: Iterable[str]) -> set[str]:
    for name in path:
        fields = {} if look is None else {name_inside(field): inner for field, inner in look.fields.items()}
        look = fields.get(name)
    return set() if look is None else {*map(name_inside, look.fields), *look.texts}


def _of_tools(
    parts: list[str], specs: tuple[ToolSpec, ...], shapes: Mapping[str, ToolShape]
) -> set[str] | None:
    if not specs or any(spec.schema is None for spec in specs):
        return None
    names: set[str] = set()
    for spec in specs:
        shape = shapes[spec.name]
        names |= set(shape.visible if parts[0] == "provenance" else shape.attributes(parts[1:]))
    return names


def _unseen_hint(
    path: Path, name: str, specs: Iterable[ToolSpec], shapes: Mapping[str, ToolShape]
) -> str | None:
    place = ".".join((*path[2:], name))
    if path[:2] == ("context", "args") and any(place in shapes[spec.name].unseen for spec in specs):
        return f"Cedar has no type for {place}: give it a plain type, or test another argument"
    return None
