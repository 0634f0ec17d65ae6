"""The nouns: frozen values without I/O.

Who acts (`Identity`), within which bounds (`Task`, `Mandate`, `Budget`), what is asked
(`AccessRequest`), what was answered (`Decision`), what may be issued (`Grant`), and what came of it
(`Credential`, `Call`). Times are seconds since the epoch, lifetimes are seconds.
"""

from agentguard.model.arguments import Arguments, Json
from agentguard.model.credential import (
    DETAIL_TYPE,
    Call,
    Credential,
    Grant,
    LiveCredential,
    Outcome,
    Secret,
)
from agentguard.model.decision import (
    AccessRequest,
    Approval,
    ApprovalStatus,
    Decision,
    Effect,
    Obligation,
)
from agentguard.model.identity import Identity
from agentguard.model.mandate import Mandate, Scalar
from agentguard.model.provenance import LABELS, NO_READ_EFFECTS, Label, Provenance, ReadEffects, Sensitivity
from agentguard.model.task import WORDS, Budget, TaskState, TaskStatus
from agentguard.model.tool import Resource, ToolPath, ToolSpec

__all__ = [
    "DETAIL_TYPE",
    "LABELS",
    "NO_READ_EFFECTS",
    "WORDS",
    "AccessRequest",
    "Approval",
    "ApprovalStatus",
    "Arguments",
    "Budget",
    "Call",
    "Credential",
    "Decision",
    "Effect",
    "Grant",
    "Identity",
    "Json",
    "Label",
    "LiveCredential",
    "Mandate",
    "Obligation",
    "Outcome",
    "Provenance",
    "ReadEffects",
    "Resource",
    "Scalar",
    "Secret",
    "Sensitivity",
    "TaskState",
    "TaskStatus",
    "ToolPath",
    "ToolSpec",
]
