"""What a tool is, and the resource that it touches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agentguard.model.counts import Counted
from agentguard.model.declared import Declared, declared_in
from agentguard.model.facts import FactSpec
from agentguard.model.looks import Looks, looks_in
from agentguard.model.provenance import Sensitivity

__all__ = ["RECOGNIZED", "Resource", "ToolPath", "ToolSpec"]

RECOGNIZED = ("folded", "date", "amount")
"""The other forms in which the user may have written a value; `provenance.recognition` says what each is."""


class ToolPath(StrEnum):
    """READ, WRITE or ESCALATION: each has its own policy scope, broker, audience and approver."""

    READ = "read"
    WRITE = "write"
    ESCALATION = "escalation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A protected service: its name, and for each path its audience, origins and scopes.

    A credential travels to `origins` (scheme://host[:port]) only.
    """

    name: str
    origins: tuple[str, ...] = ()
    audiences: Mapping[ToolPath, str] = field(default_factory=dict)

    def audience(self, path: ToolPath) -> str:
        """Return the `aud` of credentials for *path*; never the same for two paths."""
        return self.audiences.get(path, f"{self.name}/{path}")


ALL = "*"
"""Stands for all fields of a result."""
OF_CALL = "args."
"""Begins the name of an argument of a call, where a name may be that of a field of its result."""
VOUCHING_AUTHORS = frozenset({"user", "application"})
"""The sources of a value that are no tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """The classification of one tool in the catalog.

    `schema` is the JSON Schema of the arguments that the model may give. `sinks` are the arguments that name
    a counterparty (a recipient, an account, a URL). A tool without a resource obtains no credential.
    `untrusted` says that an attacker may have written text in its result. `trusted` lists the fields of its
    structured result that only the owner of the data can write, as paths without list indices
    (``event.participants``; ``*`` is the whole result). A field that may repeat an argument of the call is
    not one of them: the model could have anything vouched for by it. `sensitivity` is that of its result, and
    `clearance` is the highest sensitivity that the receiver of its arguments may learn. `server` is the MCP
    server that offers the tool, by the name that the application gives that server. `source` is the place
    in the application's code where the tool is defined: a module, or ``module:qualname``. A tool of this name
    from elsewhere is another tool. `instance` is the argument that names the one thing that a call acts on,
    such as an order; without it a call is about the resource as a whole. `facts` are what the application has
    declared of the tool's calls. `counted` says what is counted of its calls that were done, if anything.
    `recognized` names the arguments whose value is the user's also if the user has written it in another
    form, each with that form, one of `RECOGNIZED`.

    `records` names the fields of its result that are trusted where something beside them is: a field of the
    same record, or as ``args.url`` an argument of the call. ``{"body": {"sender": {"contacts.email"}}}`` says
    that a body is trusted where its sender is from that trusted field of another tool's result. All that
    stands beside a field must be from one of its sources, which may be ``user`` and ``application`` too.
    ``*`` stands for all fields; arguments alone vouch for these.
    """

    name: str
    path: ToolPath
    resource: str | None = None
    scopes: frozenset[str] = frozenset()
    schema: Mapping[str, Any] | None = None
    sinks: frozenset[str] = frozenset()
    untrusted: bool = False
    trusted: frozenset[str] = frozenset()
    sensitivity: Sensitivity = Sensitivity.PUBLIC
    clearance: Sensitivity = Sensitivity.RESTRICTED
    description: str = ""
    server: str | None = None
    source: str | None = None
    instance: str | None = None
    facts: tuple[FactSpec, ...] = ()
    counted: Counted | None = None
    recognized: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    _declared: Declared | None = field(init=False, repr=False, compare=False, default=None)
    _looks: Looks | None = field(init=False, repr=False, compare=False, default=None)

    @property
    def declared(self) -> Declared:
        """Return what `schema` declares of the arguments. The schema is read once, by the first call."""
        if self._declared is None:
            object.__setattr__(self, "_declared", declared_in(self.schema))
        assert self._declared is not None  # noqa: S101  it was just set
        return self._declared

    @property
    def looks(self) -> Looks:
        """Return all places inside of the arguments. They are found once, by whoever needs them first."""
        if self._looks is None:
            object.__setattr__(self, "_looks", looks_in(self.declared))
        assert self._looks is not None  # noqa: S101  it was just set
        return self._looks
