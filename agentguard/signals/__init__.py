"""Shared Signals: a task's end is told to resource servers, and a security team's signal ends a task.

events (the one event, CAEP 1.0 `session-revoked`, as a Security Event Token of RFC 8417), sources
(whose tokens are believed, and of what), receiver (an ASGI application for RFC 8935 push),
transmitter (pushes to one receiver), revocations (what a resource server does with a signal).

What it does not do: no stream management API, no poll delivery (RFC 8936), no encrypted tokens, and
no event but `session-revoked`; others are acknowledged and have no effect.
"""

from __future__ import annotations

from agentguard.signals.events import Named, SessionRevoked
from agentguard.signals.receiver import Receiver
from agentguard.signals.revocations import Revocations
from agentguard.signals.sources import Source
from agentguard.signals.transmitter import Transmitter, jwks

__all__ = ["Named", "Receiver", "Revocations", "SessionRevoked", "Source", "Transmitter", "jwks"]
