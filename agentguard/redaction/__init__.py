"""Removing a secret from what a tool returns, raises or logs.

It removes the exact secret, wherever Python lets one look: not an encoding of it (base64, JSON
escapes), and not what sits in a file, a generator, a closure or a numpy array beyond its text. Nor does it
see what a tool tells others while it runs, but for a graph's streams: a child run's input, a custom event,
a graph's state changed in place. So it is the net below the tightrope: what makes a stray copy harmless is
that the credential is revoked.
"""

from __future__ import annotations

from agentguard.redaction.graph import REDACTED, redact, redact_exception
from agentguard.redaction.logs import LogFilter, install_log_redaction

__all__ = ["REDACTED", "LogFilter", "install_log_redaction", "redact", "redact_exception"]
