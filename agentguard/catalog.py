"""What each tool is: its path, resource, scopes, and the arguments that a model may give.

A classification comes from agentguard.toml, from `@guard.tool(...)`, or from a tool's metadata, where
`agentguard.classified(...)` stands under the key ``agentguard``. Anything else there does not count: it may
be the words of an MCP server. Calls of a tool without classification are denied. Two tools of one name are an
error: policies name tools, and the later tool would silently replace the earlier one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from agentguard.concurrency.fork import ProcessLock
from agentguard.errors import ConfigurationError
from agentguard.model import Counted, FactSpec, Mandate, Resource, ToolSpec
from agentguard.model.attached import Attached, Told
from agentguard.model.classification import spec_of
from agentguard.model.counted import require_countable
from agentguard.model.declared_facts import require_no_circle, with_facts
from agentguard.model.definition import Digests, Pins
from agentguard.model.original import Original, without_words
from agentguard.model.schema_difference import differences, require_arguments, require_sinks

__all__ = ["Catalog", "spec_of"]
log = logging.getLogger("agentguard")

RESERVED = frozenset({"user", "application"})


class Catalog:
    """All tools and resources that a guard knows. An application adds tools while it starts."""

    def __init__(
        self,
        tools: Iterable[ToolSpec] = (),
        resources: Iterable[Resource] = (),
        pins: Pins | None = None,
    ) -> None:
        self.pins = pins
        self._lock = ProcessLock()
        self.changes = 0  # grows with each change, so that a check of all tools knows whether it is current
        self._tools: dict[str, ToolSpec] = {}
        self._resources = {resource.name: resource for resource in resources}
        self._attached = Attached()
        self._carried: dict[str, ToolSpec] = {}  # the classifications that tools themselves carry
        self._told = Told()
        self._declared: dict[str, Mapping[str, Any]] = {}
        self._differences: dict[str, tuple[str, ...]] = {}
        self._facts: dict[str, FactSpec] = {}
        self.counted: dict[str, Counted] = {}  # of which tools the calls that were done are counted
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

    def original(self, name: str) -> Original | None:
        """Return what runs for the tool that is attached by this name; None if there is none."""
        return self._attached.get(name)

    def names_server(self, name: str, facts: Mapping[str, Any] | None) -> bool:
        """Return whether the catalog, or *facts*, which the tool carries, give the tool's MCP server."""
        present = self._tools.get(name)
        return ((facts or {}).get("server") if present is None else present.server) is not None

    def declared_schema(self, name: str) -> Mapping[str, Any] | None:
        """Return the argument schema that the catalog itself gives; None if only the tool has one.

        It binds together with the tool's own schema: arguments satisfy both.
        """
        return self._declared.get(name)

    def differences(self) -> Mapping[str, tuple[str, ...]]:
        """Return how the schemas of attached tools differ from those that the catalog gives, by tool."""
        return {name: texts for name, texts in sorted(self._differences.items()) if texts}

    def unpinned(self, name: str, definition: Digests) -> tuple[str, ...]:
        """Return how a tool differs from its pinned definition, and log it once.

        Without a lock file nothing differs. A tool that the file does not have differs too: nobody has
        reviewed it.
        """
        differences = () if self.pins is None else self.pins.differences(name, definition)
        if differences:
            self._tell_once(name, f"tool {name} is denied: {'; '.join(differences)}")
        return differences

    def add(self, tool: ToolSpec) -> None:
        """Classify a tool. If the classification has a schema, each call must satisfy that schema.

        Raises:
            ConfigurationError: The name is taken by another tool, or the resource is unknown.
        """
        self._add(tool)
        if tool.schema is not None:
            self._declared[tool.name] = tool.schema

    def _add(self, tool: ToolSpec) -> None:
        with self._lock:
            tool = self._with_facts(tool)
            present = self._tools.get(tool.name)
            if present is not None and present != tool:
                raise ConfigurationError(
                    f"two tools are named {tool.name}", hint="rename one of them: policies name tools"
                )
            if tool.name.partition(".")[0] in RESERVED:  # its fields would be taken for these sources too
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
            if tool.counted is not None:
                self.counted[tool.name] = tool.counted
            self.changes += 1

    # --- facts

    @property
    def facts(self) -> Mapping[str, FactSpec]:
        """What the application has declared of facts, by name."""
        return MappingProxyType(self._facts)

    def declare(self, fact: FactSpec) -> None:
        """Add a fact to the tools for which it holds, also to those that are added later.

        Raises:
            ConfigurationError: Another fact has this name, an argument of its key does not exist, two facts
                are what one tool acts on, or the facts need each other.
        """
        with self._lock:
            if (present := self._facts.get(fact.name)) == fact:
                return  # another guard on this catalog has declared it
            if present is not None:
                raise ConfigurationError(
                    f"two facts are named {fact.name}", hint="rename one of them: rules name facts"
                )
            facts = {**self._facts, fact.name: fact}
            require_no_circle(facts)
            tools = {name: with_facts(spec, facts) for name, spec in self._tools.items()}
            self._facts, self._tools = facts, tools
            self.changes += 1

    def current(self, spec: ToolSpec) -> ToolSpec:
        """Return a classification with the facts that hold for its tool by now."""
        present = self._tools.get(spec.name)
        if present is None or present.facts is spec.facts:
            return spec
        is_same = replace(present, facts=spec.facts) == spec
        return present if is_same else replace(spec, facts=present.facts)

    def _with_facts(self, spec: ToolSpec) -> ToolSpec:
        return with_facts(spec, self._facts)

    def is_taken(self, tools: Iterable[str], argument: str) -> bool:
        """Return whether one of these tools is known to take this argument."""
        specs = map(self._tools.get, tools)
        return any(
            argument in (spec.schema or {}).get("properties", {}) for spec in specs if spec is not None
        )

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
            name
            for name in mandate.args
            if {name, name.partition(".")[0]}.isdisjoint(arguments) and not name.startswith(prefixes)
        )

    def attach(
        self,
        name: str,
        original: Original,
        facts: Mapping[str, Any] | None,
        schema: Mapping[str, Any],
        description: str,
    ) -> ToolSpec | None:
        """Connect a real tool with its classification; return the classification, or None if it has none.

        *original* is what runs: the same function in another wrapper is the same tool. *facts* is the
        classification that the tool itself carries. agentguard.toml has precedence, since it is the file that
        a security team reviews. If it gives a schema, policies are typed by that schema, and a difference
        from *schema* is logged once.

        Raises:
            ConfigurationError: Another tool has this name, it is defined elsewhere than the catalog says, or
                its arguments have other names or types than the catalog gives. The operator is told once.
        """
        present = self._tools.get(name)
        carried = None if facts is None else spec_of(name, facts)
        if (spec := present or carried) is None:
            self._connect(name, original, None, classified=False)
            return None
        self._require_place(spec, original)
        declared = self._declared.get(name)
        if declared is not None:
            self._compare(name, declared, schema)
            schema = declared
        require_sinks(spec, schema)
        require_countable(name, spec.counted, schema)
        self._connect(name, original, carried if present is None or name in self._carried else None)
        if present is None:
            self._add(replace(spec, schema=schema, description=description))
        elif present.schema is None or without_words(present.schema) != without_words(schema):
            with self._lock:
                changed = replace(present, schema=schema, description=description)
                self._tools[name] = self._with_facts(changed)
                self.changes += 1
        return self._tools[name]

    def _require_place(self, spec: ToolSpec, original: Original) -> None:
        """Refuse a tool that the catalog's `server` or `source` does not name."""
        name, server = spec.name, spec.server
        if server is not None and original.server is None:
            problem = f"{name} is a tool of the MCP server {server}, and this one is {original.name}"
            hint = f"correct the server of [tools.{name}], or load the tool from that server"
        elif server is not None and original.server != server:
            problem = f"{name} is a tool of the MCP server {server}, and not of {original.server}"
            hint = f"correct the server of [tools.{name}], or name the servers of the client as it does"
        elif spec.source is not None and not original.is_from(spec.source):
            problem = f"{name} is a tool of {spec.source}, and this one is {original.name}"
            hint = f"correct the source of [tools.{name}], or rename the tool"
        else:
            return
        self._tell_once(name, f"a tool is denied: {problem} ({original.place})")
        raise ConfigurationError(problem, hint=hint)

    def _tell_once(self, name: str, text: str) -> None:
        with self._lock:
            is_new = self._told.is_new(name, text)
        if is_new:
            log.warning("%s", text)

    def _compare(self, name: str, declared: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
        """Refuse a tool that cannot satisfy the catalog's schema, and log once how the two differ."""
        require_arguments(name, declared, schema)
        present = tuple(differences(declared, schema))
        if present and self._differences.get(name) != present:
            log.warning("tool %s: its calls must satisfy both schemas: %s", name, "; ".join(present))
        self._differences[name] = present

    def _connect(
        self, name: str, original: Original, carried: ToolSpec | None, *, classified: bool = True
    ) -> None:
        """Note what runs by this name, and the classification that it carries if that one counts."""
        with self._lock:
            former = self._attached.first(name, original, classified=classified)
            classification = carried and self._carried.setdefault(name, carried)
        difference = former.difference(original)
        if difference is not None and original.has_filled(former):
            with self._lock:
                difference = None if self._attached.replace(name, former, original) else difference
        if difference is None and carried != classification:
            difference = f"{former.place}, and {original.place} with another classification"
        if difference is not None:
            self._tell_once(name, f"two tools are named {name}: {difference}")
            hint = (
                "rename one: policies name tools. A tool that is made for each request has one definition, "
                "one schema and one classification"
            )
            if original.server is not None and original.server == former.server:
                hint = f'{hint}. If its server has a URL for each user: server = "{original.server}"'
            raise ConfigurationError(f"two tools are named {name}", hint=hint)
