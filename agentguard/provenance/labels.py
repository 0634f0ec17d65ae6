"""Labels on values: what a tool's result vouches for, and where the value of an argument came from.

A model turns what it reads into arguments, and nobody can follow it doing so. What can be told is
whether a value is one that the user wrote, that the application put into the mandate, or that a tool
returned, and in which field. So values are recognized when they come back, whole and exactly as they
were: a value that was changed on the way, if only in its case, is nobody's. Whatever is not recognized
counts as the attacker's from the moment that the task has read anything of an attacker. That holds for a
boolean as well, which names nobody, and for which the mandate alone can vouch.

A label holds a digest of its value, salted by the task, and not the value; whoever reads the store can
still find a short one by trial. The store keeps labels for a task together with all that began in it, so
that they survive an interrupt, another process, and parallel calls. There are at most `LABELS` for these
tasks and `PER_RESULT` for a result: beyond, a value is not vouched for, and counts as sensitive as anything
that was read.
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
_NAMES_SOMETHING = re.compile(r"[\d@/._-]")  # a word that may be an address, an account or an id


# --- what a result vouches for


def observe_result(spec: ToolSpec | None, task: TaskState, result: object) -> ReadEffects:
    """Say what a task has read by a call of this tool, from what the tool returned."""
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

    A result is content and artifact, one content block, or the thing itself. A text that is all of it may be
    the JSON of one; of a text beside others anybody may have written what it says of fields.
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
    """Return what a result consists of; of an MCP server's, its content and what it says of the structure."""
    if isinstance(result, BaseModel) and hasattr(result, "structuredContent"):
        blocks = [block.model_dump(exclude_none=True) for block in getattr(result, "content", ())]
        result = (blocks, result.structuredContent)
    if type(result) is not tuple:
        return (result,)
    return map(_unwrapped, result)


def _unwrapped(part: object) -> object:
    """Return what is in the artifact of langchain-mcp-adapters, and in the wrapper of a server for a list."""
    for name in ("structured_content", "result"):
        if isinstance(part, Mapping) and part.keys() == {name}:
            part = part[name]
    return part


def _is_block(value: object) -> bool:
    """Whether this is a content block of text, and no record of the tool's with a text in it."""
    return (
        isinstance(value, Mapping)
        and value.get("type") == "text"
        and {"type", "text"} <= value.keys() <= BLOCK
    )


def _structured(text: object) -> object:
    """Return what a text says, if it is a JSON object or list."""
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
    """Yield what a text lists: its lines, what stands in one behind a colon, and what commas part."""
    for line in value.splitlines() if isinstance(value, str) else ():
        for part in (
            line,
            line.partition(":")[2],
            *_BETWEEN.split(line),
            *_BETWEEN.split(line.partition(":")[2]),
        ):
            if (bare := part.strip(EDGE + " \t-*•")) and bare != value:
                yield bare
