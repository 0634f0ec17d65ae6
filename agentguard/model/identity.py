"""Who acts, and for whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Identity", "Login", "LoginName"]

LoginName = Literal["", "subject", "session", "jti"]
"""A name that a `Login` may have, or "" for none."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user's login at an identity provider, as the subject token of a task names it.

    `issuer`, `subject`, `session` and `jti` are the token's `iss`, `sub`, `sid` (OpenID Connect
    Front-Channel Logout 1.0 section 3) and `jti`. A name that the token does not have is empty.
    """

    issuer: str
    subject: str = ""
    session: str = ""
    jti: str = ""

    def matches(self, other: Login) -> bool:
        """Return whether this login has every name that *other* has."""
        return self.issuer == other.issuer and all(
            name in ("", mine)
            for name, mine in (
                (other.subject, self.subject),
                (other.session, self.session),
                (other.jti, self.jti),
            )
        )
