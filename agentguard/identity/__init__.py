"""Where the agent's own identity comes from: what its platform says, never what it says itself."""

from __future__ import annotations

from agentguard.identity.local import LocalIdentity

__all__ = ["LocalIdentity"]
