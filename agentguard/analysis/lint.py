"""What an author of policies should know and no type check says: gaps, not errors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from cedarpy import pst

from agentguard.model import ToolSpec
from agentguard.policies.cedar.schema import resource_of
from agentguard.policies.cedar.source import Rule
from agentguard.policies.cedar.types import shape_of

__all__ = [
    "applies_to",
    "find_overruled",
    "find_unclassified",
    "find_ungiven",
    "find_unmentioned",
    "find_unsatisfiable",
    "find_unseen_arguments",
    "find_unvouched",
]


def find_unseen_arguments(tools: Iterable[ToolSpec]) -> Mapping[str, tuple[str, ...]]:
    """Return, for each tool that has such, the arguments that no rule can see.

    Cedar has no type for them; ``*`` stands for arguments that the schema accepts without naming.
    """
    unseen = {spec.name: shape_of(spec).unseen for spec in tools}
    return {name: places for name, places in sorted(unseen.items()) if places}


def find_unmentioned(rules: Iterable[Rule], tools: Iterable[ToolSpec]) -> tuple[str, ...]:
    """Return the tools that no policy means: neither by name, nor by path, nor by permitting any."""
    known, named = tuple(tools), set[str]()
    for rule in rules:
        actions = {
            uid.id for uid in pst.entity_uids(rule.node) if uid.type == pst.EntityType(basename="Action")
        }
        if not actions and rule.node.effect == "permit":
            named |= {spec.name for spec in known if applies_to(rule, spec)}
        named |= actions
    return tuple(sorted(spec.name for spec in known if not {spec.name, str(spec.path)} & named))


def find_unclassified(names: Iterable[str], tools: Iterable[ToolSpec]) -> tuple[str, ...]:
    """Return which of these names are nowhere classified; a call to such a tool is denied."""
    return tuple(sorted(set(names) - {spec.name for spec in tools}))


def find_unsatisfiable(
    rules: Iterable[Rule], tools: Iterable[ToolSpec], kinds: Collection[str]
) -> Iterator[tuple[Rule, str]]:
    """Yield rules that can never apply, and why: they demand a kind, a tool or a source that there is not.

    Looks at what a ``when`` demands in any case, and finds no contradiction between two demands. *kinds* are
    the names of all templates; of none, nothing is said.
    """
    specs = tuple(tools)
    names = {spec.name for spec in specs}
    known = {"context.history": names, "sources": names | {"user", "application"}}
    known |= {"context.task.kinds": set(kinds)} if kinds else {}
    for rule in rules:
        for demand in _demands(rule.node):
            if (why := _unmet(demand, known)) is not None:
                yield rule, why
                break


def find_overruled(rules: Iterable[Rule], tools: Iterable[ToolSpec]) -> tuple[Rule, ...]:
    """Return the permits of which each tool is forbidden in any case by a rule without conditions."""
    known, several = tuple(tools), tuple(rules)
    forbidden: set[str] = set()
    for rule in several:
        node = rule.node
        if node.effect == "forbid" and not node.clauses and isinstance(node.principal, pst.ScopeAny):
            forbidden |= {spec.name for spec in known if applies_to(rule, spec)}
    meant = {rule: {spec.name for spec in known if applies_to(rule, spec)} for rule in several}
    return tuple(
        rule for rule, names in meant.items() if names and names <= forbidden and rule.node.effect == "permit"
    )


def find_ungiven(
    rules: Iterable[Rule], tools: Iterable[ToolSpec], given: Collection[str]
) -> Iterator[tuple[Rule, str]]:
    """Yield permits with a tool that they name, and that no mandate's template gives: they are wider."""
    known = {spec.name for spec in tools}
    for rule in rules:
        if rule.node.effect == "permit":
            for name in rule.head.actions or ():
                if name in known and name not in given:
                    yield rule, name


def find_unvouched(rules: Iterable[Rule], tools: Iterable[ToolSpec]) -> Iterator[tuple[Rule, str]]:
    """Yield permits that rely on a field of a tool's result that its `trusted` does not list."""
    specs = tuple(tools)
    named = {spec.name for spec in specs}
    vouched = {f"{spec.name}.{field}" for spec in specs for field in spec.trusted}
    whole = {spec.name for spec in specs if "*" in spec.trusted}
    for rule in rules:
        node = rule.node
        for what, source in map(_held, _demands(node)) if node.effect == "permit" else ():
            tool, _, field = source.partition(".")
            if what == "sources" and tool in named and field and tool not in whole and source not in vouched:
                yield rule, source


def applies_to(rule: Rule, spec: ToolSpec) -> bool:
    """Return whether the head of a rule allows that it is about this tool."""
    actions, resource = rule.head.actions, rule.head.resource
    named = actions is None or bool({spec.name, str(spec.path)} & set(actions))
    return named and resource in (None, resource_of(spec))


def _demands(node: pst.Template) -> Iterator[pst.Expr]:
    """Yield what must hold for the policy to apply, each alone."""
    waiting = [clause.expr for clause in node.clauses if isinstance(clause, pst.When)]
    while waiting:
        expr = waiting.pop()
        if isinstance(expr, pst.BinaryOp) and expr.op == "and":
            waiting += [expr.right, expr.left]
        else:
            yield expr


def _unmet(demand: pst.Expr, known: Mapping[str, Collection[str]]) -> str | None:
    if isinstance(demand, pst.BoolLit) and not demand.value:
        return "it demands false"
    what, name = _held(demand)
    # a field stands for its tool: which fields a result has, only the tool knows
    if what in known and {name, name.partition(".")[0]}.isdisjoint(known[what]):
        return f"it demands {name!r}, and {_THERE_IS[what]}"
    return None


def _held(demand: pst.Expr) -> tuple[str, str]:
    """Return which set must hold which name, by its path, or ``sources`` of any argument; else two empty."""
    match demand:
        case pst.BinaryOp(op="contains", left=pst.GetAttr() as asked, right=pst.StringLit(value=name)):
            path = _path(asked)
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
