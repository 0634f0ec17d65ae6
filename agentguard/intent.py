"""Mandates from intent."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentguard.model import Budget, Mandate

__all__ = ["Derivation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """What was made of a user's words: to be read before it takes effect."""

    mandate: Mandate
    kinds: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
