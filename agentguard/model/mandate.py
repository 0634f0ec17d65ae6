"""What a task may touch at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from agentguard.model.arguments import Arguments, Json
from agentguard.model.tool import ToolSpec

__all__ = ["VOUCHES", "Mandate", "Scalar"]


ANY = "*"
IF_TAKEN = "?"
"""Ends the name of a template's limit for any tool, where it was not known yet whether this tool takes the
argument. If the tool does not take it, and another tool of the mandate does, the limit refuses nothing."""
AUTHORS = frozenset({"application", "user", "template", "model", "granted"})
VOUCHES: Mapping[str, str] = MappingProxyType(
    {"user": "user", "application": "application", "template": "application", "granted": "application"}
)
"""Who vouches for a value of a mandate, by its author. Nobody vouches for what a model has proposed."""
Scalar = str | int | float | bool


def _taken_by_none(_argument: str) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """What a task may touch at most; given by the application or a person, never by the model.

    `tools` is required: no tool is allowed by omission, and ``"*"`` allows all. The other limits apply if
    they are given. `resources` are names. `args` are by argument, or by ``tool.argument``: the argument must
    be one of these values; of a list, each item must be; an absent argument or null is refused. A field
    inside of an argument is ``argument.field``: all objects of a list must have it, and hold one of these
    values there.
    `counterparties` are the values of the arguments that the catalog calls sinks. `scopes` limit what an
    issuer is asked for.

    `authors` says who put each value there, by place (``tools``, ``args.order_id``, ...) and value:
    ``application``, ``user``, ``template NAME``, ``model``, or ``granted by NAME``. It does not change what
    the mandate allows, and equality ignores it.
    """

    tools: frozenset[str]
    resources: frozenset[str] | None = None
    args: Mapping[str, frozenset[Scalar]] = field(default_factory=dict)
    counterparties: frozenset[str] | None = None
    scopes: frozenset[str] | None = None
    authors: Mapping[str, Mapping[Scalar, str]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, value: Mapping[str, Any] | Mandate, *, by: str = "application") -> Mandate:
        """Read a mandate from its literal form. *by* is the author of all its values.

        Raises:
            ValueError: `tools` is missing, a key is unknown, a value has the wrong shape, or *by* is no
                author.
        """
        if by.partition(" ")[0] not in AUTHORS:
            raise ValueError(f"a mandate is by one of {', '.join(sorted(AUTHORS))}, and not by {by}")
        if isinstance(value, Mandate):
            return value
        keys = ("tools", "resources", "args", "counterparties", "scopes")
        if unknown := set(value) - set(keys):
            raise ValueError(f"a mandate has no {', '.join(sorted(unknown))}; its keys are {', '.join(keys)}")
        if "tools" not in value:
            raise ValueError('a mandate names its tools: {"tools": [...]}, or "*" for all')
        args = {name: frozenset(_listed(allowed)) for name, allowed in value.get("args", {}).items()}
        mandate = cls(
            tools=frozenset(_listed(value["tools"])),
            resources=_optional(value.get("resources")),
            args=MappingProxyType(args),
            counterparties=_optional(value.get("counterparties")),
            scopes=_optional(value.get("scopes")),
        )
        return mandate.with_authors({place: dict.fromkeys(values, by) for place, values in mandate.places()})

    def with_authors(self, authors: Mapping[str, Mapping[Scalar, str]]) -> Mandate:
        """Return this mandate with the authors of its values, by place and value."""
        return replace(self, authors=MappingProxyType(dict(authors)))

    def granted(self, by: str) -> Mandate:
        """Return it with all that a model proposed as granted by *by*, a person or the application."""
        granted = {
            place: {value: f"granted by {by}" if _is_model(who) else who for value, who in values.items()}
            for place, values in self.authors.items()
        }
        return self.with_authors(granted)

    @property
    def proposed(self) -> bool:
        """Whether it holds a value that a model has proposed and that nobody has granted."""
        return any(_is_model(who) for values in self.authors.values() for who in values.values())

    def places(self) -> Iterator[tuple[str, frozenset[Any]]]:
        """Yield each limit by the name of its place, and the values in it."""
        yield "tools", self.tools
        for name, values in (("resources", self.resources), ("counterparties", self.counterparties)):
            if values is not None:
                yield name, values
        if self.scopes is not None:
            yield "scopes", self.scopes
        for name, allowed in self.args.items():
            yield f"args.{name}", allowed

    def literal(self) -> dict[str, Json]:
        """Return the literal form that `of` reads, in a stable order."""
        form: dict[str, Json] = {"tools": sorted(self.tools)}
        if self.resources is not None:
            form["resources"] = sorted(self.resources)
        if self.args:
            form["args"] = {k: sorted(v, key=repr) for k, v in sorted(self.args.items())}
        if self.counterparties is not None:
            form["counterparties"] = sorted(self.counterparties)
        if self.scopes is not None:
            form["scopes"] = sorted(self.scopes)
        return form

    def rules_out(self, tool: ToolSpec) -> bool:
        """Return whether the mandate allows no call of a tool, whatever its arguments."""
        if ANY not in self.tools and tool.name not in self.tools:
            return True
        return self.resources is not None and tool.resource not in self.resources

    def objection(
        self, tool: ToolSpec, arguments: Arguments, is_taken: Callable[[str], bool] = _taken_by_none
    ) -> str | None:
        """Return what of this call is outside the mandate, or None if the mandate allows the call.

        *is_taken* says whether a tool of the mandate is known to take the argument of a limit: else the limit
        was mistyped, and refuses.
        """
        if ANY not in self.tools and tool.name not in self.tools:
            return f"tool {tool.name} is outside the mandate"
        if self.resources is not None and tool.resource not in self.resources:
            return f"resource {tool.resource} is outside the mandate"
        if not self.args and self.counterparties is None:
            return None
        values = arguments.values
        argument_names = set((tool.schema or {}).get("properties", {})) | set(values)
        for key, allowed in self.args.items():
            limited = _limited_argument(key, tool, argument_names, is_taken)
            if limited is not None and not _within_at(values, limited, allowed):
                return f"argument {limited} is outside the mandate"
        for name in sorted(tool.sinks) if self.counterparties is not None else ():
            if not _within(values.get(name), self.counterparties or frozenset()):
                return f"counterparty in {name} is outside the mandate"
        return None

    def narrow(self, other: Mandate) -> Mandate:
        """Return the intersection: what both allow. *other* vouches for no value; it only narrows."""
        args = {
            name: _both(self.args.get(name), other.args.get(name)) or frozenset()
            for name in {*self.args, *other.args}
        }
        tools = (
            other.tools
            if ANY in self.tools
            else self.tools
            if ANY in other.tools
            else self.tools & other.tools
        )
        narrowed = Mandate(
            tools=tools,
            resources=_both(self.resources, other.resources),
            args=MappingProxyType(args),
            counterparties=_both(self.counterparties, other.counterparties),
            scopes=_both(self.scopes, other.scopes),
        )
        return narrowed.with_authors(
            {
                place: {value: self.authors.get(place, {}).get(value, "narrowing") for value in values}
                for place, values in narrowed.places()
            }
        )


def _limited_argument(
    key: str, tool: ToolSpec, names: Set[str], is_taken: Callable[[str], bool]
) -> str | None:
    """Return the argument of this tool that a limit is for, or None if it is for other tools."""
    argument = key.removeprefix(f"{tool.name}.")
    if argument == key:
        return key if _first_name(key, names) in names else None
    # a limit that names this tool applies also if the tool takes no such argument: the name was mistyped
    if argument in names or not argument.endswith(IF_TAKEN):
        return argument
    argument = argument.removesuffix(IF_TAKEN)
    name = _first_name(argument, names)
    is_for_other_tools = tool.schema is not None and name not in names and is_taken(name)
    return None if is_for_other_tools else argument


def _first_name(key: str, names: Set[str]) -> str:
    """Return the argument that a limit is for: an argument may have dots in its name."""
    return key if key in names else key.partition(".")[0]


def _is_model(who: str) -> bool:
    return who.partition(" ")[0] == "model"


def _listed(value: Any) -> Iterable[Any]:
    if isinstance(value, str | int | float | bool):
        return (value,)
    return tuple(value)


def _optional(value: Any) -> frozenset[str] | None:
    return None if value is None else frozenset(_listed(value))


def _both(one: frozenset[Any] | None, two: frozenset[Any] | None) -> frozenset[Any] | None:
    if one is None or two is None:
        return two if one is None else one
    return frozenset(v for v in one if _within(v, two))


def _within_at(values: Mapping[str, Json], path: str, allowed: frozenset[Any]) -> bool:
    """Return whether all that stands at a path is an allowed value, and all objects of a list have one."""
    if path in values or "." not in path:
        return _within(values.get(path), allowed)
    name, _, rest = path.partition(".")
    waiting = [values.get(name)]
    objects = list[Mapping[str, Json]]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            objects.append(part)
        elif isinstance(part, list) and part:
            waiting += part
        else:
            return False
    return all(_within_at(part, rest, allowed) for part in objects)


def _within(value: Json, allowed: frozenset[Any]) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_within(item, allowed) for item in value)
    if value is None or isinstance(value, dict):
        return False
    # True == 1 in Python, and not in JSON
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed)
