"""The least that recorded runs needed: from an audit log to what a policy would have to permit.

Only calls that ran count: they were permitted, or the guard only observed. A call that was denied has shown
no need. The calls of each tool give the narrowest conditions under which all of them are permitted, and each
condition stands beside its evidence. A call whose counterparty may come from an attacker's text is set aside
and reported in a comment: that it happened is no reason to permit it again. If a tool does more than read,
and its `sinks` are not named, each of its arguments counts as a counterparty.

This module does not know which calls were right. Recorded runs may hold an attack, so read a suggestion line
by line before you use it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from agentguard.audit.requests import replayed
from agentguard.model import AccessRequest, Json, Provenance, ToolPath, ToolSpec
from agentguard.policies.cedar.types import Refused, ToolShape, shape_of
from agentguard.provenance.joined import unknown_provenance
from agentguard.text import printable

__all__ = ["Kind", "Run", "Suggestion", "Usage", "counterparties", "evidence", "suggest"]

LONG = 80  # characters of a value in a comment, and of a name made of words
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One call that ran; `against` is the code of the denial that an observing guard has only recorded."""

    request: AccessRequest
    against: str
    person: bool
    args: Mapping[str, Json] = field(default_factory=dict)  # in Cedar's form

    def origin(self, name: str) -> Provenance:
        """Return where an argument came from; of one that the record does not name, no source is known."""
        return self.request.provenance.get(name) or unknown_provenance(self.request.task)


@dataclass(frozen=True, slots=True)
class Usage:
    """How a tool was used: calls in `runs` are to be permitted; those in `aside` are not, with the reason.

    A tool that is not `classified` counts as the worst: on the escalation path, with each argument a sink.
    """

    spec: ToolSpec
    classified: bool
    shape: ToolShape
    runs: tuple[Run, ...]
    aside: tuple[tuple[Run, str], ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """What the tasks of one kind have used: their tools, and the most calls and writes in one task."""

    name: str
    tools: tuple[str, ...]
    calls: int
    writes: int
    purposes: tuple[str, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What recorded runs have needed; `unread` counts the records without a request that can be read."""

    usages: tuple[Usage, ...]
    kinds: tuple[Kind, ...]
    unread: int


def suggest(
    records: Iterable[Record],
    tools: Iterable[ToolSpec],
    schemas: Mapping[str, Mapping[str, Any]] | None = None,
) -> Suggestion:
    """Return what the calls in *records*, of an audit log with requests, have needed.

    *tools* are those of the catalog; *schemas* are the argument schemas of tools that are not in it.
    """
    catalog, by_tool, unread = {spec.name: spec for spec in tools}, dict[str, list[Record]](), 0
    for record in records:
        if not _has_run(record):
            continue
        if _is_writable(record):
            by_tool.setdefault(record["tool"], []).append(record)
        else:
            unread += 1
    usages = list[Usage]()
    for name, calls in sorted(by_tool.items()):
        spec = catalog.get(name) or ToolSpec(
            name=name, path=ToolPath.ESCALATION, schema=(schemas or {}).get(name)
        )
        runs = [run for record in calls if (run := _run(record, spec)) is not None]
        unread += len(calls) - len(runs)
        if runs:
            classified = name in catalog
            usages.append(_usage(_completed(spec, runs, classified), runs, classified))
    return Suggestion(tuple(usages), tuple(_kinds(usages)), unread)


# --- reading the log


def _has_run(record: Record) -> bool:
    if record.get("event") != "decision":
        return False
    return record.get("effect") == "permit" or record.get("observed") is True


def _is_writable(record: Record) -> bool:
    """Return whether the record can be written as UTF-8 (a JSON string may hold an unpaired surrogate)."""
    tool = record.get("tool")
    if not isinstance(tool, str) or not tool or tool in set(ToolPath):
        return False
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _run(record: Record, spec: ToolSpec) -> Run | None:
    try:
        request = replayed(record["request"], spec)
        _utc(request.at)
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return None
    against = str(record.get("code")) if record.get("observed") is True else ""
    return Run(request, against, record.get("approval") is not None or against == "approval_unavailable")


def _completed(spec: ToolSpec, runs: Sequence[Run], classified: bool) -> ToolSpec:
    """Return the tool with a schema: if it has none, with the one that its runs show."""
    if spec.schema is None:
        values = [run.request.arguments.values for run in runs]
        names = sorted({name for arguments in values for name in arguments})
        properties = {n: _type([v for args in values if (v := args.get(n)) is not None]) for n in names}
        properties |= {sink: {"type": "string"} for sink in sorted(spec.sinks - properties.keys())}
        required = [name for name in names if all(args.get(name) is not None for args in values)]
        spec = replace(spec, schema={"type": "object", "properties": properties, "required": required})
    if classified:
        return spec
    return replace(spec, sinks=frozenset((spec.schema or {}).get("properties", ())), untrusted=True)


def _type(values: Iterable[Json]) -> dict[str, Any]:
    values = list(values)
    kinds = {type(value) for value in values} or {
        str
    }  # an argument that was never given has a type too, so that rules see it
    if kinds == {list}:
        return {"type": "array", "items": _type(item for value in values for item in value)}
    for accepted, name in (
        ({str}, "string"),
        ({bool}, "boolean"),
        ({int}, "integer"),
        ({int, float}, "number"),
    ):
        if kinds <= accepted:
            return {"type": name}
    return {}


def _usage(spec: ToolSpec, runs: Iterable[Run], classified: bool) -> Usage:
    shape, fit, aside = shape_of(spec), list[Run](), list[tuple[Run, str]]()
    for run in runs:
        try:
            run = replace(run, args=shape.convert(run.request.arguments.values))
            reason = _doubt(run, spec, shape)
        except Refused as error:
            reason = f"no rule can judge it: {error}"
        if reason:
            aside.append((run, reason))
        else:
            fit.append(run)
    return Usage(spec, classified, shape, tuple(fit), tuple(aside))


def _doubt(run: Run, spec: ToolSpec, shape: ToolShape) -> str:
    """Return why this call is not to be permitted again, or an empty text if it is."""
    if run.against == "approval_refused":
        return "a person has refused it"
    values = run.request.arguments.values
    for sink in sorted(counterparties(spec) & values.keys()):
        if sink in spec.sinks and sink not in shape.names:
            return f"no rule can see its {sink}"
        if (origin := run.origin(sink)).untrusted:
            return (
                f"{sink} may be an attacker's: {json.dumps(values[sink])[:LONG]}"
                f" (from {', '.join(sorted(origin.sources)) or 'nobody known'})"
            )
    return ""


def counterparties(spec: ToolSpec) -> frozenset[str]:
    """Return the arguments that name a counterparty; all of them for a tool that writes and has no sinks."""
    if spec.sinks or spec.path is ToolPath.READ:
        return spec.sinks
    return frozenset((spec.schema or {}).get("properties", ()))


# --- the kinds of task


def _kinds(usages: Iterable[Usage]) -> Iterator[Kind]:
    families = dict[str, list[Run]]()
    for run in sorted((run for usage in usages for run in usage.runs), key=lambda run: run.request.at):
        families.setdefault(run.request.task.root_id, []).append(run)
    kinds = dict[str, list[list[Run]]]()
    for runs in families.values():
        kinds.setdefault(_name(runs), []).append(runs)
    for name, tasks in sorted(kinds.items()):
        all_runs = tuple(run for runs in tasks for run in runs)
        yield Kind(
            name=name,
            tools=tuple(sorted({run.request.tool.name for run in all_runs})),
            calls=max(map(len, tasks)),
            writes=max(sum(run.request.tool.path is not ToolPath.READ for run in runs) for runs in tasks),
            purposes=tuple(dict.fromkeys(run.request.task.purpose for run in all_runs)),
            runs=all_runs,
        )


def _name(runs: Sequence[Run]) -> str:
    """Return the kinds of the oldest task of these runs, or else the words of its purpose."""
    task = min(runs, key=lambda run: len(run.request.task.lineage)).request.task
    words = re.sub(r"[\W\d_]+", "_", task.purpose.casefold()).strip("_")
    return " and ".join(task.kinds) or words[:LONG] or "task"


# --- evidence


def evidence(runs: Sequence[Run]) -> str:
    """Return how many calls ran in how many tasks, when, and how many ran only since the guard observed."""
    times = sorted(run.request.at for run in runs)
    tasks = {run.request.task.root_id for run in runs}
    text = f"{_many(len(runs), 'call')} in {_many(len(tasks), 'task')}, {_utc(times[0])} to {_utc(times[-1])}"
    if against := [run.against for run in runs if run.against]:
        text += f"; {len(against)} against the rules in force: {', '.join(sorted(set(against)))}"
    return printable(text)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
