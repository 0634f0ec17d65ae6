"""Labels on values: what a tool's result vouches for, and where the value of an argument came from.

A model turns what it reads into arguments, and nobody can follow it doing so. What can be told is
whether a value is one that the user wrote, that the application put into the mandate, or that a tool
returned, and in which field. So values are recognised when they come back, whole and exactly as they
were: a value that was changed on the way, if only in its case, is nobody's. Whatever is not recognised
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
from decimal import Decimal
from hashlib import blake2b

from pydantic import BaseModel
from pydantic_core import from_json

from agentguard.leaves import Leaf, leaves
from agentguard.model import (
    LABELS,
    Arguments,
    Label,
    Mandate,
    Origin,
    Seen,
    Sensitivity,
    TaskState,
    ToolSpec,
)
from agentguard.parameter import number

__all__ = ["PER_RESULT", "family", "origins", "seen", "wanted"]

PER_RESULT = 2_000
ABSENT = Origin()
_WHOLE = "*"
BLOCK = frozenset({"type", "text", "id", "index", "annotations", "extras"})
_EDGE = "\"'`´‘’“”«»()[]{}<>,;:.!?…"  # noqa: RUF001  quotation marks as people write them
_DECIMAL = re.compile(rf"\A[{re.escape(_EDGE)}]*?(?=[.,]?\d)")  # ".50" is not 50
_BETWEEN = re.compile(r"[,;|\t]")
_UP_TO = re.compile(rf"(?<!\S)[{re.escape(_EDGE)}]*\Z")
_FROM = re.compile(rf"[{re.escape(_EDGE)}]*(?!\S)")
_NAMES_SOMETHING = re.compile(r"[\d@/._-]")  # a word that may be an address, an account or an id
_VOUCHES = {"user": "user", "application": "application", "template": "application", "granted": "application"}


def family(task: TaskState) -> str:
    """Return the id under which the labels of a task, its parents and its children are kept."""
    return task.lineage[-1] if task.lineage else task.id


# --- what a result vouches for


def seen(spec: ToolSpec | None, task: TaskState, result: object) -> Seen:
    """Say what a task has read by a call of this tool, from what the tool returned."""
    if spec is None or not (spec.untrusted or spec.trusted or spec.sensitivity):
        return Seen()
    labels: dict[tuple[str, str], Label] = {}
    for label in _labels(spec, family(task), result):
        labels.setdefault((label.digest, label.source), label)
        if len(labels) == PER_RESULT:
            break
    return Seen(untrusted=spec.untrusted, sensitivity=spec.sensitivity, labels=tuple(labels.values()))


def _labels(spec: ToolSpec, salt: str, result: object) -> Iterator[Label]:
    for field, value in _fields(result):
        if value is None or isinstance(value, bool):
            continue
        trusted = _WHOLE in spec.trusted or field in spec.trusted
        source = f"{spec.name}.{field}" if field else spec.name
        for leaf in (value, *_words_of(value), *(_listed(value) if trusted else ())):
            yield Label(digest(salt, leaf), source, trusted, spec.sensitivity)


def digest(task_id: str, value: str | int | float) -> str:
    """Return the digest of a value: 128 bits, salted by the task, so that one table of digests reads none."""
    content = f"{task_id}\n{_form(value)}"
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _form(value: str | int | float) -> str:
    """Return a text that is the same for equal values alone: 10 is 10.0, and only a number is one."""
    if isinstance(value, bool):
        return f"b{value}"
    return f"s{value}" if isinstance(value, str) else f"n{Decimal(repr(value)).normalize()}"


def _each_key(_name: str) -> bool:
    return True


def _fields(result: object) -> Iterator[tuple[str, Leaf]]:
    """Yield the path and the value of every text and number in a result; lists add nothing to a path.

    A result is content and artifact, one content block, or the thing itself. A text that is all of it may be
    the JSON of one; of a text beside others anybody may have written what it says of fields.
    """
    parts = [part for part in _contents(result) if part is not None]
    alone = parts[0] if len(parts) == 1 else None
    if isinstance(alone, str):
        yield from leaves(_structured(alone), keys=_each_key)
        return
    if isinstance(alone, list) and len(alone) == 1 and _is_block(alone[0]):
        yield from leaves(_structured(alone[0]["text"]), keys=_each_key)
    for part in parts:
        yield from leaves(part, keys=_each_key)


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
            if _NAMES_SOMETHING.search(word) and (bare := word.strip(_EDGE)):
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
            if (bare := part.strip(_EDGE + " \t-*•")) and bare != value:
                yield bare


# --- where an argument came from


def wanted(task: TaskState, arguments: Arguments) -> frozenset[str]:
    """Return the digests whose labels tell where these arguments came from; none if there are no labels."""
    if not task.labels:
        return frozenset()
    found = leaves(arguments.values, keys=_each_key)
    return frozenset(digest(family(task), value) for _, value in found if value is not None)


def origins(
    spec: ToolSpec, arguments: Arguments, task: TaskState, labels: Mapping[str, Iterable[Label]]
) -> dict[str, Origin]:
    """Say of each argument of the tool where its value came from; *labels* are by digest."""
    found: dict[str, Origin] = dict.fromkeys((spec.schema or {}).get("properties", ()), ABSENT)
    unknown = unvouched(task)
    for name, value in arguments.values.items():
        each = [
            (None if leaf is None else _leaf(name, leaf, spec, task, labels)) or unknown
            for _, leaf in leaves(value, keys=lambda key: key not in spec.declared)
        ]
        found[name] = each[0] if len(each) == 1 else _together(each)
    return found


def unvouched(task: TaskState) -> Origin:
    """Return the origin of a value for which nobody vouches."""
    return Origin(user=False, trusted=False, untrusted=task.untrusted, sensitivity=task.sensitivity)


def _together(each: list[Origin]) -> Origin:
    return Origin(
        sources=frozenset().union(*(one.sources for one in each)),
        user=all(one.user for one in each),
        trusted=all(one.trusted for one in each),
        untrusted=any(one.untrusted for one in each),
        sensitivity=max((one.sensitivity for one in each), default=Sensitivity.PUBLIC),
    )


def _leaf(
    name: str,
    value: str | int | float,
    spec: ToolSpec,
    task: TaskState,
    labels: Mapping[str, Iterable[Label]],
) -> Origin | None:
    found = tuple(labels.get(digest(family(task), value), ())) if labels else ()
    vouching: set[str] = set()
    if task.mandate.args or task.mandate.counterparties is not None:
        vouching |= _put_by(name, value, spec, task.mandate)
    if task.words and said(task.words, value):
        vouching.add("user")
    sources = vouching | {label.source for label in found}
    if not sources:
        return None
    user = "user" in vouching
    trusted = bool(vouching) or any(label.trusted for label in found)
    known = task.labels < LABELS
    return Origin(
        sources=frozenset(sources),
        user=user,
        trusted=trusted,
        untrusted=task.untrusted and not trusted,
        sensitivity=max((label.sensitivity for label in found), default=Sensitivity.PUBLIC)
        if known
        else task.sensitivity,
    )


def _put_by(name: str, value: str | int | float, spec: ToolSpec, mandate: Mandate) -> set[str]:
    """Return who of user and application put this value into the mandate for this argument."""
    places = [f"args.{name}", f"args.{spec.name}.{name}"] + ["counterparties"] * (name in spec.sinks)
    who = (mandate.origins.get(place, {}).get(value, "").partition(" ")[0] for place in places)
    return {_VOUCHES[each] for each in who if each in _VOUCHES}


def said(words: str, value: str | int | float) -> bool:
    """Return whether a value stands in the user's words, as a whole: quoted or punctuated, never in part."""
    if isinstance(value, str):
        return _stands_in(words, value)
    return not isinstance(value, bool) and any(_equals(token, value) for token in words.split())


def _stands_in(words: str, value: str) -> bool:
    at = words.find(value)
    while at >= 0:
        before, after = _UP_TO.search(words, 0, at), _FROM.match(words, at + len(value))
        if before and after:
            return True
        at = words.find(value, at + 1)
    return False


def _equals(token: str, value: int | float) -> bool:
    try:
        return number(_DECIMAL.sub("", token, count=1).rstrip(_EDGE)) == value
    except ValueError:
        return False
