"""The least that recorded runs needed: from an audit log to what a policy would have to permit.

A call counts that has run: it was permitted, or the guard only observed. What was denied has shown no
need. From the calls of each tool come the narrowest conditions under which all of them are permitted, and
each stands beside its evidence. A call whose counterparty came from what an attacker may have written is
set aside, and told in a comment: that it happened is no reason to permit it again. Of a tool that does more
than read, and of which nobody has said what names a counterparty, each argument may be one.

Nothing here knows what was right. Recorded runs may hold an attack, so what comes of it is to be read.
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
from agentguard.provenance.arguments import unknown_provenance

__all__ = ["Kind", "Run", "Suggestion", "Usage", "counterparties", "evidence", "printable", "suggest"]

LONG = 80  # characters of a value in a comment, and of a name made of words
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One call that has run; `against` says which denial only observation let it pass."""

    request: AccessRequest
    against: str
    person: bool
    args: Mapping[str, Json] = field(default_factory=dict)  # in Cedar's form

    def origin(self, name: str) -> Provenance:
        """Return where an argument came from; of one that the record does not name, no source is known."""
        return self.request.provenance.get(name) or unknown_provenance(self.request.task)


@dataclass(frozen=True, slots=True)
class Usage:
    """How a tool was used: `runs` are to be permitted, `aside` are not, with the reason.

    A tool that is not `classified` is taken for the worst: on the escalation path, each argument a sink.
    """

    spec: ToolSpec
    classified: bool
    shape: ToolShape
    runs: tuple[Run, ...]
    aside: tuple[tuple[Run, str], ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """What the tasks of one kind have used: their tools, and the most calls and writes in one of them."""

    name: str
    tools: tuple[str, ...]
    calls: int
    writes: int
    purposes: tuple[str, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What recorded runs have needed; `unread` counts records whose request is none, or was not recorded."""

    usages: tuple[Usage, ...]
    kinds: tuple[Kind, ...]
    unread: int


def suggest(
    records: Iterable[Record],
    tools: Iterable[ToolSpec],
    schemas: Mapping[str, Mapping[str, Any]] | None = None,
) -> Suggestion:
    """Say what the calls in *records*, of an audit log that holds requests, have needed.

    *tools* are those of the catalog; *schemas* of arguments are for tools that it does not know.
    """
    known, found, unread = {spec.name: spec for spec in tools}, dict[str, list[Record]](), 0
    for record in records:
        if not _has_run(record):
            continue
        if _sayable(record):
            found.setdefault(record["tool"], []).append(record)
        else:
            unread += 1
    usages = list[Usage]()
    for name, each in sorted(found.items()):
        spec = known.get(name) or ToolSpec(
            name=name, path=ToolPath.ESCALATION, schema=(schemas or {}).get(name)
        )
        runs = [run for record in each if (run := _run(record, spec)) is not None]
        unread += len(each) - len(runs)
        if runs:
            usages.append(_usage(_filled(spec, runs, known=name in known), runs, known=name in known))
    return Suggestion(tuple(usages), tuple(_kinds(usages)), unread)


# --- reading the log


def _has_run(record: Record) -> bool:
    if record.get("event") != "decision":
        return False
    return record.get("effect") == "permit" or record.get("observed") is True


def _sayable(record: Record) -> bool:
    """Return whether a file can be written of it: a JSON string may hold half a character, and UTF-8 not."""
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


def _filled(spec: ToolSpec, runs: Sequence[Run], *, known: bool) -> ToolSpec:
    """Return the tool with what the runs tell of it, where nothing else does."""
    if spec.schema is None:
        values = [run.request.arguments.values for run in runs]
        names = sorted({name for each in values for name in each})
        properties = {n: _type([v for each in values if (v := each.get(n)) is not None]) for n in names}
        properties |= {sink: {"type": "string"} for sink in sorted(spec.sinks - properties.keys())}
        required = [name for name in names if all(each.get(name) is not None for each in values)]
        spec = replace(spec, schema={"type": "object", "properties": properties, "required": required})
    if known:
        return spec
    return replace(spec, sinks=frozenset((spec.schema or {}).get("properties", ())), untrusted=True)


def _type(values: Iterable[Json]) -> dict[str, Any]:
    values = list(values)
    kinds = {type(value) for value in values} or {str}  # what was never given: a type, so that rules see it
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


def _usage(spec: ToolSpec, runs: Iterable[Run], *, known: bool) -> Usage:
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
    return Usage(spec, known, shape, tuple(fit), tuple(aside))


def _doubt(run: Run, spec: ToolSpec, shape: ToolShape) -> str:
    """Say why this call is not to be permitted again: its counterparty, for the most part. Or nothing."""
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
    """Return the arguments that name a counterparty, or may, where nobody has said which do."""
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
    for name, each in sorted(kinds.items()):
        together = tuple(run for runs in each for run in runs)
        yield Kind(
            name=name,
            tools=tuple(sorted({run.request.tool.name for run in together})),
            calls=max(map(len, each)),
            writes=max(sum(run.request.tool.path is not ToolPath.READ for run in runs) for runs in each),
            purposes=tuple(dict.fromkeys(run.request.task.purpose for run in together)),
            runs=together,
        )


def _name(runs: Sequence[Run]) -> str:
    """Return the kinds of the task that the others are parts of, or else the words of its purpose."""
    task = min(runs, key=lambda run: len(run.request.task.lineage)).request.task
    words = re.sub(r"[\W\d_]+", "_", task.purpose.casefold()).strip("_")
    return " and ".join(task.kinds) or words[:LONG] or "task"


# --- evidence


def evidence(runs: Sequence[Run]) -> str:
    """Say how many calls in how many tasks, when, and which of them only observation let pass."""
    times = sorted(run.request.at for run in runs)
    told = f"{_many(len(runs), 'call')} in {_many(len({run.request.task.root_id for run in runs}), 'task')}"
    told += f", {_utc(times[0])} to {_utc(times[-1])}"
    if against := [run.against for run in runs if run.against]:
        told += f"; {len(against)} against what was in force: {', '.join(sorted(set(against)))}"
    return printable(told)


def printable(text: str) -> str:
    """Return a text of one line in which nothing moves the cursor, ends a comment, or hides."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
