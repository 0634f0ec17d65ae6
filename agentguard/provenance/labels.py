"""Labels on values: which values a tool's result vouches for, and in which field each of them stood.

A model turns the texts that it reads into arguments, and nobody can follow how. But one can tell whether a
value is one that the user wrote, that the application put into the mandate, or that a tool returned, and in
which field. So a value is recognized when it comes back, whole and exactly as it was. A value that was
changed on the way, even in its case only, is not recognized. A value that is not recognized counts as the
attacker's as soon as the task has read anything untrusted. That holds for a boolean too: it names nobody, and
only the mandate can vouch for it.

A label holds a digest of its value, salted by the task, and not the value. Someone who reads the store can
still find a short value by trial. The store keeps the labels of a task and of all tasks that began in it
together, so that they survive an interrupt, another process, and parallel calls. There are at most `LABELS`
labels for these tasks and `PER_RESULT` for one result, of `CHARACTERS` of its text; trusted fields have as
much room again, which an untrusted text cannot fill. A value beyond these limits has no label: nobody
vouches for it, and it counts as sensitive as anything that the task has read.

An untrusted label says where a value was read, and not that the value is harmless: a page may list the
letters of which a secret is made. So only a value that is vouched for keeps a lower sensitivity than the
highest that the task has read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from pydantic import BaseModel
from pydantic_core import from_json

from agentguard.model import (
    NO_READ_EFFECTS,
    RECORD,
    AccessRequest,
    Label,
    ReadEffects,
    TaskState,
    ToolSpec,
)
from agentguard.model.tool import ALL
from agentguard.provenance.items import items_in
from agentguard.provenance.leaves import Leaf, digest, leaves, leaves_at
from agentguard.provenance.records import fields_in_records
from agentguard.provenance.words import EDGE

__all__ = ["CHARACTERS", "PER_RESULT", "observe_result"]

PER_RESULT = 2_000  # labels of one result at most, and as many again of its trusted fields
CHARACTERS = 200_000  # of one result's text that are looked through, and as many again in its trusted fields
_JSON = 4_000_000  # characters of a text that is read as JSON at most
_WHOLE = "*"
BLOCK = frozenset({"type", "text", "id", "index", "annotations", "extras"})
_BETWEEN = re.compile(r"[,;|\t]")
_FRAMES = re.compile(r"[<>()\[\]=|\"']")
_NAMES_SOMETHING = re.compile(r"[\d@/._-]")  # a word with one of these may be an address, an account or an id


def observe_result(
    spec: ToolSpec | None, task: TaskState, result: object, request: AccessRequest | None = None
) -> ReadEffects:
    """Return what a task has read by a call of this tool: the labels of the values in the tool's result.

    *request* is the call's. Without it, no argument vouches for what the call has returned.
    """
    if spec is None or not (spec.untrusted or spec.trusted or spec.sensitivity or spec.records):
        return NO_READ_EFFECTS
    labels = tuple(_labels(spec, task, result, request))
    return ReadEffects(untrusted=spec.untrusted, sensitivity=spec.sensitivity, labels=labels)


def _labels(
    spec: ToolSpec, task: TaskState, result: object, request: AccessRequest | None
) -> Iterator[Label]:
    """Yield the labels of a result, as far as its budget goes. A repeated value is noted once.

    Trusted fields are found first, each by its own path, and have a budget of their own. So what stands
    beside them, nested or large without end, costs them nothing, and a key with dots in it is no path. Fields
    that what stands beside them may vouch for are found so, too.
    """
    salt = task.root_id
    values = list(_values(result))
    trusted, other = _Budget(), _Budget()
    whole = _WHOLE in spec.trusted
    paths = sorted(spec.trusted - {_WHOLE})
    fields = (
        (path, leaf) for path in paths for value in values for leaf in leaves_at(value, path.split("."))
    )
    yield from _labels_of(spec, salt, fields, trusted, trusted=True)
    if spec.records:
        in_records = fields_in_records(spec, task, values, request)
        yield from _labels_of(spec, salt, in_records, _Budget(), trusted=False)
    for value in values:
        rest = _outside(leaves(value), spec.records)
        yield from _labels_of(spec, salt, rest, trusted if whole else other, trusted=whole, but=trusted)


def _labels_of(
    spec: ToolSpec,
    salt: str,
    fields: Iterable[tuple[str, Leaf]],
    budget: _Budget,
    *,
    trusted: bool,
    but: _Budget | None = None,
) -> Iterator[Label]:
    """Yield the labels of these fields, but not of what another budget has admitted for the same field.

    The whole values come first, so that the parts of a long one take no room of another.
    """
    admitted = list[tuple[str, str | int | float]]()
    for field, value in fields:
        if value is None or isinstance(value, bool):
            continue
        source = _source(spec.name, field)
        if (but is not None and but.has(source, value)) or not budget.admits(source, value):
            continue
        admitted.append((source, value))
        if budget.notes(source, value):
            yield Label(digest(salt, value), source, trusted, spec.sensitivity)
    for source, value in admitted:
        for part in (*_words_of(value), *(_listed(value) if trusted or RECORD in source else ())):
            if budget.notes(source, part):
                yield Label(digest(salt, part), source, trusted, spec.sensitivity)


def _source(tool: str, field: str) -> str:
    """Return the source of a value, from the tool, the path of its field, and the record behind that."""
    path, separator, record = field.partition(RECORD)
    return f"{tool}.{path}{separator}{record}" if path else f"{tool}{separator}{record}"


def _outside(fields: Iterable[tuple[str, Leaf]], records: Collection[str]) -> Iterator[tuple[str, Leaf]]:
    """Yield the fields whose record does not count. No name of theirs may look like a record."""
    for path, leaf in fields:
        if ALL not in records and path not in records:
            yield path.replace(RECORD, " "), leaf


class _Budget:
    """What is left of one result's budget: `CHARACTERS` of text to look through, and `PER_RESULT` labels."""

    def __init__(self) -> None:
        self._characters, self._labels = CHARACTERS, PER_RESULT
        self._values: set[tuple[str, object]] = set()
        self._noted: set[tuple[str, object]] = set()

    def has(self, source: str, value: str | int | float) -> bool:
        """Return whether this value was admitted for this field."""
        return (source, value) in self._values

    def admits(self, source: str, value: str | int | float) -> bool:
        """Return whether this value is new in its field and is within the budget, which it then uses."""
        if not self._labels or (source, value) in self._values:
            return False
        self._values.add((source, value))
        self._characters -= len(value) if isinstance(value, str) else 1
        return self._characters >= 0

    def notes(self, source: str, leaf: str | int | float) -> bool:
        """Return whether this part of a value gets a label: it is new, and there is room for it."""
        if not self._labels or (source, leaf) in self._noted:
            return False
        self._noted.add((source, leaf))
        self._labels -= 1
        return True


def record_in(result: object) -> object:
    """Return the record that a tool's result is: what is structured in it, or the value itself."""
    values = list(_values(result))
    records = [value for value in values if isinstance(value, Mapping)]
    return records[-1] if records else values[0] if values else None


def _values(result: object) -> Iterator[object]:
    """Yield the values that a result consists of, in which the fields are looked for.

    A result is a pair of content and artifact, one content block, or the value itself. If one text is the
    whole result, it may be the JSON of a value. A text beside other texts is not read as JSON: anybody may
    have written the names of fields in it.
    """
    parts = [part for part in _contents(result) if part is not None]
    alone = parts[0] if len(parts) == 1 else None
    if isinstance(alone, str):
        yield _structured(alone)
        return
    if isinstance(alone, list) and len(alone) == 1 and _is_block(alone[0]):
        yield _structured(alone[0]["text"])
    yield from parts


def _contents(result: object) -> Iterable[object]:
    """Return the parts of a result; of an MCP server's result, its content and its structured content."""
    if isinstance(result, BaseModel) and hasattr(result, "structuredContent"):
        blocks = [block.model_dump(exclude_none=True) for block in getattr(result, "content", ())]
        result = (blocks, result.structuredContent)
    if type(result) is not tuple:
        return (result,)
    return map(_unwrapped, result)


def _unwrapped(part: object) -> object:
    """Return the value inside the artifact of langchain-mcp-adapters, or inside a server's list wrapper."""
    for name in ("structured_content", "result"):
        if isinstance(part, Mapping) and part.keys() == {name}:
            part = part[name]
    return part


def _is_block(value: object) -> bool:
    """Return whether this is a content block of text, and not a record of the tool that has a text."""
    return (
        isinstance(value, Mapping)
        and value.get("type") == "text"
        and {"type", "text"} <= value.keys() <= BLOCK
    )


def _structured(text: object) -> object:
    """Return the value of a text that is a JSON object or list, and any other value as it is."""
    if isinstance(text, str) and len(text) <= _JSON and text.lstrip()[:1] in ("{", "["):
        try:
            return from_json(text)
        except ValueError:
            return _nested(text)
    return text


def _nested(text: str) -> object:
    """Return the value of a JSON text that is nested more deeply than pydantic's reader goes, or the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _words_of(value: str | int | float) -> Iterator[str]:
    if isinstance(value, str) and any(map(str.isspace, value)):
        for word in value.split():
            if _NAMES_SOMETHING.search(word) and (bare := word.strip(EDGE)):
                yield bare
                if _FRAMES.search(bare):  # markup around a link or an address
                    yield from (form for items in items_in(word).values() for item in items for form in item)


def _listed(value: str | int | float) -> Iterator[str]:
    """Yield the items of a text: its lines, the part of a line after a colon, and parts between commas."""
    for line in value.splitlines() if isinstance(value, str) else ():
        for part in (
            line,
            line.partition(":")[2],
            *_BETWEEN.split(line),
            *_BETWEEN.split(line.partition(":")[2]),
        ):
            # of single characters any text can be made
            if len(bare := part.strip(EDGE + " \t-*•")) > 1 and bare != value:
                yield bare
