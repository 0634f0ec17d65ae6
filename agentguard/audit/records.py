"""What every audit log does with a record before it writes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

__all__ = ["is_told_once", "permits", "rfc3339"]

_OF_CALLS = frozenset({"decision", "outcome", "revocation", "unrevoked", "task"})


def permits(record: Mapping[str, Any]) -> bool:
    """Return whether a call runs only if *record* is written: its permit, or an observed denial."""
    return record.get("event") == "decision" and (record.get("effect") == "permit" or "observed" in record)


def is_told_once(record: Mapping[str, Any]) -> bool:
    """Return whether a guard tells this once, of something that has happened all the same.

    Such a record is kept where it cannot be written now, but for a permit: its call is denied then.
    """
    return record.get("event") in _OF_CALLS and not permits(record)


def rfc3339(now: float) -> str:
    """Return a time in UTC, to the microsecond."""
    second, micros = divmod(int(now * 1_000_000), 1_000_000)
    return f"{_second(second)}.{micros:06d}Z"


@lru_cache(2)
def _second(now: int) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S")
