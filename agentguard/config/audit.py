"""``[audit]``: where the audit log is, and when it is rotated."""

from __future__ import annotations

from pydantic import Field

from agentguard.audit import Limits
from agentguard.config.tables import Name, Table

__all__ = ["AuditSettings"]

_BYTES = {"KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
_SECONDS = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}


class AuditSettings(Table):
    """``[audit]``: the durable record.

    The process that writes the first record beyond `max_size` or `max_age` renames the file, which gets the
    time as a suffix, and goes on in a new one. Without both, nothing is rotated. Only with `keep_files`,
    rotated files are deleted: the oldest ones beyond that number, whose heads the files after them hold.
    """

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

    def limits(self) -> Limits:
        """Return the limits of the log, in bytes and seconds."""
        return Limits(
            max_size=None if self.max_size is None else int(self.max_size[:-2]) * _BYTES[self.max_size[-2:]],
            max_age=None if self.max_age is None else int(self.max_age[:-1]) * _SECONDS[self.max_age[-1]],
            keep_files=self.keep_files,
        )
