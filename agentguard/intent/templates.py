"""Blanks of a template: where the user's words fill them, and with what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agentguard.catalog import Catalog
from agentguard.errors import ConfigurationError
from agentguard.model import Budget, Scalar, ToolSpec
from agentguard.provenance.words import number

__all__ = ["ALONE", "TYPES", "Parameter", "Template", "Values", "holes", "mixed"]


def _integer(text: str) -> int:
    if isinstance(value := number(text), float):
        raise ValueError("this is no integer")
    return value


TYPES: Mapping[str, tuple[type | tuple[type, ...], Callable[[str], Scalar]]] = {
    "string": (str, str),
    "integer": (int, _integer),
    "number": ((int, float), number),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A blank of a template. `pattern` finds it in the user's words: its first group, or all of it.

    Without a pattern only the application fills it. What is not `required` and not given leaves its
    limit without a value, which refuses.
    """

    type: str = "string"
    pattern: str | None = None
    required: bool = True

    def found(self, words: str) -> tuple[Scalar, ...]:
        """Return what the words say, each value once."""
        if self.pattern is None:
            return ()
        texts = (match[match.re.groups and 1] for match in re.finditer(self.pattern, words, re.IGNORECASE))
        read, convert = list[Scalar](), TYPES[self.type][1]
        for text in filter(None, texts):  # a group that stands for nothing says nothing
            try:
                read.append(convert(text))
            except ValueError:
                continue  # no number: the words do not say it
        return tuple(dict.fromkeys(read))

    def fits(self, value: object) -> bool:
        """Return whether the application may fill it with this value."""
        return isinstance(value, TYPES[self.type][0]) and not isinstance(value, bool)


_HOLE = re.compile(r"\{(\w+)\}")
ALONE = "let a parameter stand alone in its text, and let it have all of the value"
Values = Mapping[str, Sequence[Scalar]]


@dataclass(frozen=True, kw_only=True)
class Template:
    """What a kind of task may touch at most; ``{name}`` in a limit stands for a parameter.

    `when` are regular expressions, of which one must be found in the words, whatever their case, and
    `otherwise` is for words in which none of any template is. Limits of `args` are by argument or by
    ``tool.argument``; one that no tool takes was mistyped, and refuses all of them.

    Raises:
        ConfigurationError: It gives ``"*"``, whose arguments and sinks nobody knows; or a ``{name}`` is no
            parameter's, or stands beside other text.
    """

    name: str
    tools: tuple[str, ...]
    when: tuple[str, ...] = ()
    resources: tuple[str, ...] | None = None
    args: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    counterparties: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    budget: Budget = field(default_factory=Budget)
    params: Mapping[str, Parameter] = field(default_factory=dict)
    otherwise: bool = False

    def __post_init__(self) -> None:
        if "*" in self.tools:
            raise ConfigurationError(
                f'the template {self.name} gives "*"', hint="name its tools: no limit could be held for all"
            )
        if wrong := sorted(holes(vars(self)) - self.params.keys()):
            raise ConfigurationError(f"the template {self.name} has no {wrong[0]}", hint="add it to params")
        if texts := mixed(vars(self)):
            raise ConfigurationError(f"the template {self.name} has {texts[0]!r}", hint=ALONE)

    @cached_property
    def _when(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(each, re.I | re.S) for each in self.when)

    def sign(self, words: str) -> str | None:
        """Return the part of the words by which this kind of task is known, if there is one."""
        return next((found[0] for each in self._when if (found := each.search(words))), None)

    def given(self, catalog: Catalog) -> tuple[str, ...]:
        """Return those of its tools for which its resources and counterparties can be held."""
        return tuple(tool for tool in dict.fromkeys(self.tools) if self._holds(catalog.tool(tool)))

    def _holds(self, spec: ToolSpec | None) -> bool:
        if spec is None:  # nobody knows its sinks yet
            return self.resources is None and self.counterparties is None
        return self.resources is None or spec.resource in self.resources

    def limits(self, catalog: Catalog, values: Values) -> dict[tuple[str, str], dict[Scalar, bool]]:
        """Return its limits by tool and argument; True marks a value that a parameter gave."""
        limits: dict[tuple[str, str], dict[Scalar, bool]] = {}
        for name, allowed in self.args.items():
            for place in self._places(name, catalog):
                _both(limits, place, _filled(allowed, values))
        for tool in self.tools if self.counterparties is not None else ():
            spec = catalog.tool(tool)
            for sink in sorted(spec.sinks) if spec else ():
                _both(limits, (tool, sink), _filled(self.counterparties or (), values))
        given = self.given(catalog)
        return {place: allowed for place, allowed in limits.items() if place[0] in given}

    def _places(self, name: str, catalog: Catalog) -> list[tuple[str, str]]:
        """Return the tools and arguments that a limit of `args` is for."""
        own = [(tool, name.removeprefix(f"{tool}.")) for tool in self.tools if name.startswith(f"{tool}.")]
        taken = [(tool, name) for tool in self.tools if _takes(catalog.tool(tool), name)]
        return own or taken or [(tool, name) for tool in self.tools]


def _takes(spec: ToolSpec | None, argument: str) -> bool:
    return spec is None or spec.schema is None or argument in spec.schema.get("properties", {})


def _both(
    limits: dict[tuple[str, str], dict[Scalar, bool]], place: tuple[str, str], allowed: dict[Scalar, bool]
) -> None:
    """Add a limit: where there is one already, both hold."""
    former = limits.get(place, allowed)
    limits[place] = {value: filled for value, filled in former.items() if value in allowed}


def _filled(allowed: Iterable[Scalar], values: Values) -> dict[Scalar, bool]:
    """Return the values of a limit; a text that is one whole blank takes what its parameter has."""
    filled: dict[Scalar, bool] = {}
    for each in allowed:
        hole = _HOLE.fullmatch(each) if isinstance(each, str) else None
        filled |= {each: False} if hole is None else dict.fromkeys(values[hole[1]], True)
    return filled


def holes(template: Mapping[str, Any]) -> set[str]:
    """Return the names of all blanks in the limits of a template."""
    return {hole[1] for text in _texts(template) if (hole := _HOLE.fullmatch(text))}


def mixed(template: Mapping[str, Any]) -> list[str]:
    """Return the limits in which a parameter's blank stands beside other text: nothing would fill it."""
    return [
        text
        for text in _texts(template)
        if not _HOLE.fullmatch(text) and any(name in template["params"] for name in _HOLE.findall(text))
    ]


def _texts(template: Mapping[str, Any]) -> list[str]:
    limits = [*template["args"].values(), template["counterparties"] or ()]
    return [each for values in limits for each in values if isinstance(each, str)]
