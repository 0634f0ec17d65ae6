"""Why a call is judged as it is, and the smallest changes that would turn the decision.

Nothing here reads rules as rules: changes are tried, by asking the policy again. What is tried comes from the
request, and from the constants that stand in the text of rules, where a policy shows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import combinations
from typing import Any

from agentguard.analysis.simulate import Verdict, judge, verdict
from agentguard.model import (
    AccessRequest,
    Approval,
    ApprovalStatus,
    Arguments,
    Decision,
    Json,
    Provenance,
    Sensitivity,
    TaskState,
)
from agentguard.ports import Policy

__all__ = ["Change", "Turned", "changes", "turning"]

ASKS = 2_000
"""How often a policy is asked at most."""

_NO_VALUE = re.compile(r'@\w+\s*\(\s*"(?:[^"\\]|\\.)*"\s*\)|::\s*"(?:[^"\\]|\\.)*"|//[^\n]*')
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,4})?(?![\w.])")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that could be otherwise: *words* say how, and two of one *place* exclude each other."""

    place: str
    words: str
    make: Callable[[AccessRequest], AccessRequest]


@dataclass(frozen=True, slots=True)
class Turned:
    """Changes that together turn the decision, none of which could be left out."""

    changes: tuple[Change, ...]
    decision: Decision

    @property
    def verdict(self) -> Verdict:
        """What the decision is then."""
        return verdict(self.decision)

    def __str__(self) -> str:
        return f"{self.verdict} if {' and '.join(change.words for change in self.changes)}"


def turning(
    policy: Policy,
    request: AccessRequest,
    *,
    rules: Iterable[str] = (),
    most: int = 5,
    asks: int = ASKS,
) -> tuple[Turned, ...]:
    """Return at most *most* ways to turn the decision, the fewest changes first; the same each time.

    *rules* are texts in which constants are looked for. Single changes are tried, then pairs, as long as
    the policy has been asked no more than *asks* times; it may turn by what was not tried.
    """
    before = verdict(judge(policy, request))
    candidates = list(changes(request, rules))
    found: list[Turned] = []
    for tried in _sets(candidates, found, before):
        if asks <= 0 or len(found) >= most:
            break
        asks -= 1
        changed = request
        for change in tried:
            changed = change.make(changed)
        decision = judge(policy, changed)
        if verdict(decision) is not before:
            found.append(Turned(tried, decision))
    return tuple(found)


def _sets(
    candidates: Sequence[Change], found: Sequence[Turned], before: Verdict
) -> Iterator[tuple[Change, ...]]:
    """Yield single changes, then pairs of which neither turns the decision alone."""
    for change in candidates:
        yield (change,)
    alone = {turned.changes[0] for turned in found}
    for pair in combinations([each for each in candidates if each not in alone], 2):
        if pair[0].place != pair[1].place:
            yield pair


def changes(request: AccessRequest, rules: Iterable[str] = ()) -> Iterator[Change]:
    """Yield what could be otherwise, what is easiest to have first."""
    texts = sorted({_NO_VALUE.sub(" ", text) for text in rules})
    strings = sorted({found for text in texts for found in _STRING.findall(text) if "\\" not in found})
    numbers = sorted({found for text in texts for found in _NUMBER.findall(_unquoted(text))}, key=Decimal)
    if request.approval is None:
        yield Change("approval", "a person has approved it", _approved)
    yield from _origins(request)
    yield from _values(request, strings, numbers)
    yield from _task(request, strings, numbers)
    yield from _surroundings(request, strings)


def _unquoted(text: str) -> str:
    """Return a text in which decimals, which rules write as strings, are numbers."""
    return text.replace('"', " ")


def _approved(request: AccessRequest) -> AccessRequest:
    approval = Approval(
        id="",
        call_key="",
        task_id=request.task.id,
        tool=request.tool.name,
        digest=request.arguments.digest,
        policy_version="",
        expires_at=float("inf"),
        status=ApprovalStatus.APPROVED,
    )
    return replace(request, approval=approval)


# --- the arguments

_SAID = Provenance(sources=frozenset({"user"}))
_VOUCHED = Provenance(sources=frozenset({"application"}), user=False)


def _origins(request: AccessRequest) -> Iterator[Change]:
    unknown = Provenance(user=False, trusted=False, untrusted=True, sensitivity=request.task.sensitivity)
    for name in sorted(request.arguments.values):
        now = request.provenance.get(name, unknown)
        for words, origin, already in (
            (f"{name} was named by the user", _SAID, now.user),
            (f"{name} came from a trusted source", _VOUCHED, now.trusted),
            (f"nobody vouched for {name}", unknown, not now.trusted),
        ):
            if not already:
                yield Change(f"origin of {name}", words, _setting_origin(name, origin))


def _setting_origin(name: str, origin: Provenance) -> Callable[[AccessRequest], AccessRequest]:
    return lambda request: replace(request, provenance={**request.provenance, name: origin})


def _values(request: AccessRequest, strings: Sequence[str], numbers: Sequence[str]) -> Iterator[Change]:
    properties = (request.tool.schema or {}).get("properties", {})
    values = request.arguments.values
    for name in sorted({*properties, *values}):
        given = values.get(name)
        for value in _others(given, properties.get(name, {}), strings, numbers):
            yield Change(f"argument {name}", f"{name} were {value!r}", _setting_value(name, value))
        if given is not None and name not in (request.tool.schema or {}).get("required", ()):
            yield Change(f"argument {name}", f"{name} were left out", _leaving_out(name))


def _others(
    given: Json, schema: Any, strings: Sequence[str], numbers: Sequence[str]
) -> Iterator[str | int | float | bool]:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(given, bool) or kind == "boolean":
        yield not given
    elif isinstance(given, str) or kind == "string":
        yield from (text for text in strings if text != given)
    elif isinstance(given, int | float) or kind in ("integer", "number"):
        whole = kind == "integer" or (kind is None and isinstance(given, int))
        step = Decimal(1) if whole else Decimal("0.01")
        near = {n + by for n in map(Decimal, numbers) for by in (-step, Decimal(0), step)}
        for number in sorted(n for n in near if not whole or n == n.to_integral_value()):
            value = int(number) if whole else float(number)
            if value != given:
                yield value


def _setting_value(name: str, value: Json) -> Callable[[AccessRequest], AccessRequest]:
    def make(request: AccessRequest) -> AccessRequest:
        return replace(request, arguments=Arguments.of({**request.arguments.values, name: value}))

    return make


def _leaving_out(name: str) -> Callable[[AccessRequest], AccessRequest]:
    def make(request: AccessRequest) -> AccessRequest:
        values = {key: value for key, value in request.arguments.values.items() if key != name}
        provenance = {**request.provenance, name: Provenance()}
        return replace(request, arguments=Arguments.of(values), provenance=provenance)

    return make


# --- the task, and what is around it


def _task(request: AccessRequest, strings: Sequence[str], numbers: Sequence[str]) -> Iterator[Change]:
    yield from _read(request.task)
    yield from _called(request.task, strings)
    for name in strings:
        if name not in request.task.kinds:
            kinds = (*request.task.kinds, name)
            yield _of_task("kinds", f"the task were of the kind {name!r}", kinds=kinds)
        yield _of_task("purpose", f"the purpose were {name!r}", purpose=name)
    for number in (int(n) for n in numbers if n.isdigit()):
        for counted in ("calls", "writes"):
            yield _of_task(counted, f"it had made {number} {counted}", **{counted: number})


def _read(task: TaskState) -> Iterator[Change]:
    what = "nothing" if task.untrusted else "something"
    yield _of_task("untrusted", f"{what} untrusted had been read", untrusted=not task.untrusted)
    for level in Sensitivity:
        if level != task.sensitivity:
            words = f"what was read had been {level.name.lower()} at most"
            yield _of_task("sensitivity", words, sensitivity=level)


def _called(task: TaskState, strings: Sequence[str]) -> Iterator[Change]:
    for name in task.history:
        left = tuple(each for each in task.history if each != name)
        yield _of_task("history", f"{name} had not been called", history=left)
    for name in strings:
        if name not in task.history:
            yield _of_task("history", f"{name!r} had been called", history=(*task.history, name))


def _of_task(place: str, words: str, **changed: Any) -> Change:
    def make(request: AccessRequest) -> AccessRequest:
        task: TaskState = replace(request.task, **changed)
        return replace(request, task=task)

    return Change(place, words, make)


def _surroundings(request: AccessRequest, strings: Sequence[str]) -> Iterator[Change]:
    for name, given in sorted(request.environment.items()):
        for value in strings:
            if value != given:
                yield Change(
                    f"environment {name}", f"{name} were {value!r}", _setting_environment(name, value)
                )
    for subject in strings:
        if subject != request.identity.subject:
            yield Change("subject", f"the user were {subject!r}", _setting_subject(subject))
    if request.legacy:
        yield Change("legacy", "its key were not long-lived", lambda asked: replace(asked, legacy=False))


def _setting_environment(name: str, value: str) -> Callable[[AccessRequest], AccessRequest]:
    return lambda request: replace(request, environment={**request.environment, name: value})


def _setting_subject(subject: str) -> Callable[[AccessRequest], AccessRequest]:
    return lambda request: replace(request, identity=replace(request.identity, subject=subject))
