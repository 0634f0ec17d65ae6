"""What agentguard.toml may say. All of it has a default; an empty catalog permits nothing.

Each field's description is also how a mistake in it is mended.
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
)
from agentguard.config.pdps import PdpSettings
from agentguard.config.tables import Misplaced, Name, Origin, PathName, Scope, Seconds, Table, listed
from agentguard.config.tasks import TaskSettings, fits
from agentguard.model import Resource, ToolPath

__all__ = ["Misplaced", "ResourceSettings", "Settings", "ToolSettings", "schema_of"]

Level = Literal["public", "internal", "confidential", "restricted"]
_LEVELS = '{} = "public", "internal", "confidential" or "restricted"'
_TYPES = ("string", "integer", "number", "boolean")


def _on_every_path(value: object) -> object:
    return dict.fromkeys(ToolPath, value) if isinstance(value, str) else value


class AgentSettings(Table):
    """``[agent]``: who the agent is."""

    id: str = Field(default="agent://local", description='a URI, as in id = "agent://support"')


class PolicySettings(Table):
    """``[policy]``: the rules, here and at PDPs elsewhere. Without any, nothing is permitted."""

    cedar: tuple[Name, ...] = listed('a list of files or patterns, as in cedar = ["policies/*.cedar"]')
    pdps: tuple[Name, ...] = listed('names from [pdps], asked after Cedar, as in pdps = ["central"]')
    rule: Literal["unanimous", "deny-overrides", "first-applicable"] = Field(
        default="unanimous", description='"unanimous", "deny-overrides" or "first-applicable"'
    )
    mode: Literal["enforce", "observe"] = Field(default="enforce", description='"enforce" or "observe"')


class IssuerSettings(Table):
    """``[issuer]``: the embedded issuer of credentials. Without `keys` its keys die with the process."""

    issuer: Name = Field(default="https://agentguard.local", description='the `iss` of tokens, a URL in ""')
    algorithm: Literal["ES256", "EdDSA"] = Field(default="ES256", description='"ES256" or "EdDSA"')
    lifetime: Seconds = Field(default=60.0, description="seconds from 1 to 86400, as in lifetime = 60")
    keys: Name | None = Field(default=None, description='a directory, as in keys = ".agentguard/keys"')
    jwks: Name | None = Field(default=None, description='a file, as in jwks = ".agentguard/jwks.json"')


class StoreSettings(Table):
    """``[store]``: the state that all processes share."""

    kind: Literal["sqlite", "memory"] = Field(default="sqlite", description='"sqlite" or "memory"')
    path: Name = Field(
        default=".agentguard/state.db", description='a file, as in path = ".agentguard/state.db"'
    )


class AuditSettings(Table):
    """``[audit]``: the durable record."""

    path: Name = Field(default=".agentguard/audit.jsonl", description='a file, as in path = "audit.jsonl"')
    requests: bool = Field(default=False, description="true to record values of arguments, or false")


class TelemetrySettings(Table):
    """``[telemetry]``: whether spans hold the values of arguments."""

    arguments: bool = Field(default=False, description="true or false")


class ApprovalSettings(Table):
    """``[approval]``: for how many seconds a person's answer can be given and used."""

    expires: Seconds = Field(default=300.0, description="seconds from 1 to 86400, as in expires = 300")


class ResourceSettings(Table):
    """``[resources.NAME]``: a protected service."""

    origins: tuple[Origin, ...] = listed('scheme://host[:port], as in origins = ["https://api.example"]')
    audiences: dict[PathName, Name] = Field(
        default_factory=dict, description='one for each path, as in audiences = { read = "orders/read" }'
    )
    broker: Annotated[dict[PathName, Name] | None, BeforeValidator(_on_every_path)] = Field(
        default=None,
        description='a name from [brokers], as in broker = "login", or one for each path: { read = "login" }',
    )

    def resource(self, name: str) -> Resource:
        """Return it as the catalog's noun."""
        audiences = {ToolPath(path): audience for path, audience in self.audiences.items()}
        return Resource(name=name, origins=self.origins, audiences=audiences)


class ToolSettings(Table):
    """``[tools.NAME]``: what one tool is. `args` is a shorthand or a whole JSON Schema."""

    path: PathName = Field(description='path = "read", "write" or "escalation"')
    resource: Name | None = Field(
        default=None, description='a name from [resources], as in resource = "orders"'
    )
    scopes: tuple[Scope, ...] = listed('a list without spaces in it, as in scopes = ["orders:read"]')
    sinks: tuple[Name, ...] = listed('names of arguments, as in sinks = ["recipient"]')
    untrusted: bool = Field(default=False, description="true if its result may hold what an attacker wrote")
    trusted: tuple[Name, ...] = listed('fields that only the owner can write, as in trusted = ["sender"]')
    sensitivity: Level = Field(default="public", description=_LEVELS.format("sensitivity"))
    clearance: Level = Field(default="restricted", description=_LEVELS.format("clearance"))
    args: dict[str, Any] | None = Field(
        default=None, description='types by name, as in args = { order_id = "string", note = "string?" }'
    )


class Settings(Table):
    """A whole agentguard.toml; relative paths in it are relative to the directory of `file`."""

    file: Path = Path("agentguard.toml")
    agent: AgentSettings = Field(default=AgentSettings(), description="a table, as in [agent]")
    identity: IdentitySettings = Field(
        default=LocalIdentitySettings(),
        description='a kind: "local", "file", "spiffe" or "github_actions", as in kind = "spiffe"',
    )
    ceiling: dict[Name, list[Scope]] | None = Field(
        default=None,
        description='what the agent may do at most, by resource, as in orders = ["orders:read"]',
    )
    brokers: dict[Name, BrokerSettings] = Field(
        default_factory=dict, description='tables with a kind, as in [brokers.login] kind = "token_exchange"'
    )
    signals: dict[Name, SignalSettings] = Field(
        default_factory=dict, description="who is told of a task's end: tables, as in [signals.orders]"
    )
    policy: PolicySettings = Field(default=PolicySettings(), description="a table, as in [policy]")
    pdps: dict[Name, PdpSettings] = Field(
        default_factory=dict, description='tables with a kind, as in [pdps.central] kind = "opa"'
    )
    issuer: IssuerSettings = Field(default=IssuerSettings(), description="a table, as in [issuer]")
    store: StoreSettings = Field(default=StoreSettings(), description="a table, as in [store]")
    audit: AuditSettings = Field(default=AuditSettings(), description="a table, as in [audit]")
    telemetry: TelemetrySettings = Field(
        default=TelemetrySettings(), description="a table, as in [telemetry]"
    )
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
    tasks: dict[Name, TaskSettings] = Field(default_factory=dict, description="tables, as in [tasks.refund]")

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        """Check what no single field can.

        Raises:
            Misplaced: A tool's resource, arguments or sinks, a kind of task, or two audiences, do not fit.
        """
        for pdp in self.policy.pdps:
            if pdp not in self.pdps:
                raise Misplaced(
                    *("policy", "pdps"),
                    problem=f"there is no PDP {pdp!r}",
                    hint=f"add [pdps.{pdp}], or use one of: {', '.join(sorted(self.pdps)) or 'none yet'}",
                )
        for name, resource in self.resources.items():
            _brokered(name, resource, self.brokers)
        for name, tool in self.tools.items():
            _fits(name, tool, self.resources)
        schemas = {name: schema_of(name, tool.args) for name, tool in self.tools.items()}
        arguments = {name: None if each is None else each["properties"] for name, each in schemas.items()}
        fits(self.tasks, arguments, self.resources)
        seen: dict[str, ToolPath] = {}
        for keys, path, audience in self._audiences():
            if seen.setdefault(audience, path) is not path:
                raise Misplaced(
                    *keys,
                    problem=f"the audience {audience!r} serves {seen[audience]} and {path}",
                    hint="give each path an audience of its own, or else its tokens pass on the other",
                )
        return self

    def _audiences(self) -> Iterator[tuple[tuple[str, ...], ToolPath, str]]:
        for name, settings in self.resources.items():
            resource = settings.resource(name)
            for path in ToolPath:
                yield ("resources", name, "audiences", path.value), path, resource.audience(path)


def _brokered(name: str, resource: ResourceSettings, brokers: Mapping[str, Any]) -> None:
    for broker in (resource.broker or {}).values():
        if broker not in brokers:
            raise Misplaced(
                *("resources", name, "broker"),
                problem=f"there is no broker {broker!r}",
                hint=f"add [brokers.{broker}], or use one of: {', '.join(sorted(brokers)) or 'none yet'}",
            )


def _fits(name: str, tool: ToolSettings, resources: Mapping[str, ResourceSettings]) -> None:
    if tool.resource is not None and tool.resource not in resources:
        known = ", ".join(sorted(resources)) or "none yet"
        raise Misplaced(
            *("tools", name, "resource"),
            problem=f"there is no resource {tool.resource!r}",
            hint=f"add [resources.{tool.resource}], or use one of: {known}",
        )
    schema = schema_of(name, tool.args)
    arguments = None if schema is None else sorted(schema["properties"])
    if arguments is not None and not set(tool.sinks) <= set(arguments):
        raise Misplaced(
            *("tools", name, "sinks"),
            problem=f"{min(set(tool.sinks) - set(arguments))!r} is no argument of the tool",
            hint=f"use: {', '.join(arguments) or 'none, for it has no arguments'}",
        )


def schema_of(name: str, args: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the JSON Schema that `args` of the tool *name* stands for.

    Raises:
        Misplaced: A type is none of string, integer, number, boolean, with ``?`` if optional.
    """
    if args is None or isinstance(args.get("properties"), dict):
        return None if args is None else {"type": "object", **args}
    properties = {}
    for argument, kind in args.items():
        if not isinstance(kind, str) or kind.removesuffix("?") not in _TYPES:
            raise Misplaced(
                *("tools", name, "args", argument),
                problem="this is no type",
                hint=f'one of {", ".join(_TYPES)}, with ? if optional; or a JSON Schema with "properties"',
            )
        properties[argument] = {"type": kind.removesuffix("?")}
    required = [argument for argument, kind in args.items() if not kind.endswith("?")]
    return {"type": "object", "properties": properties, "required": required}
