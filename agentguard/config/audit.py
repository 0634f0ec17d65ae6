"""``[audit]``: where the audit log is, and when it is rotated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from agentguard.audit import JsonLinesAudit, Limits
from agentguard.config.adapters import extra
from agentguard.config.tables import Name, SettingError, Table
from agentguard.errors import ConfigurationError
from agentguard.ports import AuditLog

if TYPE_CHECKING:  # it needs an extra
    from agentguard.audit.postgres import PostgresAudit

__all__ = ["AuditSettings", "audit_of", "postgres_audit_of"]

Clock = Callable[[], float]

_BYTES = {"KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
_SECONDS = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}
_OF_KIND = {
    "file": frozenset({"path", "max_size", "max_age", "keep_files"}),
    "postgres": frozenset({"url", "password", "ca", "plaintext", "timeout", "schema_", "durability"}),
}
"""The keys that each kind may have beside `requests`."""


class AuditSettings(Table):
    """``[audit]``: the durable record.

    The process that writes the first record beyond `max_size` or `max_age` renames the file, which gets the
    time as a suffix, and goes on in a new one. Without both, nothing is rotated. Only with `keep_files`,
    rotated files are deleted: the oldest ones beyond that number, whose heads the files after them hold.

    `url` and all that follows are for the kind ``postgres`` (see `agentguard.audit.postgres`). The file holds
    no password: `password` names where it is.
    """

    kind: Literal["file", "postgres"] = Field(default="file", description='"file" or "postgres"')
    path: Name = Field(default=".agentguard/audit.jsonl", description='a file, as in path = "audit.jsonl"')
    requests: bool = Field(default=False, description="true to record values of arguments, or false")
    max_size: str | None = Field(
        default=None,
        pattern=r"^([1-9][0-9]{2,5}KB|[1-9][0-9]{0,5}[MG]B)$",
        description='a size from 100KB on at which the log is rotated, as in max_size = "100MB"',
    )
    max_age: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,4}[mhd]$",
        description='minutes, hours or days after which the log is rotated, as in max_age = "1d"',
    )
    keep_files: int | None = Field(
        default=None, ge=1, le=100_000, description="rotated files that stay, from 1, as in keep_files = 30"
    )

    url: Name | None = Field(
        default=None, description='as in url = "postgresql://agentguard@db.example/agents"'
    )
    # an error about another text would show a password that somebody wrote here
    password: str | None = Field(
        default=None,
        pattern=r"^(env|file|keyring|aws|gcp|azure):.",
        description='where it is, as in password = "env:AUDIT_PASSWORD"',
    )
    ca: Name | None = Field(default=None, description='a file with certificates, as in ca = "ca.pem"')
    plaintext: bool = Field(default=False, description="true to speak to another machine without TLS")
    timeout: float = Field(default=2.0, gt=0, le=60, description="seconds up to 60, as in timeout = 2")
    schema_: Name = Field(
        default="agentguard_audit", alias="schema", description='as in schema = "agentguard_audit"'
    )
    durability: Literal["checked", "lossy"] = Field(
        default="checked", description='"checked", or "lossy" for a test'
    )

    @model_validator(mode="after")
    def _validate(self) -> Self:
        """Check that each key is one of the kind.

        Raises:
            SettingError: A key is for another kind, or the URL is missing.
        """
        keys = _OF_KIND[self.kind]
        if foreign := sorted(self.model_fields_set - keys - {"kind", "requests"}):
            raise SettingError(
                *("audit", foreign[0].rstrip("_")),
                problem=f"an audit log of the kind {self.kind} has no such setting",
                hint=f"remove it, or use: {', '.join(key.rstrip('_') for key in sorted(keys))}",
            )
        if self.kind == "postgres" and self.url is None:
            hint = 'as in url = "postgresql://agentguard@db.example/agents"'
            raise SettingError("audit", "kind", problem="the URL is missing", hint=hint)
        return self

    def limits(self) -> Limits:
        """Return the limits of the log, in bytes and seconds."""
        return Limits(
            max_size=None if self.max_size is None else int(self.max_size[:-2]) * _BYTES[self.max_size[-2:]],
            max_age=None if self.max_age is None else int(self.max_age[:-1]) * _SECONDS[self.max_age[-1]],
            keep_files=self.keep_files,
        )


def audit_of(settings: AuditSettings, file_of: Callable[[str], Path], clock: Clock) -> AuditLog:
    """Make the audit log; *file_of* returns the path of a named file. A server is asked when it is used.

    Raises:
        ConfigurationError: A setting is wrong, or an extra is missing.
    """
    if settings.kind == "postgres":
        return postgres_audit_of(settings, file_of, clock)
    return JsonLinesAudit(file_of(settings.path), clock=clock, limits=settings.limits())


def postgres_audit_of(settings: AuditSettings, file_of: Callable[[str], Path], clock: Clock) -> PostgresAudit:
    """Make the audit log of the kind ``postgres``; the arguments are those of `audit_of`.

    Raises:
        ConfigurationError: A setting is wrong, or an extra is missing.
    """
    with extra("postgres"):
        from agentguard.audit.postgres import PostgresAudit
        from agentguard.postgres.address import holds_password
    from agentguard.credentials.sources import source

    if holds_password(settings.url or ""):
        raise ConfigurationError(
            "the url of the audit log holds a password",
            hint='name the place of the password, as in password = "env:AUDIT_PASSWORD"',
        )
    return PostgresAudit(
        settings.url or "",
        password=None if settings.password is None else source(settings.password),
        schema=settings.schema_,
        ca=None if settings.ca is None else file_of(settings.ca),
        timeout=settings.timeout,
        clock=clock,
        plaintext=settings.plaintext,
        durability=settings.durability,
    )
