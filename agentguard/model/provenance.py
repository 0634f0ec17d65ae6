"""Where values came from, and how sensitive they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

__all__ = [
    "LABELS",
    "NO_READ_EFFECTS",
    "RECORD",
    "TRUSTED_LABELS",
    "Label",
    "Provenance",
    "ReadEffects",
    "Sensitivity",
]

LABELS = 10_000
"""How many labels a task, its parents and its children have together before an untrusted one is dropped."""
TRUSTED_LABELS = 10_000
"""How many more labels they may have if these are trusted. So no untrusted page can take their room."""


RECORD = "\x1f"
"""Stands between the place and the record of a label's source. No name of a field that is read holds it."""


class Sensitivity(IntEnum):
    """How much harm the disclosure of a value does, the least first."""

    PUBLIC = 0
    INTERNAL = 1
    CONFIDENTIAL = 2
    RESTRICTED = 3

    @classmethod
    def named(cls, name: str) -> Sensitivity:
        """Return the level of that name, in any case.

        Raises:
            ValueError: There is no such level.
        """
        try:
            return cls[name.upper()]
        except KeyError:
            levels = ", ".join(f'"{level.name.lower()}"' for level in cls)
            raise ValueError(f"{name!r} is none of {levels}") from None


@dataclass(frozen=True, slots=True)
class Label:
    """A note that a value was in a tool's result. It holds a digest of the value, not the value.

    `source` is the tool, or ``tool.field``. `trusted` says that only the owner of the data can write that
    field. Where what stood beside the value can vouch for it, that follows in `source` behind a `RECORD`:
    the same value in another record is another label.
    """

    digest: str
    source: str
    trusted: bool
    sensitivity: Sensitivity = Sensitivity.PUBLIC

    @property
    def place(self) -> str:
        """The tool, or ``tool.field``."""
        return self.source.partition(RECORD)[0]

    @property
    def record(self) -> str:
        """What stood beside the value, as `provenance.records` writes it; empty where that does not count."""
        return self.source.partition(RECORD)[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadEffects:
    """What one call has read: if it is untrusted, how sensitive it is, and the labels of its values."""

    untrusted: bool = False
    sensitivity: Sensitivity = Sensitivity.PUBLIC
    labels: tuple[Label, ...] = ()


NO_READ_EFFECTS = ReadEffects()


_ALL_SOURCES = frozenset({""})  # stands for `Provenance.sources`


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the value of one argument came from, as far as the value alone shows it.

    `user`: all of it stands in the user's own words, or the user put it into the mandate. `trusted`: all of
    it is vouched for, by the user, by the application in the mandate, or by a trusted part of a tool's
    result. `untrusted`: a part of it is not, and the task has read text that an attacker may have written.
    `sensitivity` is that of the result in which it was read. The model's own text may hold anything that the
    task has read, so its sensitivity is the highest so far. `sources` are ``user``, ``application``, a tool,
    or ``tool.field``; where the argument has several values, they are those of all values together.
    `sources_of_each` are the sources that each of its values has, and `vouched_by` those that vouch for each
    of them; where these are not given, each value has all sources. An absent argument counts as named by the
    user.

    `inside` is the provenance of the fields of an object, by their names; of the objects in a list it is
    that of the fields of all of them. `texts` is the provenance of what stands inside of texts: ``links``,
    ``addresses`` and ``accounts``. A field that no value has, and a kind of thing that is in no text, count
    as an absent argument. Both are filled in as far as the rules in force look there.
    """

    sources: frozenset[str] = frozenset()
    user: bool = True
    trusted: bool = True
    untrusted: bool = False
    sensitivity: Sensitivity = Sensitivity.PUBLIC
    sources_of_each: frozenset[str] = _ALL_SOURCES
    vouched_by: frozenset[str] = _ALL_SOURCES
    inside: Mapping[str, Provenance] = field(default_factory=dict, hash=False)
    texts: Mapping[str, Provenance] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.sources_of_each is _ALL_SOURCES:
            object.__setattr__(self, "sources_of_each", self.sources)
        if self.vouched_by is _ALL_SOURCES:
            object.__setattr__(self, "vouched_by", self.sources if self.trusted else frozenset())

    def from_elsewhere(self, origin: Provenance) -> Provenance:
        """Return what *origin* says, of it and of all that is inside of it."""
        inside = {name: part.from_elsewhere(origin) for name, part in self.inside.items()}
        texts = {kind: part.from_elsewhere(origin) for kind, part in self.texts.items()}
        return replace(origin, inside=inside, texts=texts)

    def as_sensitive(self, sensitivity: Sensitivity) -> Provenance:
        """Return it with this sensitivity, and with that of all that is inside of it."""
        inside = {name: part.as_sensitive(sensitivity) for name, part in self.inside.items()}
        texts = {kind: part.as_sensitive(sensitivity) for kind, part in self.texts.items()}
        return replace(self, sensitivity=sensitivity, inside=inside, texts=texts)
