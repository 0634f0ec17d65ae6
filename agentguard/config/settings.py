"""The tables and keys of agentguard.toml. Each has a default; a file without tools permits nothing.

The description of a field is also the hint in an error about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from agentguard.config.adapter_settings import (
    BrokerSettings,
    IdentitySettings,
    LocalIdentitySettings,
    SignalSettings,
    SourceSettings,
)
from agentguard.config.audit import AuditSettings
from agentguard.config.facts import FactSettings, validate_facts
from agentguard.config.introspection import IntrospectionSettings, validate_introspection
from agentguard.config.issuer import IssuerSettings
from agentguard.config.options import ApprovalSettings, LimitsSettings, TelemetrySettings
from agentguard.config.pdps import PdpSettings
from agentguard.config.records import validate_record
from agentguard.config.store import StoreSettings
from agentguard.config.tables import (
    Name,
    Origin,
    PathName,
    Scope,
    SettingError,
    Table,
    WebUrl,
    list_field,
)
from agentguard.config.tasks import TaskSettings, validate_tasks
from agentguard.config.tools import ToolSettings
from agentguard.model import Resource, ToolPath

__all__ = ["ResourceSettings", "SettingError", "Settings", "ToolSettings", "schema_of"]

_TYPES = ("string", "integer", "number", "boolean")


def _for_every_path(value: object) -> object:
    return dict.fromkeys(ToolPath, value) if isinstance(value, str) else value


class AgentSettings(Table):
    """``[agent]``: who the agent is."""

    id: str = Field(default="agent://local", description='a URI, as in id = "agent://support"')


class PolicySettings(Table):
    """``[policy]``: the rules, in Cedar files and at PDPs. Without rules, nothing is permitted."""

    cedar: tuple[Name, ...] = list_field('a list of files or patterns, as in cedar = ["policies/*.cedar"]')
    pdps: tuple[Name, ...] = list_field('names from [pdps], asked after Cedar, as in pdps = ["central"]')
    rule: Literal["unanimous", "deny-overrides", "first-applicable"] = Field(
        default="unanimous", description='"unanimous", "deny-overrides" or "first-applicable"'
    )
    mode: Literal["enforce", "observe"] = Field(default="enforce", description='"enforce" or "observe"')


class ResourceSettings(Table):
    """``[resources.NAME]``: a protected service."""

    origins: tuple[Origin, ...] = list_field('scheme://host[:port], as in origins = ["https://api.example"]')
    audiences: dict[PathName, Name] = Field(
        default_factory=dict, description='one for each path, as in audiences = { read = "orders/read" }'
    )
    broker: Annotated[dict[PathName, Name] | None, BeforeValidator(_for_every_path)] = Field(
        default=None,
        description='a name from [brokers], as in broker = "login", or one for each path: { read = "login" }',
    )

    discover: WebUrl | None = Field(
        default=None,
        description='an MCP server that names the issuer, as in discover = "https://api.example/mcp"',
    )

    def resource(self, name: str) -> Resource:
        """Return the resource with the name *name*, for the catalog."""
        audiences = {ToolPath(path): audience for path, audience in self.audiences.items()}
        return Resource(name=name, origins=self.origins, audiences=audiences)


class Settings(Table):
    """A complete agentguard.toml. Its relative paths are relative to the directory of `file`."""

    file: Path = Path("agentguard.toml")
    agent: AgentSettings = Field(default=AgentSettings(), description="a table, as in [agent]")
    identity: IdentitySettings = Field(
        default=LocalIdentitySettings(),
        description='a kind: "local", "file", "spiffe" or "github_actions", as in kind = "spiffe"',
    )
    ceiling: dict[Name, list[Scope]] | None = Field(
        default=None,
        description='the agent\'s largest scopes, by resource, as in orders = ["orders:read"]',
    )
    brokers: dict[Name, BrokerSettings] = Field(
        default_factory=dict, description='tables with a kind, as in [brokers.login] kind = "token_exchange"'
    )
    signals: dict[Name, SignalSettings] = Field(
        default_factory=dict, description="receivers of a task's end: tables, as in [signals.orders]"
    )
    sources: dict[Name, SourceSettings] = Field(
        default_factory=dict, description="who may end tasks by signals: tables, as in [sources.login]"
    )
    policy: PolicySettings = Field(default=PolicySettings(), description="a table, as in [policy]")
    pdps: dict[Name, PdpSettings] = Field(
        default_factory=dict, description='tables with a kind, as in [pdps.central] kind = "opa"'
    )
    issuer: IssuerSettings = Field(default=IssuerSettings(), description="a table, as in [issuer]")
    introspection: IntrospectionSettings = Field(
        default=IntrospectionSettings(), description="a table, as in [introspection]"
    )
    store: StoreSettings = Field(default=StoreSettings(), description="a table, as in [store]")
    audit: AuditSettings = Field(default=AuditSettings(), description="a table, as in [audit]")
    telemetry: TelemetrySettings = Field(
        default=TelemetrySettings(), description="a table, as in [telemetry]"
    )
    limits: LimitsSettings = Field(default=LimitsSettings(), description="a table, as in [limits]")
    approval: ApprovalSettings = Field(default=ApprovalSettings(), description="a table, as in [approval]")
    environment: dict[Name, str] = Field(
        default_factory=dict, description='strings, as in stage = "production"'
    )
    resources: dict[Name, ResourceSettings] = Field(
        default_factory=dict, description="tables, as in [resources.orders]"
    )
    tools: dict[Name, ToolSettings] = Field(
        default_factory=dict, description="tables, as in [tools.get_order]"
    )
    facts: dict[Name, FactSettings] = Field(
        default_factory=dict, description='tables with a kind, as in [facts.order] kind = "tool"'
    )
    tasks: dict[Name, TaskSettings] = Field(default_factory=dict, description="tables, as in [tasks.refund]")

    @model_validator(mode="after")
    def _validate(self) -> Settings:
        """Check the settings against each other.

        Raises:
            SettingError: A PDP, a broker, or a tool's resource or sink does not exist, a task is wrong, or
                two paths share an audience.
        """
        for pdp in self.policy.pdps:
            if pdp not in self.pdps:
                raise SettingError(
                    *("policy", "pdps"),
                    problem=f"there is no PDP {pdp!r}",
                    hint=f"add [pdps.{pdp}], or use one of: {', '.join(sorted(self.pdps)) or 'none yet'}",
                )
        for name, resource in self.resources.items():
            _validate_brokers(name, resource, self.brokers)
        for name in self.tools:
            _validate_tool(name, self.tools, self.resources)
        validate_introspection(self.introspection, self.resources)
        schemas = {name: schema_of(name, tool.args) for name, tool in self.tools.items()}
        arguments = {
            name: None if schema is None else schema["properties"] for name, schema in schemas.items()
        }
        validate_tasks(self.tasks, arguments, self.resources)
        validate_facts(self.facts, self.tools, self.resources)
        paths: dict[str, ToolPath] = {}
        for keys, path, audience in self._audiences():
            if paths.setdefault(audience, path) is not path:
                raise SettingError(
                    *keys,
                    problem=f"the audience {audience!r} serves {paths[audience]} and {path}",
                    hint="give each path its own audience, or else the other path accepts its tokens",
                )
        return self

    def _audiences(self) -> Iterator[tuple[tuple[str, ...], ToolPath, str]]:
        for name, settings in self.resources.items():
            resource = settings.resource(name)
            for path in ToolPath:
                yield ("resources", name, "audiences", path.value), path, resource.audience(path)


def _validate_brokers(name: str, resource: ResourceSettings, brokers: Mapping[str, Any]) -> None:
    for broker in (resource.broker or {}).values():
        if broker not in brokers:
            raise SettingError(
                *("resources", name, "broker"),
                problem=f"there is no broker {broker!r}",
                hint=f"add [brokers.{broker}], or use one of: {', '.join(sorted(brokers)) or 'none yet'}",
            )


def _validate_tool(
    name: str, tools: Mapping[str, ToolSettings], resources: Mapping[str, ResourceSettings]
) -> None:
    tool = tools[name]
    if tool.resource is not None and tool.resource not in resources:
        resource_names = ", ".join(sorted(resources)) or "none yet"
        raise SettingError(
            *("tools", name, "resource"),
            problem=f"there is no resource {tool.resource!r}",
            hint=f"add [resources.{tool.resource}], or use one of: {resource_names}",
        )
    schema = schema_of(name, tool.args)
    arguments = None if schema is None else sorted(schema["properties"])
    instance = set() if tool.instance is None else {tool.instance}
    by_key = {"sinks": set(tool.sinks), "recognized": set(tool.recognized), "instance": instance}
    for key, names in by_key.items():
        if arguments is not None and not names <= set(arguments):
            raise SettingError(
                *("tools", name, key),
                problem=f"{min(names - set(arguments))!r} is not an argument of the tool",
                hint=f"use: {', '.join(arguments) or 'none: it has no arguments'}",
            )
    for field, vouchers in tool.records.items():
        validate_record(name, field, vouchers, tools, arguments)


def schema_of(name: str, args: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the JSON Schema that `args` of the tool *name* stands for.

    Raises:
        SettingError: A type is not string, integer, number or boolean, with ``?`` if it is optional.
    """
    if args is None or isinstance(args.get("properties"), dict):
        return None if args is None else {"type": "object", **args}
    properties = {}
    for argument, kind in args.items():
        if not isinstance(kind, str) or kind.removesuffix("?") not in _TYPES:
            raise SettingError(
                *("tools", name, "args", argument),
                problem="this is not a type",
                hint=f'one of {", ".join(_TYPES)}, with ? if optional; or a JSON Schema with "properties"',
            )
        properties[argument] = {"type": kind.removesuffix("?")}
    required = [argument for argument, kind in args.items() if not kind.endswith("?")]
    return {"type": "object", "properties": properties, "required": required}
