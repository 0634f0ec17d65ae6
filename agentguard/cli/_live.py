"""What `store check`, `status` and `recover` say of a store and of the credentials that are live in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agentguard.enforcement.process import gone, is_here
from agentguard.model import LiveCredential
from agentguard.stores.upkeep import Condition

__all__ = ["by_broker", "outbox_of", "process_state", "schema_text", "size_text"]

UNITS = ("bytes", "KiB", "MiB", "GiB")


def outbox_of(condition: Condition) -> list[LiveCredential]:
    """Return the credentials that wait for their revocation, also those whose process is gone."""
    return [*condition.outbox, *(one for one in condition.in_use if gone(one.owner))]


def process_state(owner: str) -> str:
    """Return whether a credential's process is gone, lives here, or is elsewhere, where nobody can see it."""
    if gone(owner):
        return "gone"
    return "alive" if is_here(owner) else "elsewhere"


def by_broker(credentials: Iterable[LiveCredential]) -> str:
    """Return a line for each broker, with the number of its credentials."""
    counts = Counter(credential.broker for credential in credentials)
    return "".join(f"\n{count} of {broker}" for broker, count in sorted(counts.items()))


def schema_text(condition: Condition) -> str:
    """Return the schema version in words, and what to do if it is not the newest."""
    if condition.schema < condition.newest:
        newest = f"the newest is {condition.newest}: run `agentguard store migrate`"
        return f"version {condition.schema}, and {newest}"
    if condition.schema > condition.newest:
        return f"version {condition.schema}, and this agentguard knows {condition.newest}: upgrade agentguard"
    return f"version {condition.schema}, the newest"


def size_text(size: float) -> str:
    """Return a number of bytes in words."""
    for unit in UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {UNITS[-1]}"
