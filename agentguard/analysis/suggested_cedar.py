"""Cedar policies of recorded runs: the narrowest that permit them, each line beside its evidence.

One permit for each tool. A number is at most what it was, and not below zero if it never was; a text with
few values is one of these, unless somebody trusted has named it; a counterparty is the user's own, vouched
for, or at least not from what an attacker may have written. An argument that was never given stays so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from agentguard.analysis.suggest import Run, Usage, counterparties, evidence, printable
from agentguard.model import Json, ToolPath
from agentguard.policies.cedar.types import quoted

__all__ = ["policies_text"]

FEW = 5  # distinct values of an argument that are still listed
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset({"else", "false", "has", "if", "in", "is", "like", "then", "true"})


def policies_text(usages: Iterable[Usage]) -> str:
    """Return the policies; what is set aside is a comment."""
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
        yield _comment(f"whatever they hold, for no rule can see them: {', '.join(usage.shape.unseen)}")
    yield f"@id({quoted(f'observed-{spec.name}')})\n"
    yield f"permit (principal, action == Action::{quoted(spec.name)}, {resource})"
    clauses = " &&\n".join(f"    {_comment(why)}    {condition}" for condition, why in _clauses(usage))
    yield f"\nwhen {{\n{clauses}\n}};\n" if clauses else ";\n"


def _comment(text: str) -> str:
    return f"// {printable(text)}\n"


def _clauses(usage: Usage) -> Iterator[tuple[str, str]]:
    """Yield the conditions under which the runs are permitted, and what each was seen in."""
    spec, runs = usage.spec, usage.runs
    required = set((spec.schema or {}).get("required", ()))
    for name in usage.shape.names:
        given = [run for run in runs if name in run.args]
        has = f"context.args has {name if _plain(name) else quoted(name)}"
        if not given:
            if name not in required:
                yield f"!({has})", f"{name}: never given"
            continue
        if name in counterparties(spec):
            yield _counterparty(name, given)
        for condition, why in _limit(name, given):
            if name not in required:  # one of the forms that Cedar's validator follows
                condition = f"(if {has} then {condition} else {str(len(given) < len(runs)).lower()})"
            yield condition, f"{name}: {why} in {len(given)} of {len(runs)} calls{_doubtful(name, given)}"
    asked = sum(run.person for run in runs)
    if asked or (spec.path is ToolPath.ESCALATION and any(run.against for run in runs)):
        why = f"a person was asked in {asked} of {len(runs)} calls"
        yield "context has approval", why if asked else "it escalates, and no rule has permitted it"


def _doubtful(name: str, given: Sequence[Run]) -> str:
    count = sum(run.origin(name).untrusted for run in given)
    return f"; READ THIS: an attacker may have chosen it in {count}" if count else ""


def _counterparty(name: str, given: Sequence[Run]) -> tuple[str, str]:
    origins = [run.origin(name) for run in given]
    place = f"context.provenance.args{_attribute(name)}"
    if all(origin.user for origin in origins):
        return f"{place}.user", f"{name}: the user's own in all {len(given)} calls"
    sources = ", ".join(sorted(frozenset().union(*(origin.sources for origin in origins)))) or "nobody known"
    if all(origin.trusted for origin in origins):
        return f"{place}.trusted", f"{name}: vouched for in all {len(given)} calls, by {sources}"
    return f"!{place}.untrusted", f"{name}: in {len(given)} calls from {sources}, before anything untrusted"


def _limit(name: str, given: Sequence[Run]) -> Iterator[tuple[str, str]]:
    values, place = [run.args[name] for run in given], f"context.args{_attribute(name)}"
    kinds = {type(value) for value in values}
    if kinds == {int}:
        least, most = min(values), max(values)
        yield f"{f'{place} >= 0 && ' * (least >= 0)}{place} <= {most}", f"{least} to {most}"
    elif kinds == {dict} and all("__extn" in value for value in values):
        *_, most = ordered = sorted((value["__extn"]["arg"] for value in values), key=Decimal)
        below = f'{place}.greaterThanOrEqual(decimal("0.0")) && ' * (Decimal(ordered[0]) >= 0)
        yield f'{below}{place}.lessThanOrEqual(decimal("{most}"))', f"{ordered[0]} to {most}"
    elif kinds <= {str, list} and not any(run.origin(name).trusted for run in given):
        yield from _listed(place, values, "contains" if kinds == {str} else "containsAll")


def _listed(place: str, values: Iterable[Json], verb: str) -> Iterator[tuple[str, str]]:
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    if all(isinstance(text, str) for text in texts) and 0 < len(set(texts)) <= FEW:
        listed = ", ".join(map(quoted, sorted(set(texts))))
        yield f"[{listed}].{verb}({place})", "few values, of nobody who is trusted,"


def _attribute(name: str) -> str:
    return f".{name}" if _plain(name) else f"[{quoted(name)}]"


def _plain(name: str) -> bool:
    return _WORD.fullmatch(name) is not None and name not in _RESERVED
