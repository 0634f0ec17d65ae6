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
labels for these tasks and `PER_RESULT` for one result. A value beyond these limits has no label: nobody
vouches for it, and it counts as sensitive as anything that the task has read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel
from pydantic_core import from_json

from agentguard.model import (
    Label,
    ReadEffects,
    TaskState,
    ToolSpec,
)
from agentguard.provenance.leaves import Leaf, digest, every_key, leaves
from agentguard.provenance.words import EDGE

__all__ = ["PER_RESULT", "observe_result"]

PER_RESULT = 2_000
_WHOLE = "*"
BLOCK = frozenset({"type", "text", "id", "index", "annotations", "extras"})
_BETWEEN = re.compile(r"[,;|\t]")
_NAMES_SOMETHING = re.compile(r"[\d@/._-]")  # a word with one of these may be an address, an account or an id


def observe_result(spec: ToolSpec | None, task: TaskState, result: object) -> ReadEffects:
    """Return what a task has read by a call of this tool: the labels of the values in the tool's result."""
    if spec is None or not (spec.untrusted or spec.trusted or spec.sensitivity):
        return ReadEffects()
    labels: dict[tuple[str, str], Label] = {}
    for label in _labels(spec, task.root_id, result):
        labels.setdefault((label.digest, label.source), label)
        if len(labels) == PER_RESULT:
            break
    return ReadEffects(untrusted=spec.untrusted, sensitivity=spec.sensitivity, labels=tuple(labels.values()))


def _labels(spec: ToolSpec, salt: str, result: object) -> Iterator[Label]:
    for field, value in _fields(result):
        if value is None or isinstance(value, bool):
            continue
        trusted = _WHOLE in spec.trusted or field in spec.trusted
        source = f"{spec.name}.{field}" if field else spec.name
        for leaf in (value, *_words_of(value), *(_listed(value) if trusted else ())):
            yield Label(digest(salt, leaf), source, trusted, spec.sensitivity)


def _fields(result: object) -> Iterator[tuple[str, Leaf]]:
    """Yield the path and the value of every text and number in a result; lists add nothing to a path.

    A result is a pair of content and artifact, one content block, or the value itself. If one text is the
    whole result, it may be the JSON of a value. A text beside other texts is not read as JSON: anybody may
    have written the names of fields in it.
    """
    parts = [part for part in _contents(result) if part is not None]
    alone = parts[0] if len(parts) == 1 else None
    if isinstance(alone, str):
        yield from leaves(_structured(alone), keys=every_key)
        return
    if isinstance(alone, list) and len(alone) == 1 and _is_block(alone[0]):
        yield from leaves(_structured(alone[0]["text"]), keys=every_key)
    for part in parts:
        yield from leaves(part, keys=every_key)


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
    if isinstance(text, str) and text.lstrip()[:1] in ("{", "["):
        try:
            return from_json(text)
        except ValueError:
            return text
    return text


def _words_of(value: str | int | float) -> Iterator[str]:
    if isinstance(value, str) and any(map(str.isspace, value)):
        for word in value.split():
            if _NAMES_SOMETHING.search(word) and (bare := word.strip(EDGE)):
                yield bare


def _listed(value: str | int | float) -> Iterator[str]:
    """Yield the items of a text: its lines, the part of a line after a colon, and parts between commas."""
    for line in value.splitlines() if isinstance(value, str) else ():
        for part in (
            line,
            line.partition(":")[2],
            *_BETWEEN.split(line),
            *_BETWEEN.split(line.partition(":")[2]),
        ):
            if (bare := part.strip(EDGE + " \t-*•")) and bare != value:
                yield bare
