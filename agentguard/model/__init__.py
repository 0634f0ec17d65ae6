"""The nouns: frozen values without I/O. Times are seconds since the epoch, lifetimes are seconds.

identity    `Identity`, `Login`: who acts, and for whom
mandate     `Mandate`: what a task may touch at most
task        `TaskState`, `Budget`: a task as the store holds it
tool        `ToolSpec`, `Resource`: the classification of a tool, and the service that it touches
declared    `Declared`: what a tool's schema declares at each place of its arguments
looks       `Look`: the places inside of a tool's arguments at which rules can look
arguments   `Arguments`: the validated arguments of a call, frozen
facts       `FactSpec`, `Facts`: what records of the application say, declared and read
limits      `Limits`, `CallLimits`: how much a call and its result may hold
inside      what a value holds, read without the code of its class
provenance  `Provenance`, `Label`, `Sensitivity`: where values came from, and how sensitive they are
counts      `Counted`, `Cell`, `Addition`: what is counted of the calls that were done
decision    `AccessRequest`, `Decision`, `Approval`: the request to a policy and to a person, and the answers
inputs      the table of what rules can see of a request
origin_form the written form of where an argument, and what is inside of it, came from
basis       `Basis`: what of a store a call was judged by
credential  `Grant`, `Credential`, `Call`: what may be issued for a call, what was issued, how the call ended
"""

from agentguard.model.arguments import Arguments, Json
from agentguard.model.basis import Basis
from agentguard.model.counts import Addition, Cell, Counted
from agentguard.model.credential import (
    DETAIL_TYPE,
    Call,
    CallKey,
    Credential,
    DeferredSecret,
    Grant,
    LiveCredential,
    Outcome,
    Secret,
)
from agentguard.model.decision import (
    NO_CHOICE,
    AccessRequest,
    Approval,
    ApprovalStatus,
    Choice,
    Decision,
    Effect,
    Obligation,
)
from agentguard.model.facts import NO_FACTS, Facts, FactSpec, FactType
from agentguard.model.identity import Identity, Login, LoginName
from agentguard.model.limits import CallLimits, Limits
from agentguard.model.mandate import Mandate, Scalar
from agentguard.model.provenance import (
    LABELS,
    NO_READ_EFFECTS,
    RECORD,
    TRUSTED_LABELS,
    Label,
    Provenance,
    ReadEffects,
    Sensitivity,
)
from agentguard.model.task import (
    CHOICE_BITS,
    QUESTIONS,
    TURN,
    WORDS,
    Budget,
    TaskState,
    TaskStatus,
    words_of,
)
from agentguard.model.tool import Resource, ToolPath, ToolSpec

# the names that these had before; nothing in this package uses them
Origin, Seen, NOTHING_SEEN = Provenance, ReadEffects, NO_READ_EFFECTS

__all__ = [
    "CHOICE_BITS",
    "DETAIL_TYPE",
    "LABELS",
    "NOTHING_SEEN",
    "NO_CHOICE",
    "NO_FACTS",
    "NO_READ_EFFECTS",
    "QUESTIONS",
    "RECORD",
    "TRUSTED_LABELS",
    "TURN",
    "WORDS",
    "AccessRequest",
    "Addition",
    "Approval",
    "ApprovalStatus",
    "Arguments",
    "Basis",
    "Budget",
    "Call",
    "CallKey",
    "CallLimits",
    "Cell",
    "Choice",
    "Counted",
    "Credential",
    "Decision",
    "DeferredSecret",
    "Effect",
    "FactSpec",
    "FactType",
    "Facts",
    "Grant",
    "Identity",
    "Json",
    "Label",
    "Limits",
    "LiveCredential",
    "Login",
    "LoginName",
    "Mandate",
    "Obligation",
    "Origin",
    "Outcome",
    "Provenance",
    "ReadEffects",
    "Resource",
    "Scalar",
    "Secret",
    "Seen",
    "Sensitivity",
    "TaskState",
    "TaskStatus",
    "ToolPath",
    "ToolSpec",
    "words_of",
]
