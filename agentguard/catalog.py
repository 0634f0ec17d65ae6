"""What each tool is: its path, resource, scopes, and the arguments that a model may give.

A classification comes from agentguard.toml, from `@guard.tool(...)`, or from a tool's own metadata under the
key ``agentguard``. Metadata that an MCP server writes does not count. Calls of a tool without classification
are denied. Two tools of one name are an error: policies name tools, and the later tool would silently replace
the earlier one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from agentguard.errors import ConfigurationError
from agentguard.model import Mandate, Resource, Sensitivity, ToolPath, ToolSpec

__all__ = ["Catalog", "spec_of"]

_KEYS = {"path", "resource", "scopes", "sinks", "untrusted", "trusted", "sensitivity", "clearance"}


def spec_of(name: str, facts: Mapping[str, Any], schema: Mapping[str, Any] | None = None) -> ToolSpec:
    """Read a classification from its literal form, by the names of the fields of `ToolSpec`.

    Raises:
        ConfigurationError: A key or a level is unknown, or the path is missing or none of the three.
    """
    unknown = set(facts) - _KEYS
    if unknown:
        raise ConfigurationError(
            f"tool {name}: unknown {', '.join(sorted(unknown))}",
            hint=f"use {', '.join(sorted(_KEYS))}",
        )
    try:
        path = ToolPath(str(facts["path"]).lower())
    except (KeyError, ValueError) as error:
        raise ConfigurationError(
            f"tool {name} has no valid path", hint='path = "read", "write" or "escalation"'
        ) from error
    return ToolSpec(
        name=name,
        path=path,
        resource=facts.get("resource"),
        scopes=frozenset(facts.get("scopes", ())),
        sinks=frozenset(facts.get("sinks", ())),
        untrusted=bool(facts.get("untrusted", False)),
        trusted=frozenset(facts.get("trusted", ())),
        sensitivity=_level(name, "sensitivity", facts, Sensitivity.PUBLIC),
        clearance=_level(name, "clearance", facts, Sensitivity.RESTRICTED),
        schema=schema,
    )


def _level(tool: str, key: str, facts: Mapping[str, Any], otherwise: Sensitivity) -> Sensitivity:
    level = facts.get(key)
    if level is None or isinstance(level, Sensitivity):
        return otherwise if level is None else level
    try:
        return Sensitivity.named(str(level))
    except ValueError as error:
        raise ConfigurationError(
            f"tool {tool} has no valid {key}", hint=str(error).replace("is none of", "should be one of")
        ) from None


RESERVED = frozenset({"user", "application"})


class Catalog:
    """All tools and resources that a guard knows. An application adds tools while it starts."""

    def __init__(self, tools: Iterable[ToolSpec] = (), resources: Iterable[Resource] = ()) -> None:
        self._lock = threading.Lock()
        self.changes = 0  # grows with each change, so that a check of all tools knows whether it is current
        self._tools: dict[str, ToolSpec] = {}
        self._resources = {resource.name: resource for resource in resources}
        self._attached: dict[str, object] = {}
        for tool in tools:
            self.add(tool)

    def __iter__(self) -> Iterator[ToolSpec]:
        return iter(tuple(self._tools.values()))

    def __len__(self) -> int:
        return len(self._tools)

    def tool(self, name: str) -> ToolSpec | None:
        """Return the classification of a tool, or None if it has none."""
        return self._tools.get(name)

    def resource(self, name: str | None) -> Resource | None:
        """Return a resource by name; None for a tool that needs none."""
        return None if name is None else self._resources[name]

    def resources(self) -> tuple[Resource, ...]:
        """Return all resources."""
        return tuple(self._resources.values())

    def add(self, tool: ToolSpec) -> None:
        """Classify a tool.

        Raises:
            ConfigurationError: The name is taken by another tool, or the resource is unknown.
        """
        with self._lock:
            present = self._tools.get(tool.name)
            if present is not None and present != tool:
                raise ConfigurationError(
                    f"two tools are named {tool.name}", hint="rename one of them: policies name tools"
                )
            if tool.name in RESERVED:
                raise ConfigurationError(
                    f"a tool is named {tool.name}",
                    hint='rename the tool; "user" and "application" are reserved names of value sources',
                )
            if tool.resource is not None and tool.resource not in self._resources:
                raise ConfigurationError(
                    f"tool {tool.name} uses the unknown resource {tool.resource}",
                    hint=f"add [resources.{tool.resource}]",
                )
            self._tools[tool.name] = tool
            self.changes += 1

    def unused_limits(self, mandate: Mandate) -> list[str]:
        """Return the limits in a mandate's `args` that apply to none of its tools, and so to no call.

        It returns nothing for a mandate for ``"*"``, or if the arguments of a tool are not known yet.
        """
        tools = [self._tools.get(name) for name in mandate.tools]
        specs = [spec for spec in tools if spec is not None and spec.schema is not None]
        if len(specs) < len(tools):
            return []
        arguments = {name for spec in specs for name in (spec.schema or {}).get("properties", {})}
        prefixes = tuple(
            f"{spec.name}." for spec in specs
        )  # such a limit always applies: a mistyped one refuses
        return sorted(
            name for name in mandate.args if name not in arguments and not name.startswith(prefixes)
        )

    def attach(
        self,
        name: str,
        original: object,
        facts: Mapping[str, Any] | None,
        schema: Mapping[str, Any],
        description: str,
    ) -> ToolSpec | None:
        """Connect a real tool with its classification; return the classification, or None if it has none.

        *original* is the object that runs, or a tuple that names its place: the same function in another
        wrapper is the same tool. *facts* is the classification that the tool itself carries.
        agentguard.toml has precedence, since it is the file that a security team reviews.

        Raises:
            ConfigurationError: Another tool has this name, or its arguments differ from the
                schema that the catalog gives.
        """
        self._connect(name, original)
        present = self._tools.get(name)
        if present is None:
            if facts is None:
                return None
            spec = replace(spec_of(name, facts, schema), description=description)
            _check_sinks(spec, schema)
            self.add(spec)
            return self._tools[name]
        _check_arguments(present, schema)
        _check_sinks(present, schema)
        if present.schema != schema or present.description != description:
            with self._lock:
                self._tools[name] = replace(present, schema=schema, description=description)
                self.changes += 1
        return self._tools[name]

    def _connect(self, name: str, original: object) -> None:
        with self._lock:
            former = self._attached.setdefault(name, original)
            # an equal tuple names the same place; any other original is the same object or another tool
            if former is not original and not (isinstance(original, tuple) and former == original):
                raise ConfigurationError(
                    f"two tools are named {name}",
                    hint="rename one: policies name tools. To wrap a tool again, wrap the same function",
                )


def _check_arguments(spec: ToolSpec, schema: Mapping[str, Any]) -> None:
    """Refuse a tool whose arguments are others than those that agentguard.toml gives it."""
    expected = None if spec.schema is None else set(spec.schema.get("properties", {}))
    actual = set(schema.get("properties", {}))
    if expected is not None and expected != actual:
        raise ConfigurationError(
            f"tool {spec.name} takes {sorted(actual)}, and the catalog says {sorted(expected)}",
            hint=f"correct [tools.{spec.name}.args]",
        )


def _check_sinks(spec: ToolSpec, schema: Mapping[str, Any]) -> None:
    """Refuse a sink that is no argument: the limit on counterparties would apply to nothing."""
    arguments = schema.get("properties", {})
    if not schema.get("additionalProperties") and (stray := sorted(spec.sinks - set(arguments))):
        raise ConfigurationError(
            f"tool {spec.name} has the sink {stray[0]}, and takes {sorted(arguments)}",
            hint="a sink is the name of an argument",
        )
