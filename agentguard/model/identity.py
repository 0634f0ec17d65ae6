"""Who acts, and for whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An authenticated party: for whom (`subject`), and by whom (`actor`).

    `chain` names earlier actors, nearest first, when agents call agents. As in RFC 8693 section
    4.1, only subject and actor decide; the chain is history.
    """

    subject: str
    actor: str
    chain: tuple[str, ...] = ()

    def delegate(self, actor: str) -> Identity:
        """Return the identity of *actor* acting for the same subject, called by this one."""
        return Identity(subject=self.subject, actor=actor, chain=(self.actor, *self.chain))

    def act(self) -> dict[str, Any]:
        """Return the `act` claim of RFC 8693 section 4.1, nested from the current actor inwards."""
        claim: dict[str, Any] = {}
        for actor in reversed((self.actor, *self.chain)):
            claim = {"sub": actor, "act": claim} if claim else {"sub": actor}
        return claim
