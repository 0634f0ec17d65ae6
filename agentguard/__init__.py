"""agentguard gives a LangChain agent zero standing privilege.

Each tool call is intercepted. A policy judges this call for the task it serves. A permitted call gets a
credential of its own, the call runs, and the credential is revoked. A span and an audit record say what
happened.

    identify → classify → decide → (approve) → issue → execute → revoke → record

The way of a call
    langchain.tools, langchain.middleware, langchain.mcp
                         receive the call and find the gate of its tool
    langchain.gate       validates the arguments and makes an `Invocation`; later runs the sealed tool
    enforcement.guarded_call
                         `GuardedCall` is one call in the flow, whose ports `enforcement.flow` holds
    enforcement.access_requests
                         says what is asked: who would do what in which task, with values from where
    enforcement.fact_reading
                         reads the records of the application that the rules look at
    enforcement.authorization
                         `judge` decides. A call is judged HERE: mandate, rights, policy, then approval.
                         Nothing here has a side effect but the question to a person
    enforcement.issuance
                         has the broker mint what is on record by then, and revokes it at the end
    langchain.seal       opens the lease around the tool's own code, and clears secrets from what comes
                         out
    enforcement.recording
                         writes the span and the audit record

Where a secret lives and where it dies
    `credentials/` mints it as a `model.Credential`, which refuses `str`, JSON and pickle. `lease.Lease`
    holds it in a ContextVar while the tool runs; `credentials.httpx_auth` (`auth`) and `credential()`
    read it there. It is never an argument, a message or a record. `enforcement.call`
    (`Permit.end`) closes the lease, and `enforcement.call_ending` has the credential revoked at its
    issuer (`issuance.revoke`). If that fails or the process dies, the store still lists the credential,
    and `enforcement.outbox` revokes it again. `tasks.ending` revokes all that is left when a task ends.
    `redaction` removes secrets from results, errors and logs.
    Long-lived secrets: `credentials.sources`, `credentials.long_lived`.

Rooms, from the public face down; imports go downwards only (pyproject.toml, import-linter)
    cli                  commands, one module or package each; no other room imports them
    guard                `Guard`, the public face
    langchain            what runs inside the framework; beside it only `guard.guard`, `cli` and
                         `testing.model` import any of langchain, and none imports langgraph
    config               agentguard.toml → the parts of a guard
    analysis, tasks      explain, suggest, simulate, lint for authors of policies; a task's life and its
                         end
    enforcement          one call, from the interception to the record, and the outbox
    policies identity credentials approvals stores audit resource signals telemetry redaction facts testing
                         adapters: each implements a Protocol of `ports`, and knows neither another
                         adapter nor the guard. `resource` is the API's side, `testing` is for the tests
                         of users
    intent, catalog, lease, provenance
                         mandates from templates and the user's words; what each tool is; how a running
                         tool gets its credential; where the values of arguments came from
    ports                the Protocols
    postgres             connections to PostgreSQL, for the adapters that keep something there
    model, jose, outbound   nouns, frozen and without I/O; strict JWS; HTTP to one service, bounded
    files                reads settings, rules and keys, unless others may write them
    asgi                 what ASGI applications share: the body of a request, the lifespan
    errors, concurrency  the tree of exceptions; sync from async, and one fetch for many callers
    display              tables for a notebook
    text                 what others have written, made safe to show in a terminal or a log

To add                   touch
    a broker             `credentials/NAME/` (implements `ports.Broker`; test: `testing.BrokerContract`),
                         its settings in `config.adapter_settings`, a case in
                         `config.adapters.AdapterFactory.brokers`, an extra
    a store              `stores/NAME.py` (`ports.Store`, decisions from `stores._rules`;
                         `testing.StoreContract`), and in `config.store`: `kind`, `_OF_KIND`,
                         `store_of`, `upkeep_of`
    a source of facts    `facts/NAME.py` (`ports.FactSource`; `testing.FactContract`), its settings in
                         `config.facts`
    a rule input         a field of `model.AccessRequest`, filled in `enforcement.access_requests`, or of
                         `model.TaskState`, set in `tasks.task` and kept by `stores._rows` (one that
                         changes later is kept by each store), and one row of `model.inputs`: the Cedar
                         schema and context, the JSON for other PDPs, the recorded request, its replay and
                         `explain` are made of the rows
    a command            `cli/NAME.py` with `command`, its name in `cli/__init__.py`; a test in `tests/cli`;
                         REFERENCE.md is written anew (`agentguard reference`)
    a policy engine      `policies/NAME.py` (`ports.Policy`; `testing.PolicyContract`), its kind in
                         `config.pdps`

In Cedar the tool chain is ``context.history``, and where an argument came from is
``context.provenance.args.<name>``. What JSON does not say of the arguments, such as the class of a branch
of a union, is in ``context.distinctions``. What calls have done, as counts and exact sums, is in
``context.task.done``, for tools that the catalog says are ``counted``. What a task has read, called and
counted there is that of its whole family, children and siblings included. A tool's path (READ, WRITE,
ESCALATION) is its access tier.

What it does not do: it is no sandbox. Python code in the same process can reach what Python can reach,
also the token of a running call. A copy of the token is useless without its key, and the token is revoked
when the call ends.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

try:
    import fcntl as _fcntl  # noqa: F401  the audit log and `exec` lock their files by it
except ImportError:
    raise ImportError(
        "agentguard runs on Linux; on Windows, run it in WSL 2. This system has no fcntl, by which processes "
        "lock a file that they share."
    ) from None

import agentguard.concurrency.fork as _fork
import agentguard.concurrency.hiding  # noqa: F401  it hides `agentguard exec`, before the slow imports

if TYPE_CHECKING:
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
    from agentguard.langchain.identification import classified
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
    "classified",
    "credential",
]

_HOMES = {
    "AccessRequest": "agentguard.model",
    "AgentGuardError": "agentguard.errors",
    "Approver": "agentguard.ports",
    "Broker": "agentguard.ports",
    "ConfigurationError": "agentguard.errors",
    "Credential": "agentguard.model",
    "CredentialUnavailable": "agentguard.errors",
    "Decision": "agentguard.model",
    "Denied": "agentguard.errors",
    "DestinationRefused": "agentguard.errors",
    "Effect": "agentguard.model",
    "Grant": "agentguard.model",
    "Guard": "agentguard.guard",
    "Identity": "agentguard.model",
    "Injected": "agentguard.langchain.gate",
    "Mandate": "agentguard.model",
    "Obligation": "agentguard.model",
    "Policy": "agentguard.ports",
    "Resource": "agentguard.model",
    "Task": "agentguard.tasks.task",
    "ToolPath": "agentguard.model",
    "auth": "agentguard.credentials.httpx_auth",
    "bind": "agentguard.lease",
    "classified": "agentguard.langchain.identification",
    "credential": "agentguard.lease",
}
"""Where each public name is. None is imported before it is asked for: the import of all takes a second,
most of it langchain's, which neither most commands nor a resource server need."""

_imports = _fork.ProcessLock()
"""Two threads that import rooms of one package may each wait for the other; then Python fails one of them."""

if not TYPE_CHECKING:  # a type checker would take any name for one that is here

    def __getattr__(name):
        """Import a public name, or a room of the house, when it is first asked for (PEP 562)."""
        home = _HOMES.get(name)
        if home is not None:
            with _imports:
                value = globals()[name] = getattr(import_module(home), name)
            return value
        if not name.startswith("_") and name.isidentifier() and find_spec(f"{__name__}.{name}"):
            with _imports:
                return import_module(f"{__name__}.{name}")  # which binds it here
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
