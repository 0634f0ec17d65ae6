"""``[tools.NAME]`` of agentguard.toml."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agentguard.config.tables import Name, PathName, Scope, Table, list_field

__all__ = ["CountedSettings", "ToolSettings"]

Level = Literal["public", "internal", "confidential", "restricted"]
_LEVELS = '{} = "public", "internal", "confidential" or "restricted"'


class CountedSettings(Table):
    """``counted`` of a tool: what is counted of its calls that were done, beside their number."""

    sum: tuple[Name, ...] = list_field('names of numbers, as in sum = ["amount"]')
    per: tuple[Name, ...] = list_field('names of arguments, as in per = ["order_id"]')
    user: dict[Name, int] = Field(
        default_factory=dict, description="windows over the calls for one user, as in user = { day = 86400 }"
    )
    agent: dict[Name, int] = Field(
        default_factory=dict, description="windows over the calls of one agent, as in agent = { hour = 3600 }"
    )


class ToolSettings(Table):
    """``[tools.NAME]``: what one tool is. `args` is a shorthand or a complete JSON Schema."""

    path: PathName = Field(description='path = "read", "write" or "escalation"')
    resource: Name | None = Field(
        default=None, description='a name from [resources], as in resource = "orders"'
    )
    scopes: tuple[Scope, ...] = list_field('a list without spaces in it, as in scopes = ["orders:read"]')
    sinks: tuple[Name, ...] = list_field('names of arguments, as in sinks = ["recipient"]')
    untrusted: bool = Field(default=False, description="true if its result may contain text of an attacker")
    trusted: tuple[Name, ...] = list_field('fields that only the owner can write, as in trusted = ["sender"]')
    sensitivity: Level = Field(default="public", description=_LEVELS.format("sensitivity"))
    clearance: Level = Field(default="restricted", description=_LEVELS.format("clearance"))
    server: Name | None = Field(
        default=None, description='the MCP server that offers it, as in server = "orders"'
    )
    source: Name | None = Field(
        default=None,
        description='the module, or module:qualname, that defines it, as in source = "shop.tools"',
    )
    recognized: dict[Name, Literal["folded", "date", "amount"]] = Field(
        default={}, description='forms that users write values in, as in recognized = { name = "folded" }'
    )
    instance: Name | None = Field(
        default=None, description='the argument that names what a call acts on, as in instance = "order_id"'
    )
    counted: bool | CountedSettings = Field(
        default=False,
        description='true, or what is added up, as in counted = { sum = ["amount"], per = ["order_id"] }',
    )
    records: dict[Name, dict[Name, list[Name]]] = Field(
        default_factory=dict,
        description="what vouches for a field, as in"
        ' records = { body = { sender = ["contacts.email", "user"] } }',
    )
    args: dict[str, Any] | None = Field(
        default=None, description='types by name, as in args = { order_id = "string", note = "string?" }'
    )
