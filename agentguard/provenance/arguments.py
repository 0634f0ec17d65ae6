"""TODO origins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
from agentguard.provenance.leaves import digest, every_key, leaves
from agentguard.provenance.words import said

__all__ = ["ABSENT", "provenance_of", "unknown_provenance", "wanted"]
ABSENT = Provenance()
_VOUCHES = {"user": "user", "application": "application", "template": "application", "granted": "application"}


# --- where an argument came from


def wanted(task: TaskState, arguments: Arguments) -> frozenset[str]:
    """Return the digests whose labels tell where these arguments came from; none if there are no labels."""
    if not task.labels:
        return frozenset()
    found = leaves(arguments.values, keys=every_key)
    return frozenset(digest(task.root_id, value) for _, value in found if value is not None)


def provenance_of(
    spec: ToolSpec, arguments: Arguments, task: TaskState, labels: Mapping[str, Iterable[Label]]
) -> dict[str, Provenance]:
    """Say of each argument of the tool where its value came from; *labels* are by digest."""
    found: dict[str, Provenance] = dict.fromkeys((spec.schema or {}).get("properties", ()), ABSENT)
    unknown = unknown_provenance(task)
    for name, value in arguments.values.items():
        each = [
            (None if leaf is None else _leaf(name, leaf, spec, task, labels)) or unknown
            for _, leaf in leaves(value, keys=lambda key: key not in spec.declared)
        ]
        found[name] = each[0] if len(each) == 1 else _together(each)
    return found


def unknown_provenance(task: TaskState) -> Provenance:
    """Return the provenance of a value for which nobody vouches.

    The value counts as the attacker's once the task has read anything untrusted, and as sensitive as anything
    that the task has read. A value that a request or a record says nothing of has this provenance too.
    """
    return Provenance(user=False, trusted=False, untrusted=task.untrusted, sensitivity=task.sensitivity)


def _together(each: list[Provenance]) -> Provenance:
    return Provenance(
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
) -> Provenance | None:
    found = tuple(labels.get(digest(task.root_id, value), ())) if labels else ()
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
    return Provenance(
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
    who = (mandate.authors.get(place, {}).get(value, "").partition(" ")[0] for place in places)
    return {_VOUCHES[each] for each in who if each in _VOUCHES}
