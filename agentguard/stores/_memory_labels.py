"""The labels of the store in memory. The store holds its lock around each call."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from agentguard.model import Label


class LabelTable:
    """The labels of values, by family, digest and source."""

    def __init__(self) -> None:
        self._labels: dict[str, dict[str, dict[str, Label]]] = {}

    def find(self, family: str, digests: Iterable[str]) -> tuple[Label, ...]:
        """Return the labels of a family for these digests."""
        by_digest = self._labels.get(family, {})
        return tuple(label for digest in digests for label in by_digest.get(digest, {}).values())

    def add(self, family: str, labels: Iterable[Label]) -> int:
        """Record labels, and return how many of them are new."""
        by_digest, new = self._labels.setdefault(family, {}), 0
        for label in labels:
            of_value = by_digest.setdefault(label.digest, {})
            new += label.source not in of_value
            of_value.setdefault(label.source, label)
        return new

    def prune(self, tasks: Collection[str]) -> None:
        """Delete those of families without a task."""
        self._labels = {root: labels for root, labels in self._labels.items() if root in tasks}
