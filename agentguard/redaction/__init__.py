"""Remove live secrets from what a tool returns, raises or logs.

    graph      finds a secret in a value or an exception, and replaces it
    needles    the secrets that are looked for in a text
    plain      looks through plain data quickly
    objects    reads the parts of an object without calling the code of its class
    frames     removes local variables from tracebacks
    logs       removes live secrets from log records

Only the exact secret is removed, not an encoding of it (base64, JSON escapes, UTF-32). An object that
cannot be looked into, such as a generator, an iterator over a file, a row of sqlite3 or a picture of PIL, is
not passed on where a secret is at hand: a text stands in its place that says so, and the log names its class.
"[redacted]" stands for a future, thread, context or context variable that holds a secret, since a copy of it
would run too. Redaction does not find a secret in a closure, nor in what an event loop, an executor or a task
that is not done still runs. It also does not see what a tool passes on while it runs (the input of a child
run, a custom event, a graph's state that is changed in place), except for a graph's streams. So redaction is
only a second line of defense: a stray copy becomes harmless because the credential is revoked.
"""

from __future__ import annotations

from agentguard.redaction.graph import redact, redact_exception
from agentguard.redaction.logs import LogFilter, install_log_redaction
from agentguard.redaction.needles import REDACTED

__all__ = ["REDACTED", "LogFilter", "install_log_redaction", "redact", "redact_exception"]
