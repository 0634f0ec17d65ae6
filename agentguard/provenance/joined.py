"""The provenance of several values together, and that of a value of which nothing is known."""

from __future__ import annotations

from collections.abc import Sequence

from agentguard.model import Provenance, Sensitivity, TaskState
from agentguard.provenance.leaves import Leaf

__all__ = ["ABSENT", "FEW", "joined", "may_spell", "unknown_provenance"]

ABSENT = Provenance()
FEW = 32
"""The most values in one argument that keep a sensitivity of their own, below that of the task."""


def unknown_provenance(task: TaskState) -> Provenance:
    """Return the provenance of a value for which nobody vouches.

    The value counts as the attacker's once the task has read anything untrusted, and as sensitive as anything
    that the task has read. A value that a request or a record says nothing of has this provenance too.
    """
    return Provenance(user=False, trusted=False, untrusted=task.untrusted, sensitivity=task.sensitivity)


def joined(parts: Sequence[Provenance]) -> Provenance:
    """Return the provenance of a value with several parts: it is trusted only if all its parts are."""
    if len(parts) == 1:
        return parts[0]
    sources = [part.sources for part in parts]
    return Provenance(
        sources=frozenset().union(*sources),
        user=all(part.user for part in parts),
        trusted=all(part.trusted for part in parts),
        untrusted=any(part.untrusted for part in parts),
        sensitivity=max((part.sensitivity for part in parts), default=Sensitivity.PUBLIC),
        sources_of_each=frozenset.intersection(*sources) if sources else frozenset(),
        vouched_by=frozenset.intersection(*(part.vouched_by for part in parts)) if parts else frozenset(),
    )


def may_spell(values: Sequence[Leaf]) -> bool:
    """Return whether the choice and order of values can spell a text, whoever vouches for each of them.

    Two values that are repeated are the bits of any text. Of `FEW` different ones, the order says at most 117
    bits, which are 15 characters.
    """
    return len(values) > FEW or len(set(map(repr, values))) < len(values)
