"""agentguard gives a LangChain agent zero standing privilege.

Each tool call is intercepted; a policy decides on this action, for this task, now; if it is
permitted, a credential is minted for it alone, bound to the agent's own key; the call runs; the
credential dies; a span and an audit record say what happened.

    identify → classify → decide → (approve) → issue → execute → revoke → record

    errors, _drive         the tree of exceptions; sync from async, written once
    model, ports           the nouns, and the Protocols that adapters implement
    jose                   strict JWS, for who signs and who verifies
    catalog, lease         what each tool is; how a credential reaches a running tool
    intent, parameter      mandates from templates, and from the user's own words
    provenance, replay     where the values of arguments came from; a request in JSON, and back
    leaves                 the texts and numbers in any value, in bounded time
    outbound, flight       HTTP to one service, bounded; one fetches for all
    transport              what a connection may carry
    owner                  which process holds a credential, and whether it is gone
    policies identity credentials approvals stores audit telemetry redaction
                           adapters: they know neither each other nor the guard
    resource, signals      the resource server's side; the end of a task, told and heard
    routes, call, records  which broker serves; a call on its way; what the audit log says of it
    rights, subjects       user ∩ agent ∩ mandate; the users' tokens
    authorization, consent what is asked and decided; a person's answer to one exact call
    issuance, reuse        a call's credential, from its record to its revocation
    recovery, ending       the outbox, across a crash; how a task ends
    recording              what is written of a call, in span and audit log, and when
    enforcement, task      the one flow; a task's life
    timeline               what happened, drawn
    config                 agentguard.toml → the parts of a guard
    langchain              the only rooms that know the framework
    guard                  the public face
    cli, testing           commands; fakes and contract suites for our users' tests

Imports go one way, downwards in this list to the adapters' ports. Where this differs from the first
sketch: the flow is `enforcement` and its public face `guard`, since the face needs `config` and
`langchain`, which need the flow; `lease` stands beside the ports, since the flow opens what
`credentials.ambient` attaches; `call` and `records` are the flow's nouns, `timeline` and `redaction`
have each one task; `jose` is what issuer and verifier must spell alike. `outbound` and `flight` lie
below the ports, since identities, brokers and signals all speak HTTP and know not each other. The flow's
own rooms are many, since each holds one promise: what is asked for (`rights`), what is on record before
it is minted (`issuance`), what outlives a call (`reuse`), a crash (`recovery`), a task (`ending`).

In Cedar the tool chain is ``context.history``, and where an argument came from is
``context.provenance.args.<name>``, so that no argument's name can hide ``context.provenance.untrusted``.
What a task has read, called and counted there is that of its whole family, children and siblings included.
Policies are combined by ``[policy] pdps`` and ``rule``, which name tables as resources name brokers.

What it does not do: it is no sandbox. Python code in the same process can reach what Python can
reach; what makes a stray reference harmless is that it obtains no credential.
"""

from agentguard.credentials.httpx_auth import auth
from agentguard.errors import (
    AgentGuardError,
    ConfigurationError,
    CredentialUnavailable,
    Denied,
    DestinationRefused,
)
from agentguard.guard import Guard
from agentguard.langchain.gate import Injected
from agentguard.lease import bind, credential
from agentguard.model import (
    AccessRequest,
    Credential,
    Decision,
    Effect,
    Grant,
    Identity,
    Mandate,
    Obligation,
    Resource,
    ToolPath,
)
from agentguard.ports import Approver, Broker, Policy
from agentguard.tasks.task import Task

__all__ = [
    "AccessRequest",
    "AgentGuardError",
    "Approver",
    "Broker",
    "ConfigurationError",
    "Credential",
    "CredentialUnavailable",
    "Decision",
    "Denied",
    "DestinationRefused",
    "Effect",
    "Grant",
    "Guard",
    "Identity",
    "Injected",
    "Mandate",
    "Obligation",
    "Policy",
    "Resource",
    "Task",
    "ToolPath",
    "auth",
    "bind",
    "credential",
]
