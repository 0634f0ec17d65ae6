"""``[introspection]``: who may ask the guard whether a token is still active (RFC 7662)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from agentguard.config.tables import Name, SettingError, Table, list_field
from agentguard.credentials.callers import Caller
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Resource

if TYPE_CHECKING:  # it imports the settings
    from agentguard.config.adapters import AdapterFactory

__all__ = ["IntrospectionSettings", "caller_of", "validate_introspection"]


class CallerSettings(Table):
    """``[introspection.callers.NAME]``: a resource server, how it authenticates, and what it may ask for."""

    resources: tuple[Name, ...] = list_field('names from [resources], as in resources = ["orders"]')
    bearer: Name | None = Field(
        default=None, description='a source of its secret, as in bearer = "env:ORDERS_API_SECRET"'
    )
    keys: Name | None = Field(
        default=None, description='the file or https URL of its JWK Set, as in keys = "orders-api.jwks.json"'
    )
    ca: Name | None = Field(default=None, description='a file of certificates to trust, as in ca = "ca.pem"')

    @property
    def credential_key(self) -> str:
        """The key that says how the caller authenticates: bearer or keys."""
        return "keys" if self.bearer is None else "bearer"


class IntrospectionSettings(Table):
    """``[introspection]``: for `Guard.introspection`. Without callers, nobody may ask."""

    rate: float = Field(default=500.0, ge=1, description="requests of one caller in a second, from 1")
    callers: dict[Name, CallerSettings] = Field(
        default_factory=dict, description="tables, as in [introspection.callers.orders-api]"
    )


def validate_introspection(settings: IntrospectionSettings, resources: Mapping[str, object]) -> None:
    """Check that each caller has one way to authenticate, and resources that exist.

    Raises:
        SettingError: It does not.
    """
    for name, caller in settings.callers.items():
        keys = ("introspection", "callers", name)
        if (caller.bearer is None) == (caller.keys is None):
            raise SettingError(
                *keys, problem="it needs one way to authenticate", hint="set either bearer or keys"
            )
        unknown = [resource for resource in caller.resources if resource not in resources]
        if unknown or not caller.resources:
            raise SettingError(
                *(*keys, "resources"),
                problem=f"there is no resource {unknown[0]!r}" if unknown else "it names no resource",
                hint=f"use one of: {', '.join(sorted(resources)) or 'none yet'}",
            )


def caller_of(
    name: str, settings: CallerSettings, resources: Mapping[str, Resource], factory: AdapterFactory
) -> Caller:
    """Return one caller. Its secret is read now. Each error begins with the key that it is about.

    Raises:
        ConfigurationError: The secret or the key set cannot be read or used.
        IssueError: The source of the secret gave none.
    """
    from agentguard.config.adapters import extra

    with extra("issuers"):
        from agentguard.credentials.sources import source

    key = f"introspection.callers.{name}.{settings.credential_key}"
    try:
        return Caller(
            name=name,
            resources=tuple(resources[resource] for resource in settings.resources),
            bearer=None if settings.bearer is None else source(settings.bearer).read(),
            keys=None if settings.keys is None else factory.key_set(settings.keys, name, settings.ca),
        )
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{key}: {error.problem}", hint=error.hint, file=error.file, line=error.line
        ) from error
    except IssueError as error:
        raise IssueError(f"{key}: {error}") from error
