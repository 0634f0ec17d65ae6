"""The audit log: one JSON object a line, each chained to the line before by its hash.

    chain       the format of a line, and the check for changed, removed, inserted or reordered records
    file_end    reads the first and the last record of a file
    files       finds the files of one log by the heads that they hold, also compressed ones
    file_set    verifies all files of one log, and how they are linked
    reading     reads the records that somebody looks for, and follows a log through its rotations
    rotation    gives the log's file another name and begins a new one, when it is large or old
    locking     takes the lock of the log's file
    succession  finds the newest file, where others wrote while a process was quiet
    appending   locks the log's file, begins it anew if it was moved away, and keeps what it could not write
    jsonl       writes the log to a file (an `agentguard.ports.AuditLog`)
    records     what every log does with a record before it writes it
    postgres    writes the log to a table of PostgreSQL; it needs the extra ``postgres``, so it is not
                imported here
    requests    turns a request into JSON and back, to ask a policy about recorded calls again
    timeline    draws what happened in a task, for a terminal or a notebook

This package does not choose what is recorded: `agentguard.enforcement.recording` does. A record holds
the seven facts that draft-klrc-aiagent-auth asks for.

For a new audit log: write a class with the methods of `agentguard.ports.AuditLog` in a module of this
package, and export it here. Test it with a subclass of `agentguard.testing.AuditContract`. To let
agentguard.toml name it, add its setting to ``AuditSettings`` in `agentguard.config.audit` and build it
in `agentguard.config.build`.
"""

from __future__ import annotations

from agentguard.audit.chain import Fault, Head, Report, verify
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.audit.rotation import Limits

__all__ = ["Fault", "Head", "JsonLinesAudit", "Limits", "Report", "verify"]
