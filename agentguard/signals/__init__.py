"""Shared Signals: tell resource servers that a task has ended, and end tasks on a security team's signal.

    events         the one event, CAEP 1.0 `session-revoked`, as a Security Event Token (SET, RFC 8417)
    subjects       which session, token or user an event names (RFC 9493)
    sources        the transmitters that are trusted, and the issuers for which each may speak
    receiver       an ASGI application that accepts pushed signals (RFC 8935)
    transmitter    pushes signals to one receiver (RFC 8935)
    revocations    what a resource server does with a signal: its verifier then refuses the tokens

This package has no stream management API, no poll delivery (RFC 8936), no encrypted tokens, and no
event other than `session-revoked`. A receiver acknowledges other events, and they have no effect.
"""

from __future__ import annotations

from agentguard.signals.events import IssuedId, SessionRevoked
from agentguard.signals.receiver import Receiver
from agentguard.signals.revocations import Revocations
from agentguard.signals.sources import Source
from agentguard.signals.transmitter import Transmitter, jwks

Named = IssuedId  # the name under which it was exported first

__all__ = ["IssuedId", "Named", "Receiver", "Revocations", "SessionRevoked", "Source", "Transmitter", "jwks"]
