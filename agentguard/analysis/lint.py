"""Gaps in a set of policies that are no errors, and that no type check finds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches

from cedarpy import pst

from agentguard.model import ToolSpec
from agentguard.model.tool import ALL, OF_CALL, VOUCHING_AUTHORS
from agentguard.policies.cedar.names import applies_to as head_applies_to
from agentguard.policies.cedar.names import field_names, listed_names
from agentguard.policies.cedar.source import Rule
from agentguard.policies.cedar.types import shape_of

__all__ = [
    "applies_to",
    "find_overruled",
    "find_unclassified",
    "find_ungiven",
    "find_unknown_fields",
    "find_unknown_kinds",
    "find_unmentioned",
    "find_unsatisfiable",
    "find_unseen_arguments",
    "find_unvouched",
    "find_unvouching",
]


def find_unseen_arguments(tools: Iterable[ToolSpec]) -> Mapping[str, tuple[str, ...]]:
    """Return the arguments that no rule can see, for each tool that has any.

    Cedar has no type for them; ``*`` stands for arguments that the schema accepts without naming.
    """
    unseen = {spec.name: shape_of(spec).unseen for spec in tools}
    return {name: places for name, places in sorted(unseen.items()) if places}


def find_unmentioned(rules: Iterable[Rule], tools: Iterable[ToolSpec]) -> tuple[str, ...]:
    """Return the tools that no policy mentions: by name, by path, or by a permit that is open to any tool."""
    specs, mentioned = tuple(tools), set[str]()
    for rule in rules:
        actions = {
            uid.id for uid in pst.entity_uids(rule.node) if uid.type == pst.EntityType(basename="Action")
        }
        if not actions and rule.node.effect == "permit":
            mentioned |= {spec.name for spec in specs if applies_to(rule, spec)}
        mentioned |= actions
    return tuple(sorted(spec.name for spec in specs if not {spec.name, str(spec.path)} & mentioned))


def find_unclassified(names: Iterable[str], tools: Iterable[ToolSpec]) -> tuple[str, ...]:
    """Return the names that the catalog does not classify; a call to such a tool is denied."""
    return tuple(sorted(set(names) - {spec.name for spec in tools}))


def find_unsatisfiable(
    rules: Iterable[Rule], tools: Iterable[ToolSpec], kinds: Collection[str]
) -> Iterator[tuple[Rule, str]]:
    """Yield rules that can never apply, and why: they demand a kind, a tool or a source that does not exist.

    Only demands that a ``when`` makes in any case are checked, and no contradiction between two demands is
    found. *kinds* are the names of all templates; if there are none, demands of a kind are not checked.
    """
    specs = tuple(tools)
    names = {spec.name for spec in specs}
    names_by_place = {"context.history": names, "sources": names | {"user", "application"}}
    names_by_place |= {"context.task.kinds": set(kinds)} if kinds else {}
    for rule in rules:
        for demand in _demands(rule.node):
            if (why := _unmet(demand, names_by_place)) is not None:
                yield rule, why
                break


def find_overruled(rules: Iterable[Rule], tools: Iterable[ToolSpec]) -> tuple[Rule, ...]:
    """Return the permits whose tools are all forbidden by rules without conditions."""
    specs, all_rules = tuple(tools), tuple(rules)
    forbidden: set[str] = set()
    for rule in all_rules:
        node = rule.node
        if node.effect == "forbid" and not node.clauses and isinstance(node.principal, pst.ScopeAny):
            forbidden |= {spec.name for spec in specs if applies_to(rule, spec)}
    tools_of = {rule: {spec.name for spec in specs if applies_to(rule, spec)} for rule in all_rules}
    return tuple(
        rule
        for rule, names in tools_of.items()
        if names and names <= forbidden and rule.node.effect == "permit"
    )


def find_ungiven(
    rules: Iterable[Rule], tools: Iterable[ToolSpec], in_templates: Collection[str]
) -> Iterator[tuple[Rule, str]]:
    """Yield permits, each with a tool that it names and that no template gives: the permit is too wide."""
    names = {spec.name for spec in tools}
    for rule in rules:
        if rule.node.effect == "permit":
            for name in rule.head.actions or ():
                if name in names and name not in in_templates:
                    yield rule, name


def find_unvouched(rules: Iterable[Rule], tools: Iterable[ToolSpec]) -> Iterator[tuple[Rule, str]]:
    """Yield permits that rely on a field of a tool's result that the tool's `trusted` does not list."""
    specs = tuple(tools)
    names = {spec.name for spec in specs}
    trusted = {f"{spec.name}.{field}" for spec in specs for field in (*spec.trusted, *spec.records)}
    whole = {spec.name for spec in specs if "*" in {*spec.trusted, *spec.records}}
    for rule in rules:
        node = rule.node
        for place, source in map(_membership, _demands(node)) if node.effect == "permit" else ():
            tool, _, field = source.partition(".")
            if place == "sources" and tool in names and field and tool not in whole and source not in trusted:
                yield rule, source


def find_unvouching(tools: Iterable[ToolSpec]) -> Iterator[tuple[ToolSpec, str, str]]:
    """Yield what a tool's `records` name and does not exist: the tool, the field, and the name.

    That is a source that is no trusted field of a tool, or an argument that the tool does not take.
    """
    specs = tuple(tools)
    trusted = {f"{spec.name}.{field}" for spec in specs for field in spec.trusted} | VOUCHING_AUTHORS
    whole = tuple(f"{spec.name}." for spec in specs if ALL in spec.trusted)
    for spec in specs:
        for field, vouchers in sorted(spec.records.items()):
            for voucher, sources in sorted(vouchers.items()):
                argument = voucher.removeprefix(OF_CALL).partition(".")[0]
                names = None if spec.schema is None else spec.schema.get("properties", {})
                if voucher.startswith(OF_CALL) and names is not None and argument not in names:
                    yield spec, field, voucher
                for source in sorted(sources - trusted):
                    if not f"{source}.".startswith(whole):
                        yield spec, field, source


def applies_to(rule: Rule, spec: ToolSpec) -> bool:
    """Return whether the head of a rule can be true for this tool."""
    return head_applies_to(rule.head, spec)


def find_unknown_kinds(rules: Iterable[Rule], kinds: Collection[str]) -> Iterator[tuple[Rule, str]]:
    """Yield the rules that ask about a kind of task that no template has, and the kind."""
    for rule in rules:
        if "kinds" in rule.text or "\\" in rule.text:
            for place, name in listed_names(rule.node):
                if place == "kinds" and name not in kinds:
                    yield rule, name


def find_unknown_fields(
    rules: Iterable[Rule], tools: Iterable[ToolSpec]
) -> Iterator[tuple[Rule, str, str | None]]:
    """Yield the rules that name a field of a tool's result that the tool's `trusted` does not list.

    With each comes the source, and the listed field that was probably meant. Only the tool knows which other
    fields its result has, so without such a field the name may be right.
    """
    specs = {spec.name: spec for spec in tools}
    for rule in rules:
        for source in field_names(rule.node) if "sources" in rule.text or "\\" in rule.text else ():
            tool, _, field = source.partition(".")
            spec = specs.get(tool)
            if spec is None or source in specs:
                continue
            fields = {*spec.trusted, *spec.records}
            if not fields & {field, "*"}:
                close = get_close_matches(field, fields, 1)
                yield rule, source, f"{tool}.{close[0]}" if close else None


def _demands(node: pst.Template) -> Iterator[pst.Expr]:
    """Yield the conditions that must all hold for the policy to apply."""
    waiting = [clause.expr for clause in node.clauses if isinstance(clause, pst.When)]
    while waiting:
        expr = waiting.pop()
        if isinstance(expr, pst.BinaryOp) and expr.op == "and":
            waiting += [expr.right, expr.left]
        else:
            yield expr


def _unmet(demand: pst.Expr, names_by_place: Mapping[str, Collection[str]]) -> str | None:
    if isinstance(demand, pst.BoolLit) and not demand.value:
        return "it demands false"
    place, name = _membership(demand)
    # a field stands for its tool: only the tool knows which fields its result has
    if place in names_by_place and {name, name.partition(".")[0]}.isdisjoint(names_by_place[place]):
        return f"it demands {name!r}, and {_THERE_IS[place]}"
    return None


def _membership(demand: pst.Expr) -> tuple[str, str]:
    """Return the set that must contain a name, and the name; the set by its path, or ``sources``.

    Both are empty for any other demand.
    """
    match demand:
        case pst.BinaryOp(op="contains", left=pst.GetAttr() as attribute, right=pst.StringLit(value=name)):
            path = _path(attribute)
            return "sources" if path.startswith("context.provenance.args.") else path, name
    return "", ""


def _path(expr: pst.Expr) -> str:
    if isinstance(expr, pst.GetAttr):
        return f"{_path(expr.base)}.{expr.attr}"
    return expr.name if isinstance(expr, pst.Var) else "?"


_THERE_IS = {
    "context.task.kinds": "there is no such [tasks]",
    "context.history": "there is no such tool",
    "sources": "no value comes from there",
}
