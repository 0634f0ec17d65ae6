"""Cedar policies of recorded runs: the narrowest that permit them, each line beside its evidence.

Each tool has one permit. It permits a number up to the highest recorded one, and below zero only if one was.
It permits only the recorded texts of an argument with few of them, unless a trusted source has named it. It
permits a counterparty that the user has named, one that is vouched for, or at least one that cannot come from
an attacker. It does not permit an argument that was never given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from agentguard.analysis.suggest import Run, Usage, counterparties, evidence
from agentguard.model import Json, ToolPath
from agentguard.policies.cedar.types import quoted
from agentguard.text import printable

__all__ = ["policies_text"]

FEW = 5  # distinct values of an argument that are still listed
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset({"else", "false", "has", "if", "in", "is", "like", "then", "true"})


def policies_text(usages: Iterable[Usage]) -> str:
    """Return the policies. Each group of calls that were set aside is a comment."""
    return "\n".join("".join(_policy(usage)) for usage in usages)


def _policy(usage: Usage) -> Iterator[str]:
    spec = usage.spec
    for reason in dict.fromkeys(reason for _, reason in usage.aside):
        runs = [run for run, other in usage.aside if other == reason]
        yield _comment(f"NOT SUGGESTED: {spec.name}, {evidence(runs)}: {reason}")
    if not usage.runs:
        return
    resource = "resource" if spec.resource is None else f"resource == Resource::{quoted(spec.resource)}"
    yield _comment(evidence(usage.runs))
    if usage.shape.unseen:
        yield _comment(
            f"no rule can see these arguments, so they may have any value: {', '.join(usage.shape.unseen)}"
        )
    yield f"@id({quoted(f'observed-{spec.name}')})\n"
    yield f"permit (principal, action == Action::{quoted(spec.name)}, {resource})"
    clauses = " &&\n".join(f"    {_comment(why)}    {condition}" for condition, why in _clauses(usage))
    yield f"\nwhen {{\n{clauses}\n}};\n" if clauses else ";\n"


def _comment(text: str) -> str:
    return f"// {printable(text)}\n"


def _clauses(usage: Usage) -> Iterator[tuple[str, str]]:
    """Yield the conditions under which the runs are permitted, each with its evidence."""
    spec, runs = usage.spec, usage.runs
    required = set((spec.schema or {}).get("required", ()))
    for name in usage.shape.names:
        with_argument = [run for run in runs if name in run.args]
        has = f"context.args has {name if _plain(name) else quoted(name)}"
        if not with_argument:
            if name not in required:
                yield f"!({has})", f"{name}: never given"
            continue
        if name in counterparties(spec):
            yield _counterparty(name, with_argument)
        for condition, why in _limit(name, with_argument):
            if name not in required:  # one of the forms that Cedar's validator follows
                condition = f"(if {has} then {condition} else {str(len(with_argument) < len(runs)).lower()})"
            yield (
                condition,
                f"{name}: {why} in {len(with_argument)} of {len(runs)} calls{_doubtful(name, with_argument)}",
            )
    count = sum(run.person for run in runs)
    if count or (spec.path is ToolPath.ESCALATION and any(run.against for run in runs)):
        why = f"a person was asked in {count} of {len(runs)} calls"
        yield (
            "context has approval",
            why if count else "the tool is on the escalation path, and no rule has permitted a call",
        )


def _doubtful(name: str, runs: Sequence[Run]) -> str:
    count = sum(run.origin(name).untrusted for run in runs)
    return f"; READ THIS: an attacker may have chosen it in {count}" if count else ""


def _counterparty(name: str, runs: Sequence[Run]) -> tuple[str, str]:
    origins = [run.origin(name) for run in runs]
    place = f"context.provenance.args{_attribute(name)}"
    if all(origin.user for origin in origins):
        return f"{place}.user", f"{name}: named by the user in all {len(runs)} calls"
    sources = ", ".join(sorted(frozenset().union(*(origin.sources for origin in origins)))) or "nobody known"
    if all(origin.trusted for origin in origins):
        return f"{place}.trusted", f"{name}: vouched for in all {len(runs)} calls, by {sources}"
    evidence = f"{name}: in {len(runs)} calls from {sources}, before the task read anything untrusted"
    return f"!{place}.untrusted", evidence


def _limit(name: str, runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    values, place = [run.args[name] for run in runs], f"context.args{_attribute(name)}"
    kinds = {type(value) for value in values}
    if kinds == {int}:
        least, most = min(values), max(values)
        yield f"{f'{place} >= 0 && ' * (least >= 0)}{place} <= {most}", f"{least} to {most}"
    elif kinds == {dict} and all("__extn" in value for value in values):
        *_, most = ordered = sorted((value["__extn"]["arg"] for value in values), key=Decimal)
        below = f'{place}.greaterThanOrEqual(decimal("0.0")) && ' * (Decimal(ordered[0]) >= 0)
        yield f'{below}{place}.lessThanOrEqual(decimal("{most}"))', f"{ordered[0]} to {most}"
    elif kinds <= {str, list} and not any(run.origin(name).trusted for run in runs):
        yield from _listed(place, values, "contains" if kinds == {str} else "containsAll")


def _listed(place: str, values: Iterable[Json], verb: str) -> Iterator[tuple[str, str]]:
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    if all(isinstance(text, str) for text in texts) and 0 < len(set(texts)) <= FEW:
        listed = ", ".join(map(quoted, sorted(set(texts))))
        yield f"[{listed}].{verb}({place})", "few values, which no trusted source has named,"


def _attribute(name: str) -> str:
    return f".{name}" if _plain(name) else f"[{quoted(name)}]"


def _plain(name: str) -> bool:
    return _WORD.fullmatch(name) is not None and name not in _RESERVED
