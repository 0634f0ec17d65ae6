"""The provenance of each argument of a call: who vouches for its value, and where it was read before.

The user vouches for values in the user's words, the application for values in the mandate, and a trusted part
of a tool's result for the values in it. Nobody vouches for any other value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from math import log2

from agentguard.model import (
    LABELS,
    Arguments,
    Label,
    Mandate,
    Provenance,
    Sensitivity,
    TaskState,
    ToolSpec,
)
from agentguard.model.mandate import IF_TAKEN
from agentguard.provenance.leaves import Leaf, digest, every_key, leaves
from agentguard.provenance.words import words_contain

__all__ = ["ABSENT", "provenance_of", "unknown_provenance", "value_digests"]
ABSENT = Provenance()
FEW = 32
"""The most values in one argument that keep a sensitivity of their own, below that of the task."""
CHOICE = 128
"""The most bits that the choice of a call's values may say before they count as sensitive as the task."""
_SINGLE = frozenset((str, int, float, bool))
_VOUCHES = {"user": "user", "application": "application", "template": "application", "granted": "application"}


def value_digests(task: TaskState, arguments: Arguments) -> frozenset[str]:
    """Return the digests of the values in these arguments; none if the task has no labels to find by them."""
    if not task.labels:
        return frozenset()
    values = leaves(arguments.values, keys=every_key)
    return frozenset(digest(task.root_id, value) for _, value in values if value is not None)


def provenance_of(
    spec: ToolSpec, arguments: Arguments, task: TaskState, labels: Mapping[str, Iterable[Label]]
) -> dict[str, Provenance]:
    """Return the provenance of each argument of the tool; *labels* are by digest.

    Nobody vouches for an empty text, list or object or for null, of which many could spell a secret, unless
    the schema has it as a default, or does not say what it has where the model leaves the argument out.
    """
    by_argument: dict[str, Provenance] = dict.fromkeys((spec.schema or {}).get("properties", ()), ABSENT)
    unknown, choice = unknown_provenance(task), _Choice(task)
    for name, value in arguments.values.items():
        if type(value) in _SINGLE and value != "":  # as most are: there is nothing else in it
            by_argument[name] = part = _leaf(name, value, spec, task, labels) or unknown
            if part.user:
                choice.add(value, part)
            continue
        values = [leaf for _, leaf in _leaves(name, value, spec)]
        parts = [
            (None if leaf is None else _leaf(name, leaf, spec, task, labels)) or unknown for leaf in values
        ]
        joined = parts[0] if len(parts) == 1 else _joined(parts)
        by_argument[name] = replace(joined, sensitivity=task.sensitivity) if _may_spell(values) else joined
        for leaf, part in zip(values, parts, strict=True):
            if leaf is not None and part.user:
                choice.add(leaf, part)
    if choice.bits > CHOICE:
        return {
            name: replace(provenance, sensitivity=task.sensitivity)
            if name in arguments.values
            else provenance
            for name, provenance in by_argument.items()
        }
    return by_argument


class _Choice:
    """How many bits the choice of values among the user's words says.

    Of 4,096 words of a user, 32 different ones in their order say 384 bits: a secret of 45 characters. A
    phrase has a first and a last word. It is counted over all arguments of a call, since 45 arguments of a
    letter each say as much as one text.
    """

    def __init__(self, task: TaskState) -> None:
        self.bits = 0.0
        self._task, self._values = task, set[Leaf]()

    @cached_property
    def _among(self) -> int:
        return len(self._task.words.split())

    def add(self, value: Leaf, provenance: Provenance) -> None:
        """Count a value that the user vouches for, unless it is as sensitive as the task all the same."""
        if provenance.sensitivity >= self._task.sensitivity:
            return
        new = value not in self._values
        rest = self._among - len(self._values) if new else self._among
        self._values.add(value)
        ends = 2 if isinstance(value, str) and any(map(str.isspace, value)) else 1
        self.bits += ends * log2(max(rest, 1))


def _leaves(name: str, value: object, spec: ToolSpec) -> Iterator[tuple[str, Leaf]]:
    def says_something(part: str, empty: object) -> bool:
        return not spec.omits(part or name, empty)

    return leaves(value, keys=lambda key: key not in spec.declared, empties=says_something)


def _may_spell(values: list[Leaf]) -> bool:
    """Return whether the choice and order of values can spell a text, whoever vouches for each of them.

    Two values that are repeated are the bits of any text. Of `FEW` different ones, the order says at most 117
    bits, which are 15 characters.
    """
    return len(values) > FEW or len(set(map(repr, values))) < len(values)


def unknown_provenance(task: TaskState) -> Provenance:
    """Return the provenance of a value for which nobody vouches.

    The value counts as the attacker's once the task has read anything untrusted, and as sensitive as anything
    that the task has read. A value that a request or a record says nothing of has this provenance too.
    """
    return Provenance(user=False, trusted=False, untrusted=task.untrusted, sensitivity=task.sensitivity)


def _joined(parts: list[Provenance]) -> Provenance:
    """Return the provenance of a value with several parts: it is trusted only if all its parts are."""
    return Provenance(
        sources=frozenset().union(*(part.sources for part in parts)),
        user=all(part.user for part in parts),
        trusted=all(part.trusted for part in parts),
        untrusted=any(part.untrusted for part in parts),
        sensitivity=max((part.sensitivity for part in parts), default=Sensitivity.PUBLIC),
    )


def _leaf(
    name: str,
    value: str | int | float,
    spec: ToolSpec,
    task: TaskState,
    labels: Mapping[str, Iterable[Label]],
) -> Provenance | None:
    """Return the provenance of one text, number or boolean, or None if nothing is known of it."""
    labels_of_value = tuple(labels.get(digest(task.root_id, value), ())) if labels else ()
    limited = task.mandate.args or task.mandate.counterparties is not None
    vouching = _authors(name, value, spec, task.mandate) if limited else set[str]()
    if task.words and words_contain(task.words, value):
        vouching.add("user")
    if not vouching and not labels_of_value:
        return None
    sources = vouching | {label.source for label in labels_of_value}
    user = "user" in vouching
    trusted = bool(vouching) or any(label.trusted for label in labels_of_value)
    # else a label of this value may be missing, or anybody may have written the value, to lend it to a secret
    complete = trusted and task.labels < LABELS
    return Provenance(
        sources=frozenset(sources),
        user=user,
        trusted=trusted,
        untrusted=task.untrusted and not trusted,
        sensitivity=max((label.sensitivity for label in labels_of_value), default=Sensitivity.PUBLIC)
        if complete
        else task.sensitivity,
    )


def _authors(name: str, value: str | int | float, spec: ToolSpec, mandate: Mandate) -> set[str]:
    """Return which of user and application put this value into the mandate for this argument."""
    place_for_tool = f"args.{spec.name}.{name}"
    places = [f"args.{name}", place_for_tool, f"{place_for_tool}{IF_TAKEN}"] + ["counterparties"] * (
        name in spec.sinks
    )
    authors = (mandate.authors.get(place, {}).get(value, "").partition(" ")[0] for place in places)
    return {_VOUCHES[author] for author in authors if author in _VOUCHES}
