"""Trust by record: a value counts by what stood beside it, in its record or in the call that returned it.

A page may hold a sender's address, but it is another record's. So beside a value its label holds digests of
the fields that may vouch for it, and of the arguments of the call. Whether these are from where the catalog
says is looked up when the value comes back, since the address book may have been read later than the message.

    [tools.read_messages.records]
    body = { sender = ["get_contacts.email", "user"] }

A value that stood in several records of one field is trusted only if all of them vouch for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from agentguard.model import RECORD, AccessRequest, Label, Mandate, TaskState, ToolSpec
from agentguard.model.mandate import VOUCHES
from agentguard.model.tool import ALL, OF_CALL
from agentguard.provenance.leaves import MOST, Leaf, digest, leaves, leaves_at, parts_at
from agentguard.provenance.words import words_contain

__all__ = ["MOST_VALUES", "fields_in_records", "needed_digests", "resolved"]

MOST_VALUES = 8
"""The most values in one field or argument that vouch; of more, none does."""
Evidence = Sequence[tuple[str, Sequence[str]]]
"""What is known of each value of a field when it is read: its digest, and who vouches for it by name."""


class _Reading(NamedTuple):
    """What a call is read with: the tool, its task, and what it knows of the call's arguments."""

    spec: ToolSpec
    task: TaskState
    beside: Mapping[str, Evidence]

    def evidence(self, values: Iterable[object]) -> Evidence:
        """Return what is known of the values of a field; nothing if one of them cannot vouch."""
        evidence = list[tuple[str, Sequence[str]]]()
        for value in values:
            if len(evidence) == MOST_VALUES or not isinstance(value, str | int | float) or value == "":
                return ()
            evidence.append((digest(self.task.root_id, value), _authors(self.task, value)))
        return evidence

    def record(self, field: str, beside: Mapping[str, Evidence]) -> str:
        """Return the text of a record for a label."""
        evidence = {name: beside.get(name, ()) for name in self.spec.records[field]}
        return RECORD + json.dumps([self.spec.name, field, evidence], separators=(",", ":"))


def fields_in_records(
    spec: ToolSpec, task: TaskState, values: Sequence[object], request: AccessRequest | None
) -> Iterator[tuple[str, Leaf]]:
    """Yield the values of a result that may be vouched for, each with its path and its record behind it.

    *values* are the values that the result consists of.
    """
    reading = _Reading(spec, task, {} if request is None else _of_call(spec, task, request))
    for field in sorted(spec.records.keys() - {ALL}):
        vouchers = {name: name.split(".") for name in spec.records[field] if not name.startswith(OF_CALL)}
        for value in values:
            for leaf, beside in _beside(reading, value, field.split("."), vouchers):
                yield field + reading.record(field, {**reading.beside, **beside}), leaf
    if ALL in spec.records:
        record = reading.record(ALL, reading.beside)
        for value in values:
            for path, leaf in leaves(value):
                if path not in spec.records:
                    yield path.replace(RECORD, " ") + record, leaf


def _of_call(spec: ToolSpec, task: TaskState, request: AccessRequest) -> dict[str, Evidence]:
    """Return what is known of the arguments that may vouch for what the call has returned."""
    reading, values = _Reading(spec, task, {}), request.arguments.values
    evidence = dict[str, Evidence]()
    for name in {name for vouchers in spec.records.values() for name in vouchers if name.startswith(OF_CALL)}:
        path = name.removeprefix(OF_CALL)
        names = [path] if path in values else path.split(".")
        evidence[name] = reading.evidence(parts_at(values, names))
        origin = request.provenance.get(names[0])
        if len(names) == 1 and origin is not None and origin.user:  # also one in another form than the user's
            evidence[name] = [(one, sorted({*authors, "user"})) for one, authors in evidence[name]]
    return evidence


def _beside(
    reading: _Reading, value: object, path: Sequence[str], vouchers: Mapping[str, Sequence[str]]
) -> Iterator[tuple[Leaf, dict[str, Evidence]]]:
    """Yield each value at a path, with what is known of the fields in the same record.

    Two fields are in one record if they stand in the same entry of each list on the way that both have.
    """
    places = {name: _together(path, voucher) for name, voucher in vouchers.items()}
    waiting: list[tuple[Iterator[object], int, dict[str, Evidence]]] = [(parts_at(value, ()), 0, {})]
    count = 0
    while waiting:
        parts, at, beside = waiting[-1]
        for part in parts:
            count += 1
            if count > MOST:
                return
            here = dict(beside)
            for name, voucher in vouchers.items():
                if places[name] == at:
                    here[name] = reading.evidence(parts_at(part, voucher[at:]))
            if at == len(path):
                yield from ((leaf, here) for leaf in leaves_at(part, ()))
            else:
                waiting.append((parts_at(part, path[at : at + 1]), at + 1, here))
                break
        else:
            waiting.pop()


def _together(path: Sequence[str], voucher: Sequence[str]) -> int:
    """Return how many names two paths begin with alike, but for the last of each."""
    pairs = zip(path[:-1], voucher[:-1], strict=False)
    return next((at for at, (one, two) in enumerate(pairs) if one != two), min(len(path), len(voucher)) - 1)


def _authors(task: TaskState, value: str | int | float) -> list[str]:
    authors = {"user"} if task.words and words_contain(task.words, value) else set[str]()
    return sorted(authors | set(_of_mandate(task.mandate, value)))


def _of_mandate(mandate: Mandate, value: str | int | float) -> Iterator[str]:
    for place, by_value in mandate.authors.items():
        if place == "counterparties" or place.startswith("args."):
            author = by_value.get(value, "").partition(" ")[0]
            if author in VOUCHES and not isinstance(value, bool):
                yield VOUCHES[author]


# --- when a value comes back


def needed_digests(labels: Iterable[Label]) -> frozenset[str]:
    """Return the digests of what stood beside the values of these labels."""
    return frozenset(one for label in labels if label.record for one, _ in _evidence(label.record))


def _evidence(record: str) -> Iterator[tuple[str, Sequence[str]]]:
    for evidence in _read(record)[2].values():
        yield from evidence


def _read(record: str) -> tuple[str, str, Mapping[str, Evidence]]:
    tool, field, evidence = json.loads(record)
    return tool, field, evidence


def resolved(
    labels: Iterable[Label], beside: Iterable[Label], tool: Callable[[str], ToolSpec | None]
) -> list[Label]:
    """Return the labels without their records: each is trusted if the record vouches for its value.

    *beside* are the labels of `needed_digests`, and *tool* says what the catalog now says of a tool.
    """
    sources: dict[str, set[str]] = {}
    for label in beside:
        if label.trusted and not label.record:
            sources.setdefault(label.digest, set()).add(label.source)
    plain, by_value = list[Label](), dict[tuple[str, str], list[Label]]()
    for label in labels:
        if label.record:
            by_value.setdefault((label.digest, label.place), []).append(label)
        else:
            plain.append(label)
    for (_, place), of_value in by_value.items():
        trusted = all(_vouches(label.record, tool, sources) for label in of_value)
        sensitivity = max(label.sensitivity for label in of_value)
        plain.append(replace(of_value[0], source=place, trusted=trusted, sensitivity=sensitivity))
    return plain


def _vouches(
    record: str, tool: Callable[[str], ToolSpec | None], sources: Mapping[str, Collection[str]]
) -> bool:
    """Return whether all that must vouch for a field does."""
    name, field, evidence = _read(record)
    spec = tool(name)
    vouchers = {} if spec is None else spec.records.get(field, {})
    return bool(vouchers) and all(
        _all_from(evidence.get(voucher, ()), allowed, sources) for voucher, allowed in vouchers.items()
    )


def _all_from(evidence: Evidence, allowed: Collection[str], sources: Mapping[str, Collection[str]]) -> bool:
    return bool(evidence) and all(
        any(_is_one_of(source, allowed) for source in (*authors, *sources.get(value, ())))
        for value, authors in evidence
    )


def _is_one_of(source: str, allowed: Any) -> bool:
    return source in allowed or source.partition(".")[0] in allowed
