"""``[facts.NAME]``: records that rules may look at, read by a tool, a query or an endpoint."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from agentguard.config.tables import Name, Scope, SettingError, Table, list_field
from agentguard.config.tls import tls_context
from agentguard.errors import ConfigurationError
from agentguard.facts.http import HttpFact
from agentguard.facts.idle import IdleConnections
from agentguard.facts.sql import SqlFact
from agentguard.facts.tool import ToolFact
from agentguard.facts.types import type_of
from agentguard.model import FactSpec, FactType, Sensitivity
from agentguard.ports import DeclaredFact, FactSource

__all__ = ["FactSettings", "HttpFactSettings", "SqlFactSettings", "ToolFactSettings", "validate_facts"]

_SHORT: Mapping[str, Mapping[str, str]] = {
    **{name: {"type": name} for name in ("string", "integer", "number", "boolean")},
    "decimal": {"type": "string", "format": "decimal"},
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
}
_FILE = "sqlite:///"


def _keys(value: object) -> object:
    """Return the arguments of each tool as a list, also where the file has one text."""
    if not isinstance(value, dict):
        return value
    return {
        tool: (names,) if isinstance(names, str) else tuple(names) if isinstance(names, list) else names
        for tool, names in value.items()
    }


class _FactSettings(Table):
    tools: Annotated[dict[Name, tuple[Name, ...]], BeforeValidator(_keys)] = Field(
        description='the arguments that name the record, by tool, as in tools = { refund_order = "order_id" }'
    )
    type: dict[str, Any] | str = Field(
        description='types by name, as in type = { status = "string", total = "decimal?" }, or a JSON Schema'
    )
    optional: bool = Field(default=False, description="true if there may be no record")
    timeout: Annotated[float, Field(gt=0, le=60)] = Field(
        default=1.0, description="seconds, as in timeout = 1.0"
    )
    size: Annotated[int, Field(ge=1, le=16_777_216)] = Field(
        default=65_536, description="bytes of JSON, as in size = 65536"
    )
    lifetime: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=0.0, description="seconds for which an answer is used again, as in lifetime = 5"
    )
    shared: bool = Field(default=False, description="true if an answer for one user serves all others")
    trusted: bool = Field(default=False, description="true if only the owner can write it")
    sensitivity: Literal["public", "internal", "confidential", "restricted"] = Field(
        default="public", description='"public", "internal", "confidential" or "restricted"'
    )
    resource: bool = Field(default=False, description="true if it is the thing that its tools act on")

    def spec(self, name: str, **more: Any) -> FactSpec:
        """Return the declaration of the fact with this name.

        Raises:
            ConfigurationError: It contradicts itself, or its type is not known.
        """
        kind = record_type(self.type)
        return FactSpec(
            name=name,
            keys=dict(self.tools),
            type=FactType(kind | None if self.optional else kind),
            timeout=self.timeout,
            size=self.size,
            lifetime=self.lifetime,
            shared=self.shared,
            trusted=self.trusted,
            sensitivity=Sensitivity.named(self.sensitivity),
            resource=self.resource,
            **more,
        )


def record_type(table: Mapping[str, Any] | str) -> Any:
    """Return the type that `type` in the file stands for.

    Raises:
        ConfigurationError: It is none that is known.
    """
    try:
        if isinstance(table, Mapping) and not isinstance(table.get("properties"), Mapping):
            required = [field for field, kind in table.items() if not str(kind).endswith("?")]
            properties = {field: _short(kind) for field, kind in table.items()}
            table = {"type": "object", "properties": properties, "required": required}
        return type_of(table if isinstance(table, Mapping) else _short(table))
    except ValueError as error:
        raise ConfigurationError(
            f"the type of the record cannot be read: {error}",
            hint=f"one of {', '.join(_SHORT)}, with [] for a list and ? if optional; or a JSON Schema",
        ) from error


def _short(kind: object) -> Mapping[str, Any]:
    if isinstance(kind, Mapping):
        return kind
    name = kind.removesuffix("?") if isinstance(kind, str) else str(kind)
    schema = _SHORT.get(name.removesuffix("[]"))
    if schema is None:
        raise ValueError(f"{name!r} is no type")
    return {"type": "array", "items": schema} if name.endswith("[]") else schema


class ToolFactSettings(_FactSettings):
    """``kind = "tool"``: a READ tool of the catalog, called through the guard itself."""

    kind: Literal["tool"]
    tool: Name = Field(description='a READ tool of the catalog, as in tool = "get_order"')
    arguments: tuple[Name, ...] | None = list_field(
        'its arguments for the key, in order, as in arguments = ["id"]', None
    )

    def fact(self, name: str, file_of: Callable[[str], Path]) -> DeclaredFact:
        """Return the fact of this name."""
        first = next(iter(self.tools.values()), ())
        return DeclaredFact(self.spec(name, tool=self.tool), ToolFact(self.tool, self.arguments or first))


class SqlFactSettings(_FactSettings):
    """``kind = "sql"``: one row of a database, by a query with bound parameters."""

    kind: Literal["sql"]
    url: Name = Field(description='as in url = "sqlite:///shop.db" or "postgresql://shop@db.example/shop"')
    query: Name = Field(description="with ? (SQLite) or %s (PostgreSQL; in the schema public) for values")
    # an error about another text would show a password that somebody wrote here
    password: str | None = Field(
        default=None,
        pattern=r"^(env|file|keyring|aws|gcp|azure):.",
        description='a source of the password, as in password = "file:/run/secrets/db"',
    )
    ca: Name | None = Field(
        default=None, description='a file of trusted certificates, as in ca = "company-ca.pem"'
    )
    scalar: bool = Field(default=False, description="true if the one column is the value itself")
    by_subject: bool = Field(default=False, description="true if the first parameter is the user")

    def fact(self, name: str, file_of: Callable[[str], Path]) -> DeclaredFact:
        """Return the fact of this name.

        Raises:
            ConfigurationError: The url names no database that is known here.
        """
        connect = self._sqlite(file_of) if self.url.startswith(_FILE) else self._postgres(file_of)
        source = SqlFact(IdleConnections(connect), self.query, scalar=self.scalar, by_subject=self.by_subject)
        return DeclaredFact(self.spec(name), source)

    def _sqlite(self, file_of: Callable[[str], Path]) -> Callable[[], Any]:
        place = f"{file_of(self.url.removeprefix(_FILE)).absolute().as_uri()}?mode=ro"
        # a connection is used by one thread at a time, and not always by the same one
        return lambda: sqlite3.connect(place, uri=True, timeout=self.timeout, check_same_thread=False)

    def _postgres(self, file_of: Callable[[str], Path]) -> Callable[[], Any]:
        if not self.url.startswith(("postgresql://", "postgres://")):
            raise ConfigurationError(
                "the url of a fact names no database that is known here",
                hint='as in "sqlite:///shop.db" or "postgresql://shop@db.example/shop"',
            )
        from agentguard.config.adapters import extra

        with extra("postgres"):
            from agentguard.config.fact_database import connecting

            ca = None if self.ca is None else file_of(self.ca)
            return connecting(self.url, timeout=self.timeout, ca=ca, password=self.password)


class HttpFactSettings(_FactSettings):
    """``kind = "http"``: an endpoint of one service, with the READ credential of a resource."""

    kind: Literal["http"]
    url: Name = Field(description='a template, as in url = "https://orders.example/orders/{order_id}"')
    names: tuple[Name, ...] | None = list_field(
        'its holes for the key, in order, as in names = ["order_id"]', None
    )
    credential: Name | None = Field(
        default=None, description='a name from [resources], as in credential = "orders"'
    )
    scopes: tuple[Scope, ...] = list_field('as in scopes = ["orders:read"]')
    ca: Name | None = Field(
        default=None, description='a file of trusted certificates, as in ca = "company-ca.pem"'
    )

    def fact(self, name: str, file_of: Callable[[str], Path]) -> DeclaredFact:
        """Return the fact of this name.

        Raises:
            ConfigurationError: The url is neither https nor of loopback, or its holes are not the key.
        """
        names = self.names or next(iter(self.tools.values()), ())
        source: FactSource = HttpFact(
            self.url,
            names,
            timeout=self.timeout,
            size=self.size,
            verify=tls_context(file_of, ca=self.ca),
        )
        spec = self.spec(name, credential=self.credential, scopes=frozenset(self.scopes))
        return DeclaredFact(spec, source)


FactSettings = Annotated[ToolFactSettings | SqlFactSettings | HttpFactSettings, Field(discriminator="kind")]


def validate_facts(
    facts: Mapping[str, FactSettings], tools: Mapping[str, Any], resources: Mapping[str, Any]
) -> None:
    """Check facts against the tools and resources of the file.

    Raises:
        SettingError: A fact names a tool, or a resource, that does not exist, or a type that is not known.
    """
    for name, fact in facts.items():
        names = {*fact.tools, *([fact.tool] if isinstance(fact, ToolFactSettings) else ())}
        if unknown := sorted(names - tools.keys()):
            raise SettingError(
                *("facts", name, "tools" if unknown[0] in fact.tools else "tool"),
                problem=f"there is no tool {unknown[0]!r}",
                hint=f"add [tools.{unknown[0]}], or use: {', '.join(sorted(tools)) or 'none yet'}",
            )
        if isinstance(fact, HttpFactSettings) and fact.credential is not None:
            _validate_credential(name, fact, resources)
        try:
            record_type(fact.type)
        except ConfigurationError as error:
            raise SettingError("facts", name, "type", problem=error.problem, hint=error.hint) from None


def _validate_credential(name: str, fact: HttpFactSettings, resources: Mapping[str, Any]) -> None:
    resource = resources.get(str(fact.credential))
    if resource is None:
        raise SettingError(
            *("facts", name, "credential"),
            problem=f"there is no resource {fact.credential!r}",
            hint=f"add [resources.{fact.credential}], or use: {', '.join(sorted(resources)) or 'none yet'}",
        )
    if not any(fact.url.startswith(f"{origin}/") for origin in resource.origins):
        raise SettingError(
            *("facts", name, "url"),
            problem=f"it is at none of the origins of {fact.credential}, whose credential it would carry",
            hint=f"add its origin to [resources.{fact.credential}] origins",
        )
