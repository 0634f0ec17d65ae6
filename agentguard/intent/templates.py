"""Templates of mandates, and the parameters that the user's words or the application fill."""

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
    """A parameter of a template. `pattern` finds its value in the words: its first group, or all of it.

    Without a pattern, only the application fills it. If a parameter is not `required` and not filled, its
    limit has no value, so every call that the limit is for is refused.
    """

    type: str = "string"
    pattern: str | None = None
    required: bool = True

    def values_in(self, words: str) -> tuple[Scalar, ...]:
        """Return the values that the words say, each once."""
        if self.pattern is None:
            return ()
        texts = (match[match.re.groups and 1] for match in re.finditer(self.pattern, words, re.IGNORECASE))
        values, convert = list[Scalar](), TYPES[self.type][1]
        for text in filter(None, texts):  # a group may match no text
            try:
                values.append(convert(text))
            except ValueError:
                continue  # the text is no number
        return tuple(dict.fromkeys(values))

    def fits(self, value: object) -> bool:
        """Return whether the application may fill the parameter with this value."""
        return isinstance(value, TYPES[self.type][0]) and not isinstance(value, bool)


_HOLE = re.compile(r"\{(\w+)\}")
ALONE = "write the parameter alone in its text: it gives the whole value"
Values = Mapping[str, Sequence[Scalar]]


@dataclass(frozen=True, kw_only=True)
class Template:
    """What a kind of task may touch at most; ``{name}`` in a limit stands for a parameter.

    `when` are regular expressions. The template is chosen if one of them matches in the words, in any case. A
    template with `otherwise` is chosen if no template's `when` matches. Limits of `args` are by argument or
    by ``tool.argument``, and those of fields inside of an argument by ``argument.field``. A limit for an
    argument that no tool takes was mistyped: calls of all tools are refused.

    Raises:
        ConfigurationError: It gives ``"*"``, whose arguments and sinks are not known; or a ``{name}`` is no
            parameter, or stands beside other text.
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
                f'the template {self.name} gives "*"',
                hint="name its tools: limits cannot be checked for every tool",
            )
        if wrong := sorted(holes(vars(self)) - self.params.keys()):
            raise ConfigurationError(f"the template {self.name} has no {wrong[0]}", hint="add it to params")
        if texts := mixed(vars(self)):
            raise ConfigurationError(f"the template {self.name} has {texts[0]!r}", hint=ALONE)

    @cached_property
    def _when(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(pattern, re.I | re.S) for pattern in self.when)

    def sign(self, words: str) -> str | None:
        """Return the part of the words that `when` matches, or None."""
        return next((match[0] for pattern in self._when if (match := pattern.search(words))), None)

    def tools_in(self, catalog: Catalog) -> tuple[str, ...]:
        """Return its tools, without those for which its resources and counterparties cannot be checked."""
        return tuple(tool for tool in dict.fromkeys(self.tools) if self._holds(catalog.tool(tool)))

    def _holds(self, spec: ToolSpec | None) -> bool:
        if spec is None:  # its sinks are not known yet
            return self.resources is None and self.counterparties is None
        return self.resources is None or spec.resource in self.resources

    def limits(self, catalog: Catalog, values: Values) -> dict[tuple[str, str], dict[Scalar, bool]]:
        """Return its limits by tool and argument; True marks a value that a parameter has filled in."""
        limits: dict[tuple[str, str], dict[Scalar, bool]] = {}
        for name, allowed in self.args.items():
            for place in self._places(name, catalog):
                _add_limit(limits, place, _filled(allowed, values))
        for tool in self.tools if self.counterparties is not None else ():
            spec = catalog.tool(tool)
            for sink in sorted(spec.sinks) if spec else ():
                _add_limit(limits, (tool, sink), _filled(self.counterparties or (), values))
        tools = self.tools_in(catalog)
        return {place: allowed for place, allowed in limits.items() if place[0] in tools}

    def uncertain(self, catalog: Catalog) -> frozenset[tuple[str, str]]:
        """Return the places of limits for any tool, of tools whose arguments are not known yet."""
        bare = [name for name in self.args if not name.startswith(tuple(f"{tool}." for tool in self.tools))]
        unknown = [tool for tool in self.tools if (spec := catalog.tool(tool)) is None or spec.schema is None]
        places = {(tool, name) for tool in unknown for name in bare}
        return frozenset((tool, name) for tool, name in places if f"{tool}.{name}" not in self.args)

    def _places(self, name: str, catalog: Catalog) -> list[tuple[str, str]]:
        """Return the tools and arguments that a limit of `args` is for."""
        by_tool = [
            (tool, name.removeprefix(f"{tool}.")) for tool in self.tools if name.startswith(f"{tool}.")
        ]
        by_argument = [(tool, name) for tool in self.tools if _takes(catalog.tool(tool), name)]
        return by_tool or by_argument or [(tool, name) for tool in self.tools]


def _takes(spec: ToolSpec | None, argument: str) -> bool:
    if spec is None or spec.schema is None:
        return True
    return not {argument, argument.partition(".")[0]}.isdisjoint(spec.schema.get("properties", {}))


def _add_limit(
    limits: dict[tuple[str, str], dict[Scalar, bool]], place: tuple[str, str], allowed: dict[Scalar, bool]
) -> None:
    """Add a limit. If the place has a limit already, both hold."""
    former = limits.get(place, allowed)
    limits[place] = {value: filled for value, filled in former.items() if value in allowed}


def _filled(allowed: Iterable[Scalar], values: Values) -> dict[Scalar, bool]:
    """Return the values of a limit, with each ``{name}`` replaced by the values of its parameter."""
    filled: dict[Scalar, bool] = {}
    for value in allowed:
        hole = _HOLE.fullmatch(value) if isinstance(value, str) else None
        filled |= {value: False} if hole is None else dict.fromkeys(values[hole[1]], True)
    return filled


def holes(template: Mapping[str, Any]) -> set[str]:
    """Return the names in ``{name}`` in the limits of a template."""
    return {hole[1] for text in _texts(template) if (hole := _HOLE.fullmatch(text))}


def mixed(template: Mapping[str, Any]) -> list[str]:
    """Return the limits in which a parameter's ``{name}`` stands beside other text, and is not filled."""
    return [
        text
        for text in _texts(template)
        if not _HOLE.fullmatch(text) and any(name in template["params"] for name in _HOLE.findall(text))
    ]


def _texts(template: Mapping[str, Any]) -> list[str]:
    limits = [*template["args"].values(), template["counterparties"] or ()]
    return [text for values in limits for text in values if isinstance(text, str)]
