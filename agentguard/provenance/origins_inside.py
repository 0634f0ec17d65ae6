"""The provenance of what stands inside of an argument: fields, and things in texts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Protocol

from agentguard.model import Provenance, TaskState
from agentguard.provenance.inside import Place
from agentguard.provenance.items import Item, forms_in
from agentguard.provenance.joined import ABSENT, FEW, joined, unknown_provenance
from agentguard.provenance.leaves import Leaf

__all__ = ["OriginsInside"]


class OfValue(Protocol):
    """Returns the provenance of one value of an argument, by its path and what is known of the words."""

    def __call__(self, name: str, value: str, *, is_said: bool) -> Provenance:
        """Return it."""


class OriginsInside:
    """Fills in what is inside, for one call. *of_values* and *of_value* say where values came from."""

    def __init__(
        self, task: TaskState, of_values: Callable[[str, list[Leaf]], Provenance], of_value: OfValue
    ) -> None:
        self._task, self._of_values, self._of_value = task, of_values, of_value
        self._unknown = unknown_provenance(task)

    def filled(self, provenance: Provenance, place: Place) -> Provenance:
        """Return the provenance of what stands at a place, with that of what stands inside of it."""
        inside = {}
        for name, inner in place.inside.items():
            origin = ABSENT if inner.values is None else self._of_values(inner.path, inner.values)
            inside[name] = self.filled(origin, inner)
        texts = {kind: self._of_items(place.path, items) for kind, items in place.texts.items()}
        return replace(provenance, inside=inside, texts=texts)

    def _of_items(self, path: str, items: Collection[Item]) -> Provenance:
        if not items:
            return ABSENT
        together = joined([self._of_item(path, item) for item in items])
        return replace(together, sensitivity=self._task.sensitivity) if len(items) > FEW else together

    def _of_item(self, path: str, item: Item) -> Provenance:
        """Return the provenance of a thing in a text: that of the form for which the most is said."""
        words = forms_in(self._task.words) if item else frozenset()
        origins = [self._of_value(path, form, is_said=form in words) for form in item]
        return max(origins, key=_how_much, default=self._unknown)


def _how_much(origin: Provenance) -> tuple[bool, bool, int]:
    return origin.user, origin.trusted, len(origin.sources)
