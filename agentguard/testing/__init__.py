"""For your tests: a scripted model, recording adapters, captured spans, and contract suites.

A contract suite tests that your adapter does what its Protocol in `agentguard.ports` promises, with sync
and with async calls. Subclass the suite, override `make`, and pytest collects the tests::

    class TestMyStore(StoreContract):
        def make(self, clock):
            return MyStore(clock=clock)

    Protocol          suite               more to override
    Policy            `PolicyContract`    `request`
                      `PdpContract`       `over` and `permit`; for a policy that asks a PDP over httpx
    Broker            `BrokerContract`    `grant`
    IdentitySource    `IdentityContract`  `broken`, `claims`
    Store             `StoreContract`     (contains the rules of approvals, `testing.approvals`, and of
                                          read effects, `testing.effects`)
    ConditionalStore  `ConditionalStoreContract`  (contains `StoreContract`)
    AuditLog          `AuditContract`
    FactSource        `FactContract`      `key`

Approver, Entitlements, CatalogAware and Transmitter have no suite.

Do not use these adapters in production: `RecordingBroker` mints secrets that everyone knows.
"""

from __future__ import annotations

from agentguard.testing.bases import ConditionalStoreContract
from agentguard.testing.contracts import AuditContract, BrokerContract, PolicyContract
from agentguard.testing.facts import FactContract
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
    "ConditionalStoreContract",
    "FactContract",
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
