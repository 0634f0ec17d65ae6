"""Labels on values: what a tool's result vouches for, and where the value of an argument came from.

A model turns what it reads into arguments, and nobody can follow it doing so. What can be told is
whether a value is one that the user wrote, that the application put into the mandate, or that a tool
returned, and in which field. So values are recognised when they come back, whole and exactly as they
were: a value that was changed on the way, if only in its case, is nobody's. Whatever is not recognised
counts as the attacker's from the moment that the task has read anything of an attacker.

A label holds a digest of its value, salted by the task, and not the value. The store keeps labels for a
task together with all that began in it, so that they survive an interrupt, another process, and
parallel calls. There are at most `LABELS` for these tasks and `PER_RESULT` for a result: beyond, a value
is not vouched for, and counts as sensitive as anything that was read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from hashlib import blake2b

from pydantic import BaseModel
from pydantic_core import from_json

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

__all__ = ["PER_RESULT", "family", "leaves", "origins", "seen", "wanted"]

PER_RESULT = 2_000
ABSENT = Origin()
_WHOLE, _DEPTH = "*", 32
_EDGE = "\"'`´‘’“”«»()[]{}<>,;:.!?…"  # noqa: RUF001  quotation marks as people write them
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
    for field, value in _fields(result):
        trusted = _WHOLE in spec.trusted or field in spec.trusted
        source = f"{spec.name}.{field}" if field else spec.name
        for leaf in (value, *_words_of(value), *(_listed(value) if trusted else ())):
            if len(labels) >= PER_RESULT:
                break
            label = Label(digest(family(task), leaf), source, trusted, spec.sensitivity)
            labels.setdefault((label.digest, source), label)
    return Seen(untrusted=spec.untrusted, sensitivity=spec.sensitivity, labels=tuple(labels.values()))


def digest(task_id: str, value: str | int | float) -> str:
    """Return the digest of a value: 128 bits, salted by the task, so that one table of digests reads none."""
    content = f"{task_id}\n{_form(value)}"
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _form(value: str | int | float) -> str:
    """Return a text that is the same for equal values alone: 10 is 10.0, and no text is a number."""
    return f"s{value}" if isinstance(value, str) else f"n{Decimal(repr(value)).normalize()}"


def _no_key(_name: str) -> bool:
    return False


def _each_key(_name: str) -> bool:
    return True


def _fields(result: object) -> Iterator[tuple[str, str | int | float]]:
    """Yield the path and the value of every text and number in a result; lists add nothing to a path.

    A result is content and artifact, content blocks, or the thing itself; a text may be the JSON of one.
    """
    for part in result if isinstance(result, tuple) else (result,):
        if isinstance(part, list) and all(isinstance(each, Mapping) and "text" in each for each in part):
            for block in part:
                yield from leaves(_structured(block["text"]), keys=_each_key)
        yield from leaves(_structured(part), keys=_each_key)


def _structured(part: object) -> object:
    """Return what a text says, if it is a JSON object or list."""
    if isinstance(part, str) and part.lstrip()[:1] in ("{", "["):
        try:
            return from_json(part)
        except ValueError:
            return part
    return part


def leaves(
    value: object, path: str = "", depth: int = 0, *, keys: Callable[[str], bool] = _no_key
) -> Iterator[tuple[str, str | int | float]]:
    """Yield each text and number in a value, with its path; lists add nothing to it, and "" is nothing.

    Goes through JSON values, dataclasses and pydantic models; of anything else nothing is known. Of an object
    the *keys* for which it is true are values too, in the place of the object: a table may be by name.
    """
    if type(value) is str:  # the most frequent
        if value:
            yield path, value
        return
    plain = _plain(value)
    if isinstance(plain, str | int | float):
        if plain != "" and not isinstance(plain, bool):
            yield path, plain
        return
    for name, part in _parts(plain) if depth < _DEPTH else ():
        if name and keys(name):
            yield path, name
        yield from leaves(part, f"{path}.{name}" if path and name else name or path, depth + 1, keys=keys)


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    return value.isoformat() if isinstance(value, date) else value


def _parts(value: object) -> Iterable[tuple[str, object]]:
    """Return the parts of a value by name; those of a list have none."""
    if isinstance(value, Mapping):
        return ((str(name), part) for name, part in value.items())
    if isinstance(value, BaseModel):
        return iter(value)
    if isinstance(value, list | tuple | set | frozenset):
        return (("", part) for part in value)
    if is_dataclass(value):
        return ((field.name, getattr(value, field.name)) for field in fields(value))
    return ()


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
    return frozenset(digest(family(task), value) for _, value in leaves(arguments.values, keys=_each_key))


def origins(
    spec: ToolSpec, arguments: Arguments, task: TaskState, labels: Mapping[str, Iterable[Label]]
) -> dict[str, Origin]:
    """Say of each argument of the tool where its value came from; *labels* are by digest."""
    found: dict[str, Origin] = dict.fromkeys((spec.schema or {}).get("properties", ()), ABSENT)
    unknown = unvouched(task)
    for name, value in arguments.values.items():
        each = [
            _leaf(name, leaf, spec, task, labels) or unknown
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
    sources = {label.source for label in found}
    if task.mandate.args or task.mandate.counterparties is not None:
        sources |= _put_by(name, value, spec, task.mandate)
    if task.words and said(task.words, value):
        sources.add("user")
    if not sources:
        return None
    user = "user" in sources
    trusted = user or "application" in sources or any(label.trusted for label in found)
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
    return any(_equals(token, value) for token in words.split())


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
        return number(token.strip(_EDGE)) == value
    except ValueError:
        return False
