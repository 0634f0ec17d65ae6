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

from typing import TYPE_CHECKING

from agentguard.testing.bases import ConditionalStoreContract
from agentguard.testing.contracts import AuditContract, BrokerContract, PolicyContract
from agentguard.testing.facts import FactContract
from agentguard.testing.fakes import FixedPolicy, RecordingAudit, RecordingBroker, RecordingPolicy
from agentguard.testing.identities import IdentityContract
from agentguard.testing.pdps import PdpContract
from agentguard.testing.samples import sample_grant, sample_request, sample_task
from agentguard.testing.spans import CapturedSpans, captured_spans
from agentguard.testing.stores import StoreContract

if TYPE_CHECKING:
    from agentguard.testing.model import ScriptedChatModel

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

if not TYPE_CHECKING:  # a type checker would take any name for one that is here

    def __getattr__(name):
        """Import the scripted model when it is first asked for. It alone needs langchain."""
        if name != "ScriptedChatModel":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from agentguard.testing.model import ScriptedChatModel

        globals()[name] = ScriptedChatModel
        return ScriptedChatModel


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
