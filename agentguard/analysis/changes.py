"""The changes of a request that `explain` tries, each with the words that describe it.

The values come from the request and from the constants in the text of rules. The rows of
`agentguard.model.inputs` say which inputs are changed and in which words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from operator import attrgetter
from typing import Any

from agentguard.analysis.tally_changes import other_tallies
from agentguard.model import (
    AccessRequest,
    Approval,
    ApprovalStatus,
    Arguments,
    Facts,
    Json,
    Provenance,
    Sensitivity,
)
from agentguard.model.inputs import INPUTS, InputType, RuleInput
from agentguard.provenance.joined import ABSENT, unknown_provenance

__all__ = ["Change", "approved", "changes"]

_NO_VALUE = re.compile(r'@\w+\s*\(\s*"(?:[^"\\]|\\.)*"\s*\)|::\s*"(?:[^"\\]|\\.)*"|//[^\n]*')
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DECIMAL = re.compile(r"-?\d+(?:\.\d+)?")
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,4})?(?![\w.])")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that could be otherwise: *words* say how, and two of one *place* exclude each other."""

    place: str
    words: str
    make: Callable[[AccessRequest], AccessRequest]


@dataclass(frozen=True, slots=True)
class _Constants:
    """The constants in the text of rules."""

    strings: tuple[str, ...]
    numbers: tuple[str, ...]

    @classmethod
    def of(cls, rules: Iterable[str]) -> _Constants:
        texts = sorted({_NO_VALUE.sub(" ", text) for text in rules})
        strings = {string for text in texts for string in _STRING.findall(text) if "\\" not in string}
        # rules write decimals as strings
        numbers = {number for text in texts for number in _NUMBER.findall(text.replace('"', " "))}
        return cls(tuple(sorted(strings)), tuple(sorted(numbers, key=Decimal)))


def changes(
    request: AccessRequest, rules: Iterable[str] = (), inputs: Sequence[RuleInput] = INPUTS
) -> Iterator[Change]:
    """Yield the changes: of the approval, of the arguments, and of inputs, those with few values first."""
    constants = _Constants.of(rules)
    if request.approval is None:
        yield Change("approval", "a person has approved it", approved)
    yield from _origins(request)
    yield from _values(request, constants.strings, constants.numbers)
    for kind in _ORDER:
        for row in inputs:
            if row.type is kind:
                yield from _of_input(row, request, constants)


def approved(request: AccessRequest) -> AccessRequest:
    """Return the request as a policy is asked it once a person has approved the call."""
    approval = Approval(
        id="",
        call_key="",
        task_id=request.task.id,
        tool=request.tool.name,
        digest=request.arguments.digest,
        policy_version="",
        expires_at=float("inf"),
        status=ApprovalStatus.APPROVED,
        path=request.tool.path,
        purpose=request.task.purpose,
    )
    return replace(request, approval=approval)


# --- the arguments

_SAID = Provenance(sources=frozenset({"user"}))
_VOUCHED = Provenance(sources=frozenset({"application"}), user=False)


def _origins(request: AccessRequest) -> Iterator[Change]:
    unknown = unknown_provenance(request.task)
    for name in sorted(request.arguments.values):
        for place, path, now in _inside(name, (), request.provenance.get(name, unknown)):
            for words, origin, already in (
                (f"{place} was named by the user", _SAID, now.user),
                (f"{place} came from a trusted source", _VOUCHED, now.trusted),
                (f"nobody vouched for {place}", unknown, not now.trusted),
            ):
                if not already:
                    yield Change(f"origin of {place}", words, _setting_origin(name, path, origin))


Step = tuple[str, str]


def _inside(
    place: str, path: tuple[Step, ...], origin: Provenance
) -> Iterator[tuple[str, tuple[Step, ...], Provenance]]:
    """Yield a place and those inside of it: in words, as steps in its `Provenance`, and its provenance."""
    yield place, path, origin
    for kind, things in origin.texts.items():
        yield f"{kind} in {place}", (*path, ("texts", kind)), things
    for name, inner in origin.inside.items():
        yield from _inside(f"{place}.{name}", (*path, ("inside", name)), inner)


def _setting_origin(
    name: str, path: tuple[Step, ...], origin: Provenance
) -> Callable[[AccessRequest], AccessRequest]:
    def make(request: AccessRequest) -> AccessRequest:
        now = request.provenance.get(name, unknown_provenance(request.task))
        return replace(request, provenance={**request.provenance, name: _with_origin(now, path, origin)})

    return make


def _with_origin(now: Provenance, path: tuple[Step, ...], origin: Provenance) -> Provenance:
    """Return a provenance in which all at a place, and inside of it, came from elsewhere."""
    if not path:
        return now.from_elsewhere(origin)
    (part, name), *rest = path
    origins = dict(getattr(now, part))
    origins[name] = _with_origin(origins[name], tuple(rest), origin)
    return replace(now, texts=origins) if part == "texts" else replace(now, inside=origins)


def _values(request: AccessRequest, strings: Sequence[str], numbers: Sequence[str]) -> Iterator[Change]:
    properties = (request.tool.schema or {}).get("properties", {})
    values = request.arguments.values
    for name in sorted({*properties, *values}):
        present = values.get(name)
        for value in _others(present, properties.get(name, {}), strings, numbers):
            yield Change(f"argument {name}", f"{name} were {value!r}", _setting_value(name, value))
        if present is not None and name not in (request.tool.schema or {}).get("required", ()):
            yield Change(f"argument {name}", f"{name} were left out", _leaving_out(name))


def _others(present: Json, schema: Any, strings: Sequence[str], numbers: Sequence[str]) -> Iterator[Json]:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(present, bool) or kind == "boolean":
        yield not present
    elif isinstance(present, str) or kind == "string":
        yield from (text for text in strings if text != present)
    elif isinstance(present, int | float) or kind in ("integer", "number"):
        whole = kind == "integer" or (kind is None and isinstance(present, int))
        step = Decimal(1) if whole else Decimal("0.01")
        near = {n + by for n in map(Decimal, numbers) for by in (-step, Decimal(0), step)}
        for number in sorted(n for n in near if not whole or n == n.to_integral_value()):
            value = int(number) if whole else float(number)
            if value != present:
                yield value
    elif isinstance(present, list):
        lengths = sorted({int(number) for number in numbers if number.isdigit()})
        yield from (present[:length] for length in lengths if length < len(present))


def _setting_value(name: str, value: Json) -> Callable[[AccessRequest], AccessRequest]:
    def make(request: AccessRequest) -> AccessRequest:
        return replace(request, arguments=Arguments.of({**request.arguments.values, name: value}))

    return make


def _leaving_out(name: str) -> Callable[[AccessRequest], AccessRequest]:
    def make(request: AccessRequest) -> AccessRequest:
        values = {key: value for key, value in request.arguments.values.items() if key != name}
        provenance = {**request.provenance, name: ABSENT}
        return replace(request, arguments=Arguments.of(values), provenance=provenance)

    return make


# --- the inputs of the table

_ORDER = (
    InputType.FLAG,
    InputType.LEVEL,
    InputType.TEXTS,
    InputType.TEXT,
    InputType.COUNT,
    InputType.TABLE,
    InputType.FACTS,
    InputType.TALLIES,
)
_USUAL: Mapping[InputType, tuple[str, ...]] = {
    InputType.FLAG: ("{place} were true", "{place} were false"),
    InputType.TEXTS: ("{value!r} were in {place}", "{value!r} were not in {place}"),
    InputType.TABLE: ("{place}.{name} were {value!r}",),
    InputType.TALLIES: ("{place}.{name} were {value}",),
}


def _of_input(row: RuleInput, request: AccessRequest, constants: _Constants) -> Iterator[Change]:
    """Yield the changes of one input of the table, in its own words or in the usual ones of its type."""
    phrases = row.phrases
    if phrases is None:
        phrases = () if row.cedar is None else _USUAL.get(row.type, ("{place} were {value!r}",))
    now = attrgetter(row.source)(request)
    for name, phrase, value, changed in _other_values(row.type, now, constants):
        if phrase < len(phrases) and phrases[phrase]:
            words = phrases[phrase].format(place=row.cedar, name=name, value=value)
            yield Change(f"{row.source} {name}", words, _setting(row, name, changed))


def _setting(row: RuleInput, name: str, value: object) -> Callable[[AccessRequest], AccessRequest]:
    """Return what sets an input, or in a TABLE the value of one name."""
    if row.type is not InputType.TABLE:
        return lambda request: row.changed(request, value)
    return lambda request: row.changed(request, {**attrgetter(row.source)(request), name: value})


_Others = Iterator[tuple[str, int, object, object]]


def _other_values(kind: InputType, now: Any, constants: _Constants) -> _Others:
    """Yield, for each other value: the name in a table, the number of the phrase, what it says, the value."""
    match kind:
        case InputType.FLAG:
            yield "", int(now), not now, not now
        case InputType.LEVEL:
            yield from (("", 0, level.name.lower(), level) for level in Sensitivity if level != now)
        case InputType.TEXT:
            yield from (("", 0, text, text) for text in constants.strings if text != now)
        case InputType.COUNT:
            counts = (int(number) for number in constants.numbers if number.isdigit())
            yield from (("", 0, count, count) for count in counts if count != now)
        case _:
            yield from _OF_SEVERAL[kind](now, constants)


def _other_texts(now: tuple[str, ...], constants: _Constants) -> _Others:
    yield from (("", 1, text, tuple(t for t in now if t != text)) for text in now)
    yield from (("", 0, text, (*now, text)) for text in constants.strings if text not in now)


def _other_entries(now: Mapping[str, str], constants: _Constants) -> _Others:
    for name, value in sorted(now.items()):
        yield from ((name, 0, text, text) for text in constants.strings if text != value)


def _other_facts(now: Facts, constants: _Constants) -> _Others:
    for fact, record in sorted(now.items()):
        for name, value, changed in _other_records(fact, record, constants):
            yield name, 0, value, Facts.of({**now, fact: changed})


def _other_tallies(now: Mapping[str, Json], constants: _Constants) -> _Others:
    yield from ((name, 0, value, changed) for name, value, changed in other_tallies(now, constants.numbers))


_OF_SEVERAL: Mapping[InputType, Callable[[Any, _Constants], _Others]] = {
    InputType.TEXTS: _other_texts,
    InputType.TABLE: _other_entries,
    InputType.FACTS: _other_facts,
    InputType.TALLIES: _other_tallies,
}


def _other_records(fact: str, record: Json, constants: _Constants) -> Iterator[tuple[str, Json, Json]]:
    """Yield, for each other value in a record: the name of the field, the value, and the record with it."""
    if not isinstance(record, dict):
        yield from ((fact, value, value) for value in _others(record, {}, *_of(constants)))
        return
    for name, present in sorted(record.items()):
        is_decimal = isinstance(present, str) and _DECIMAL.fullmatch(present) is not None
        numbers = constants.numbers if is_decimal else ()
        texts = tuple(text for text in (*constants.strings, *numbers) if text != present)
        values = texts if isinstance(present, str) else _others(present, {}, *_of(constants))
        for value in values:
            yield f"{fact}.{name}", value, {**record, name: value}


def _of(constants: _Constants) -> tuple[Sequence[str], Sequence[str]]:
    return constants.strings, constants.numbers
