"""The durable record: one JSON object a line, each chained to the one before by its hash.

`chain` knows the format and finds what was changed, removed, inserted or reordered; `jsonl` writes it
to a file. What a record says of a call is the guard's business: the seven facts that
draft-klrc-aiagent-auth asks for.
"""

from __future__ import annotations

from agentguard.audit.chain import Fault, Head, Report, verify
from agentguard.audit.jsonl import JsonLinesAudit

__all__ = ["Fault", "Head", "JsonLinesAudit", "Report", "verify"]
