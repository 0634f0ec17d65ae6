"""``[store]`` of agentguard.toml, and the store that it names."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from agentguard.config.adapters import extra
from agentguard.config.tables import Name, SettingError, Table
from agentguard.errors import ConfigurationError
from agentguard.ports import Store
from agentguard.stores import Retention
from agentguard.stores.memory import MemoryStore
from agentguard.stores.server_upkeep import postgres_upkeep, redis_upkeep
from agentguard.stores.sqlite import SqliteStore
from agentguard.stores.sqlite_upkeep import SqliteUpkeep
from agentguard.stores.upkeep import Upkeep

if TYPE_CHECKING:  # each needs an extra
    from agentguard.stores.postgres import PostgresStore
    from agentguard.stores.redis import RedisStore

__all__ = ["StoreSettings", "store_of", "upkeep_of"]

Clock = Callable[[], float]

_OF_KIND = {
    "sqlite": frozenset({"path", "keep"}),
    "memory": frozenset({"path", "keep"}),
    "redis": frozenset(
        {
            *("url", "password", "ca", "plaintext", "pool_size", "timeout"),
            *("prefix", "durability", "replicas", "keep"),
        }
    ),
    "postgres": frozenset(
        {"url", "password", "ca", "plaintext", "pool_size", "timeout", "schema_", "durability", "keep"}
    ),
}
"""The keys that each kind may have."""


class StoreSettings(Table):
    """``[store]``: the state that all processes share. It is in a file of one machine, or on a server.

    `url` and all that follows are for a server. The file holds no password: `password` names where it is.
    """

    kind: Literal["sqlite", "memory", "redis", "postgres"] = Field(
        default="sqlite", description='"sqlite", "memory", "redis" or "postgres"'
    )
    path: Name = Field(
        default=".agentguard/state.db", description='a file, as in path = ".agentguard/state.db"'
    )
    keep: str = Field(
        default="1d",
        pattern=r"^[0-9]{1,6}[mhd]$",
        description='how long what is over stays: minutes, hours or days from 2 hours, as in keep = "7d"',
    )
    url: Name | None = Field(
        default=None, description='as in url = "rediss://redis.example:6379/0" or "postgresql://…"'
    )
    # an error about another text would show a password that somebody wrote here
    password: str | None = Field(
        default=None,
        pattern=r"^(env|file|keyring|aws|gcp|azure):.",
        description='where it is, as in password = "env:REDIS_PASSWORD"',
    )
    ca: Name | None = Field(default=None, description='a file with certificates, as in ca = "ca.pem"')
    plaintext: bool = Field(default=False, description="true to speak to another machine without TLS")
    pool_size: int = Field(
        default=8, ge=1, le=10_000, description="a whole number from 1 to 10000, as in pool_size = 8"
    )
    timeout: float = Field(default=2.0, gt=0, le=60, description="seconds up to 60, as in timeout = 2")
    prefix: Name = Field(default="agentguard", description='of the keys, as in prefix = "agentguard"')
    durability: Literal["checked", "vouched", "lossy"] = Field(
        default="checked", description='"checked", "vouched" or "lossy" (see agentguard.stores.redis)'
    )
    schema_: Name = Field(
        default="agentguard", alias="schema", description='in PostgreSQL, as in schema = "agentguard"'
    )
    replicas: int = Field(
        default=0, ge=0, le=100, description="how many have each write, from 0, as in replicas = 1"
    )

    @model_validator(mode="after")
    def _validate(self) -> Self:
        """Check that each key is one of the kind.

        Raises:
            SettingError: A key is for another kind, or the URL is missing.
        """
        keys = _OF_KIND[self.kind]
        if foreign := sorted(self.model_fields_set - keys - {"kind"}):
            raise SettingError(
                *("store", foreign[0].rstrip("_")),
                problem=f"a store of the kind {self.kind} has no such setting",
                hint=f"remove it, or use: {', '.join(key.rstrip('_') for key in sorted(keys))}",
            )
        try:
            self.retention()
        except ConfigurationError as error:
            raise SettingError("store", "keep", problem=error.problem, hint=error.hint) from None
        if "url" in keys and self.url is None:
            raise SettingError("store", "kind", problem="the URL is missing", hint=_URL_HINTS[self.kind])
        if self.kind == "postgres" and self.durability == "vouched":
            raise SettingError(
                *("store", "durability"),
                problem="PostgreSQL says itself what it keeps, and nobody needs to vouch for it",
                hint='use "checked", or "lossy" for a test',
            )
        return self

    def retention(self) -> Retention:
        """Return for how long ended tasks, expired approvals and lapsed credentials stay.

        Raises:
            ConfigurationError: The time is too short or too long.
        """
        return Retention(float(self.keep[:-1]) * _SECONDS[self.keep[-1]])


_SECONDS = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}
_URL_HINTS = {
    "redis": 'as in url = "rediss://redis.example:6379/0"',
    "postgres": 'as in url = "postgresql://agentguard@db.example/agents"',
}


def store_of(settings: StoreSettings, file_of: Callable[[str], Path], clock: Clock) -> Store:
    """Make the store; *file_of* returns the path of a named file. A server is first asked when it is used.

    Raises:
        ConfigurationError: A setting is wrong, or an extra is missing.
    """
    match settings.kind:
        case "memory":
            return MemoryStore(clock, retention=settings.retention())
        case "redis":
            return _redis(settings, file_of, clock)
        case "postgres":
            return _postgres(settings, file_of, clock)
    return SqliteStore(file_of(settings.path), clock=clock, retention=settings.retention())


def upkeep_of(settings: StoreSettings, file_of: Callable[[str], Path]) -> Upkeep:
    """Return the upkeep of the store that the settings name; *file_of* is as in `store_of`.

    Raises:
        ConfigurationError: A setting is wrong, an extra is missing, or the store is in memory.
    """
    match settings.kind:
        case "redis":
            return redis_upkeep(_redis(settings, file_of, time.time))
        case "postgres":
            return postgres_upkeep(_postgres(settings, file_of, time.time))
        case "memory":
            hint = "name another kind in [store], or none"
            raise ConfigurationError("a store in memory ends with its process", hint=hint)
    return SqliteUpkeep(file_of(settings.path), retention=settings.retention())


def _redis(settings: StoreSettings, file_of: Callable[[str], Path], clock: Clock) -> RedisStore:
    with extra("redis"):
        from agentguard.stores.redis import Durability, RedisStore
    from agentguard.credentials.sources import source

    return RedisStore(
        settings.url or "",
        password=None if settings.password is None else source(settings.password),
        prefix=settings.prefix,
        pool_size=settings.pool_size,
        timeout=settings.timeout,
        ca=None if settings.ca is None else file_of(settings.ca),
        plaintext=settings.plaintext,
        durability=Durability(settings.durability, settings.replicas),
        retention=settings.retention(),
        clock=clock,
    )


def _postgres(settings: StoreSettings, file_of: Callable[[str], Path], clock: Clock) -> PostgresStore:
    with extra("postgres"):
        from agentguard.stores.postgres import PostgresStore, holds_password
    from agentguard.credentials.sources import source

    if holds_password(settings.url or ""):
        raise ConfigurationError(
            "the url of the store holds a password",
            hint='name the place of the password, as in password = "env:PGPASSWORD"',
        )
    return PostgresStore(
        settings.url or "",
        password=None if settings.password is None else source(settings.password),
        schema=settings.schema_,
        pool_size=settings.pool_size,
        timeout=settings.timeout,
        ca=None if settings.ca is None else file_of(settings.ca),
        plaintext=settings.plaintext,
        durability="lossy" if settings.durability == "lossy" else "checked",
        retention=settings.retention(),
        clock=clock,
    )
