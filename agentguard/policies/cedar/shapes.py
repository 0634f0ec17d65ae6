"""What rules can see of a tool's arguments and of its facts, as Cedar types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agentguard.model import FactSpec
from agentguard.model.looks import Looks
from agentguard.policies.cedar.lists import NO_LISTS, Lists
from agentguard.policies.cedar.tallies import NO_TALLIES, Tallies
from agentguard.policies.cedar.values import CedarType, Convert

__all__ = ["NO_SHAPES", "FactShape", "ToolShape"]


@dataclass(frozen=True, slots=True)
class ToolShape:
    """A tool's arguments in Cedar: their type, converter, and the names that rules can and cannot see.

    `looks` are the places inside of them of which rules can ask where the values came from, `lists` the lists
    whose lengths and entries they can count. `tallies` are what calls have done.
    """

    text: str
    convert: Convert
    names: tuple[str, ...]
    unseen: tuple[str, ...]
    untyped: tuple[str, ...] = ()
    fields: Mapping[str, CedarType] = field(default_factory=dict)
    facts: Mapping[str, FactShape] = field(default_factory=dict)
    looks: Looks = field(default_factory=dict)
    lists: Lists = NO_LISTS
    tallies: Tallies = NO_TALLIES

    @property
    def instance(self) -> FactShape | None:
        """The fact that is the thing the tool acts on; None for a tool that acts on its resource."""
        return next((fact for fact in self.facts.values() if fact.spec.resource), None)

    @property
    def visible(self) -> tuple[str, ...]:
        """The arguments of which rules see at least whether they are there, and where they came from."""
        return tuple(sorted((*self.names, *self.untyped)))

    def attributes(self, path: Iterable[str]) -> tuple[str, ...]:
        """Return the names that rules can see in the record at this path; none if there is no record."""
        fields = self.fields
        for name in path:
            kind = fields.get(name)
            fields = {} if kind is None else kind.fields
        return tuple(fields)


@dataclass(frozen=True, slots=True)
class FactShape:
    """A fact in Cedar: its type, whether it may be absent, and the fields that rules cannot see."""

    spec: FactSpec
    type: CedarType
    optional: bool
    unseen: tuple[str, ...] = ()

    @property
    def entity(self) -> str:
        """The name of the entity type of things of this kind: ``BankAccount`` for ``bank_account``."""
        return "".join(part[:1].upper() + part[1:] for part in self.spec.name.split("_"))

    def fields(self, path: Iterable[str]) -> tuple[str, ...]:
        """Return the names that rules can see in the record at this path of it."""
        fields = self.type.fields
        for name in path:
            fields = fields[name].fields if name in fields else {}
        return tuple(fields)


NO_SHAPES: Mapping[str, FactShape] = MappingProxyType({})
