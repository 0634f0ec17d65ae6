"""What a tool is, and the resource that it touches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agentguard.model.provenance import Sensitivity

__all__ = ["Resource", "ToolPath", "ToolSpec"]


class ToolPath(StrEnum):
    """READ, WRITE or ESCALATION: each has its own policy scope, broker, audience and approver."""

    READ = "read"
    WRITE = "write"
    ESCALATION = "escalation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A protected service: its name, and for each path its audience, origins and scopes.

    A credential travels to `origins` (scheme://host[:port]) only.
    """

    name: str
    origins: tuple[str, ...] = ()
    audiences: Mapping[ToolPath, str] = field(default_factory=dict)

    def audience(self, path: ToolPath) -> str:
        """Return the `aud` of credentials for *path*; never the same for two paths."""
        return self.audiences.get(path, f"{self.name}/{path}")


NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


EMPTY = frozenset({'""', "null", "[]", "{}"})


def _properties(schema: object) -> Iterator[str]:
    for part in _objects(schema):
        yield from part["properties"]


def _omissions(schema: object) -> Iterator[tuple[str, frozenset[str]]]:
    for part in _objects(schema):
        names = part.get("required")
        required = names if isinstance(names, list | tuple) else ()
        for name, inner in part["properties"].items():
            if isinstance(inner, Mapping) and "default" in inner:
                yield name, frozenset({json.dumps(inner["default"], default=repr)}) & EMPTY
            elif name not in required:
                yield name, EMPTY


def _objects(schema: object) -> Iterator[Mapping[str, Any]]:
    """Yield each part of a schema that has properties."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if isinstance(part.get("properties"), Mapping):
                yield part
            for name, inner in part.items():
                # its keys are names that the schema's author chose; one of them may be "properties"
                waiting += inner.values() if name in NAMED and isinstance(inner, Mapping) else [inner]
        elif isinstance(part, list):
            waiting += part


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """The classification of one tool in the catalog.

    `schema` is the JSON Schema of the arguments that the model may give. `sinks` are the arguments that name
    a counterparty (a recipient, an account, a URL). A tool without a resource obtains no credential.
    `untrusted` says that an attacker may have written text in its result. `trusted` lists the fields of its
    structured result that only the owner of the data can write, as paths without list indices
    (``event.participants``; ``*`` is the whole result). A field that may repeat an argument of the call is
    not one of them: the model could have anything vouched for by it. `sensitivity` is that of its result, and
    `clearance` is the highest sensitivity that the receiver of its arguments may learn. `server` is the MCP
    server that offers the tool, by the name that the application gives that server.
    """

    name: str
    path: ToolPath
    resource: str | None = None
    scopes: frozenset[str] = frozenset()
    schema: Mapping[str, Any] | None = None
    sinks: frozenset[str] = frozenset()
    untrusted: bool = False
    trusted: frozenset[str] = frozenset()
    sensitivity: Sensitivity = Sensitivity.PUBLIC
    clearance: Sensitivity = Sensitivity.RESTRICTED
    description: str = ""
    server: str | None = None
    omissions: Mapping[str, frozenset[str]] = field(init=False, repr=False, compare=False)
    """The JSON of each empty value that says nothing, by the name of its property in `schema`, at any depth.
    Such a value is the default, or may be one that the schema does not name."""
    declared: frozenset[str] = field(init=False, repr=False, compare=False)
    """The names of all properties in `schema`, at any depth. A model chose all other keys of an argument."""

    def __post_init__(self) -> None:
        """Read the schema once, for each call asks."""
        object.__setattr__(self, "declared", frozenset(_properties(self.schema)))
        omissions: dict[str, frozenset[str]] = {}
        for name, values in _omissions(self.schema):
            omissions[name] = omissions.get(name, frozenset()) | values
        object.__setattr__(self, "omissions", omissions)

    def omits(self, name: str, value: object) -> bool:
        """Return whether an empty value of this argument, or of a property in one, is as good as none."""
        return json.dumps(value) in self.omissions.get(name, ())
