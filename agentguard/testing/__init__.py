"""For your tests: a scripted model, recording adapters, captured spans, and contract suites.

    class TestMyStore(StoreContract):
        def make(self, clock):
            return MyStore(clock=clock)

Each contract holds an adapter to what `agentguard.ports` promises, on the synchronous and on the
asynchronous path. Nothing here is for production: `RecordingBroker` mints secrets that everyone knows.
"""

from __future__ import annotations

from agentguard.testing.contracts import AuditContract, BrokerContract, PolicyContract
from agentguard.testing.fakes import FixedPolicy, RecordingAudit, RecordingBroker, RecordingPolicy
from agentguard.testing.identities import IdentityContract
from agentguard.testing.model import ScriptedChatModel
from agentguard.testing.pdps import PdpContract
from agentguard.testing.samples import sample_grant, sample_request, sample_task
from agentguard.testing.spans import CapturedSpans, captured_spans
from agentguard.testing.stores import StoreContract

__all__ = [
    "AuditContract",
    "BrokerContract",
    "CapturedSpans",
    "FixedPolicy",
    "IdentityContract",
    "PdpContract",
    "PolicyContract",
    "RecordingAudit",
    "RecordingBroker",
    "RecordingPolicy",
    "ScriptedChatModel",
    "StoreContract",
    "captured_spans",
    "sample_grant",
    "sample_request",
    "sample_task",
]
