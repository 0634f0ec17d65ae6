"""The provenance of each argument of a call: who vouches for its value, and where it was read before.

The user vouches for values in the user's words, the application for values in the mandate, and a trusted part
of a tool's result for the values in it. Nobody vouches for any other value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from math import ceil, log2
from types import MappingProxyType
from typing import NamedTuple

from agentguard.model import (
    LABELS,
    NO_CHOICE,
    AccessRequest,
    Arguments,
    Choice,
    Label,
    Provenance,
    Sensitivity,
    TaskState,
    ToolSpec,
)
from agentguard.provenance.inside import Place, forms_of
from agentguard.provenance.joined import ABSENT, joined, may_spell, unknown_provenance
from agentguard.provenance.leaves import Leaf, digest, leaves
from agentguard.provenance.limits import LimitsOfCall
from agentguard.provenance.origins_inside import OriginsInside
from agentguard.provenance.recognition import recognized_bits
from agentguard.provenance.structure import bits_of_order, bits_of_presence, take_apart
from agentguard.provenance.words import phrases_count, words_contain, words_count

__all__ = ["NOWHERE", "CallProvenance", "lacks_room", "provenance_of", "uncharged", "value_digests"]

NOWHERE: Mapping[str, Place] = MappingProxyType({})
CHOICE = 128
"""The most bits that a call's values and their structure say before these are as sensitive as the task."""
_ROUNDING = 1e-9
_EXCESS = "which values are in the call says {}: so all of them count as sensitive as the task"
_SINGLE = frozenset((str, int, float, bool))


class CallProvenance(NamedTuple):
    """Where the values of a call came from, by argument, and what the choice among them says."""

    arguments: dict[str, Provenance]
    choice: Choice


def value_digests(
    task: TaskState, arguments: Arguments, places: Mapping[str, Place] = NOWHERE
) -> frozenset[str]:
    """Return the digests of the values in these arguments, and of the things in the texts at these places.

    There are none if the task has no labels to find by them.
    """
    if not task.labels:
        return frozenset()
    values = {value for _, value in leaves(arguments.values) if value is not None}
    return frozenset(digest(task.root_id, value) for value in (*values, *forms_of(places.values())))


def provenance_of(
    spec: ToolSpec,
    arguments: Arguments,
    task: TaskState,
    labels: Mapping[str, Iterable[Label]],
    places: Mapping[str, Place] = NOWHERE,
    *,
    tools: int = 1,
) -> CallProvenance:
    """Return the provenance of each argument of the tool; *labels* are by digest.

    *tools* is how many tools the task may call.

    The provenance of what stands at these *places* inside of the arguments is in that of their arguments.

    Nobody vouches for an empty text, list or object or for null, of which many could spell a secret, unless
    the schema has it as a default, or does not say what it has where the model leaves the argument out. The
    name of an argument or property that the schema does not declare at its place is a value too. What the
    choice of all values and their structure can say is counted over all arguments of the call. Whether the
    task has room for it is not looked at.
    """
    by_argument: dict[str, Provenance] = dict.fromkeys((spec.schema or {}).get("properties", ()), ABSENT)
    reading = _Reading(spec, task, labels)
    values_by_name = arguments.values
    for name, value in values_by_name.items():
        undeclared = spec.schema is not None and name not in by_argument
        if type(value) in _SINGLE and value != "" and not undeclared:  # as most are
            by_argument[name] = reading.provenance(name, value)
            continue
        values, bits = take_apart(name, value, spec.declared)
        reading.bits += bits
        if undeclared:
            values.append(name or None)
        reading.limits.enter(name, value)
        by_argument[name] = reading.joined(name, values)
    if task.sensitivity or task.untrusted:  # else there is nothing to spell
        reading.bits += bits_of_presence(spec.declared, values_by_name)
        reading.bits += bits_of_order(arguments.distinctions)
    if places:
        again = _Reading(spec, task, labels)  # what it counts was counted above
        inside = OriginsInside(task, again.joined, again.provenance)
        for name, place in places.items():
            by_argument[name] = inside.filled(by_argument[name], place)
    if reading.bits > CHOICE:
        excess = _EXCESS.format(f"more than {CHOICE} bits") if task.sensitivity else ""
        return CallProvenance(_as_the_task(by_argument, values_by_name, task), Choice(0, excess))
    is_lower = any(by_argument[name].sensitivity < task.sensitivity for name in values_by_name)
    bits = ceil(reading.bits + log2(max(tools, 1)) - _ROUNDING) if is_lower else 0
    return CallProvenance(by_argument, Choice(bits) if bits else NO_CHOICE)


def lacks_room(request: AccessRequest) -> bool:
    """Return whether the task has not as many choice bits left as the call says."""
    limit = request.task.budget.choice_bits
    return limit is not None and request.task.choice_bits + request.choice.bits > limit


def uncharged(request: AccessRequest, share: str = "") -> AccessRequest:
    """Return the request of a call whose task is not charged: all of its values count as the task does.

    *share* says, for the operator, which task has used how many of its choice bits.
    """
    task = request.task
    share = share or f"the task has used {task.choice_bits} of its {task.budget.choice_bits} choice bits"
    return replace(
        request,
        provenance=_as_the_task(request.provenance, request.arguments.values, task),
        choice=Choice(0, _EXCESS.format(f"{request.choice.bits} bits, and {share}")),
    )


def _as_the_task(
    by_argument: Mapping[str, Provenance], names: Collection[str], task: TaskState
) -> dict[str, Provenance]:
    """Return the provenance of arguments of which those that are there are as sensitive as the task.

    Nobody vouches for an argument that is structure only.
    """
    unknown = unknown_provenance(task)
    return {
        name: provenance
        if name not in names
        else provenance.from_elsewhere(unknown)
        if replace(provenance, inside={}, texts={}) == ABSENT
        else provenance.as_sensitive(task.sensitivity)
        for name, provenance in by_argument.items()
    }


class _Reading:
    """The values of one call as they are looked at, and the bits that they say.

    Whoever vouches for a value, the model has chosen it. Of 4,096 words of a user, 32 different ones in their
    order say 384 bits: a secret of 45 characters. So do as many addresses of a mandate or of a trusted field.
    A value says log2 of how many values its voucher stands for. The user's words stand for n values, and
    their phrases, which are counted apart, for about half of n times n. All arguments of a call are counted,
    since 45 arguments of a letter each say as much as one text. A value that is as sensitive as the task all
    the same is not counted.
    """

    def __init__(self, spec: ToolSpec, task: TaskState, labels: Mapping[str, Iterable[Label]]) -> None:
        self.task, self.bits, self.unknown = task, 0.0, unknown_provenance(task)
        self._spec, self._labels = spec, labels
        self.limits = LimitsOfCall(spec, task.mandate)
        self._choices: dict[str, set[Leaf]] = {}

    def joined(self, name: str, values: list[Leaf]) -> Provenance:
        """Return the provenance of an argument with these values in it."""
        parts = [self.unknown if value is None else self.provenance(name, value) for value in values]
        together = joined(parts)
        return replace(together, sensitivity=self.task.sensitivity) if may_spell(values) else together

    def provenance(self, name: str, value: str | int | float, *, is_said: bool = False) -> Provenance:
        """Return the provenance of one text, number or boolean in an argument.

        *is_said* says that the user's words are known to hold it.
        """
        task = self.task
        labels = tuple(self._labels.get(digest(task.root_id, value), ())) if self._labels else ()
        places = self.limits.places(name, value)
        vouching = {author for _, author in places}
        in_words, spelling = (True, 0) if is_said else self._in_words(name, value)
        if in_words:
            vouching.add("user")
        if not vouching and not labels:
            return self.unknown
        trusted = bool(vouching) or any(label.trusted for label in labels)
        # else a label of this value may be missing, or anybody may have written it, to lend it to a secret
        complete = trusted and task.labels < LABELS
        sensitivity = max((label.sensitivity for label in labels), default=Sensitivity.PUBLIC)
        if not complete:
            sensitivity = task.sensitivity
        if sensitivity < task.sensitivity:
            self.bits += spelling + self._choice(value, [place for place, _ in places], in_words)
        sources = frozenset(vouching | {label.source for label in labels})
        return Provenance(
            sources=sources,
            user="user" in vouching,
            trusted=trusted,
            untrusted=task.untrusted and not trusted,
            sensitivity=sensitivity,
            sources_of_each=sources,
            vouched_by=frozenset(vouching | {label.source for label in labels if label.trusted}),
        )

    def _in_words(self, name: str, value: str | int | float) -> tuple[bool, int]:
        """Return whether a value is the user's, and the bits that another spelling of it than theirs says."""
        words = self.task.words
        if not words or words_contain(words, value):
            return bool(words), 0
        form = self._spec.recognized.get(name)
        bits = None if form is None else recognized_bits(form, words, value)
        return bits is not None, bits or 0

    def _choice(self, value: Leaf, places: list[str], in_words: bool) -> float:
        """Return how many bits it says that the model has chosen this value of those that are vouched for.

        Where the mandate limits an argument, no other values are permitted.
        """
        task = self.task
        costs = [self._cost(value, place, len(task.mandate.authors[place])) for place in places]
        either = 1 if task.words and task.labels and not costs else 0  # it may be a word or have a label
        if in_words:
            if isinstance(value, str) and any(map(str.isspace, value)):
                costs.append(either + self._cost(value, "the user's phrases", phrases_count(task.words)))
            else:
                costs.append(either + self._cost(value, "the user's words", words_count(task.words)))
        return min(costs) if costs else either + self._cost(value, "labels", task.labels)

    def _cost(self, value: Leaf, voucher: str, among: int) -> float:
        """Return log2 of how many values a voucher stands for; a new one is none of those before."""
        before = self._choices.setdefault(voucher, set())
        rest = among if value in before else among - len(before)
        before.add(value)
        return log2(max(rest, 1))
