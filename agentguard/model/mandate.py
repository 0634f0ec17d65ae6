"""What a task may touch at most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agentguard.model.arguments import Arguments, Json
from agentguard.model.tool import ToolSpec

__all__ = ["Mandate"]


ANY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """What a task may touch at most; given by the application or a person, never by the model.

    `tools` is required: no tool is allowed by omission, and ``"*"`` says all aloud. The other
    limits apply where given: `resources` by name; `args` by argument name, each a set of values of
    which the argument must be one (a list: all of them; absent or null: refused); `counterparties`
    for the arguments that the catalog calls sinks; and `scopes` for what is asked of an issuer.
    """

    tools: frozenset[str]
    resources: frozenset[str] | None = None
    args: Mapping[str, frozenset[str | int | float | bool]] = field(default_factory=dict)
    counterparties: frozenset[str] | None = None
    scopes: frozenset[str] | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any] | Mandate) -> Mandate:
        """Read a mandate from its literal form.

        Raises:
            ValueError: `tools` is missing, a key is unknown, or a value has the wrong shape.
        """
        if isinstance(value, Mandate):
            return value
        unknown = set(value) - {"tools", "resources", "args", "counterparties", "scopes"}
        if unknown:
            raise ValueError(f"a mandate has no {', '.join(sorted(unknown))}")
        if "tools" not in value:
            raise ValueError('a mandate names its tools: {"tools": [...]}, or "*" for all')
        args = {name: frozenset(_listed(allowed)) for name, allowed in value.get("args", {}).items()}
        return cls(
            tools=frozenset(_listed(value["tools"])),
            resources=_optional(value.get("resources")),
            args=MappingProxyType(args),
            counterparties=_optional(value.get("counterparties")),
            scopes=_optional(value.get("scopes")),
        )

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

    def objection(self, tool: ToolSpec, arguments: Arguments) -> str | None:
        """Say what of this call lies outside the mandate, or None."""
        if ANY not in self.tools and tool.name not in self.tools:
            return f"tool {tool.name} is outside the mandate"
        if self.resources is not None and tool.resource not in self.resources:
            return f"resource {tool.resource} is outside the mandate"
        if not self.args and self.counterparties is None:
            return None
        values = arguments.values
        known = set((tool.schema or {}).get("properties", {})) | set(values)
        for name, allowed in self.args.items():
            if name in known and not _within(values.get(name), allowed):
                return f"argument {name} is outside the mandate"
        for name in sorted(tool.sinks) if self.counterparties is not None else ():
            if name in known and not _within(values.get(name), self.counterparties or frozenset()):
                return f"counterparty in {name} is outside the mandate"
        return None

    def narrow(self, other: Mandate) -> Mandate:
        """Return the intersection: what both allow."""
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
        return Mandate(
            tools=tools,
            resources=_both(self.resources, other.resources),
            args=MappingProxyType(args),
            counterparties=_both(self.counterparties, other.counterparties),
            scopes=_both(self.scopes, other.scopes),
        )


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


def _within(value: Json, allowed: frozenset[Any]) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_within(item, allowed) for item in value)
    if value is None or isinstance(value, dict):
        return False
    # True == 1 in Python, and not in JSON
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed)
