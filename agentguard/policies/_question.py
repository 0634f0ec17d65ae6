"""The question to a policy decision point (PDP) beyond this process, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from agentguard.errors import ConfigurationError
from agentguard.model import AccessRequest
from agentguard.model.arguments import Json
from agentguard.model.inputs import (
    APPROVED,
    ARGUMENT_INPUTS,
    INPUTS,
    JSON_FORM,
    RuleInput,
    approval_json,
    writer_of,
)
from agentguard.model.origin_form import origin_form
from agentguard.provenance.joined import unknown_provenance

__all__ = ["PdpUsers", "question", "with_approval"]


@dataclass(frozen=True, slots=True)
class PdpUsers:
    """What a PDP calls the users: their *type*, and their ids.

    *name* is our name of a user, with the PDP's id of them in it as ``{id}``, such as ``"user:{id}"``. Of a
    subject of another form, the PDP has no name, so it is not asked and the call is denied: it could not
    tell that subject from the user of the same id.

    Raises:
        ConfigurationError: *name* has no ``{id}``, or several.
    """

    type: str = "identity"
    name: str = "{id}"

    def __post_init__(self) -> None:
        if self.name.count("{id}") != 1:
            raise ConfigurationError(
                f"{self.name!r} does not say what users are called here",
                hint='put one {id} into it, as in "user:{id}"',
            )

    def id_of(self, subject: str) -> str:
        """Return the PDP's id of the subject.

        Raises:
            ValueError: The subject has another form.
        """
        before, _, after = self.name.partition("{id}")
        id_ = subject.removeprefix(before).removesuffix(after)
        if not id_ or self.name.replace("{id}", id_) != subject:
            raise ValueError("the PDP has no name for the subject")
        return id_


_USERS = PdpUsers()


def question(
    request: AccessRequest, inputs: tuple[RuleInput, ...] = INPUTS, *, users: PdpUsers = _USERS
) -> dict[str, Json]:
    """Return the question in the shape of AuthZEN 1.0 section 5: subject, action, resource, context.

    The arguments are properties of the resource, as are the fields of the fact that is the thing the tool
    acts on. Where both have one name it is the argument; the fact's own is in the context. The id of the
    resource is that of the thing, where the catalog or a fact says which argument names it.

    The names in the context are those of Cedar's context, with the time in seconds since the epoch as ``at``.
    Credentials and the user's own words are not in it.

    Raises:
        ValueError: The PDP has no name for the subject.
    """
    tool, who, arguments = request.tool, request.identity, request.arguments.values
    resource_id, properties = _resource(request, arguments)
    return {
        "subject": {
            "type": users.type,
            "id": users.id_of(who.subject),
            "properties": {"actor": who.actor, "chain": list(who.chain)},
        },
        "action": {"name": tool.name},
        "resource": {
            "type": tool.resource or "tool",
            "id": resource_id,
            "properties": properties,
        },
        "context": _context(request, arguments, inputs),
    }


def _resource(request: AccessRequest, arguments: dict[str, Json]) -> tuple[Json, dict[str, Json]]:
    """Return the id of what the call acts on, and what is known of it."""
    tool = request.tool
    thing = next((fact for fact in tool.facts if fact.resource), None)
    names = thing.keys[tool.name] if thing is not None else (tool.instance,) if tool.instance else ()
    key = [arguments.get(name) for name in names]
    whole = tool.resource or tool.name
    record = request.facts[thing.name] if thing is not None and thing.name in request.facts else None
    properties = {**record, **arguments} if isinstance(record, dict) else arguments
    if not key or None in key:
        return whole, properties
    if len(key) == 1 and isinstance(key[0], str):
        return key[0], properties
    return json.dumps(key[0] if len(key) == 1 else key), properties


def with_approval(question: Mapping[str, Json]) -> dict[str, Json]:
    """Return the same question as if a person had approved the call."""
    return {**question, "context": {**question["context"], "approval": dict(APPROVED)}}


@cache
def _writers(
    inputs: tuple[RuleInput, ...],
) -> tuple[list[str], dict[str, Callable[[object], dict[str, Json]]]]:
    """Return the names in the context, in order, and what writes each of its records ("" is itself)."""
    remote_inputs = [((row.remote or "").rpartition("."), row) for row in inputs if row.remote is not None]
    records = dict.fromkeys(["", *(record for (record, _, _), _ in remote_inputs)])
    order = list(dict.fromkeys(record or name for (record, _, name), _ in remote_inputs))
    return order, {
        record: writer_of([(name, row) for (of, _, name), row in remote_inputs if of == record], JSON_FORM)
        for record in records
    }


_write_origin = writer_of([(row.name, row) for row in ARGUMENT_INPUTS], JSON_FORM)


def _context(
    request: AccessRequest, arguments: Iterable[str], inputs: tuple[RuleInput, ...]
) -> dict[str, Json]:
    order, writers = _writers(inputs)
    values = writers[""](request)
    context = {
        name: writers[name](request) if name in writers else values[name]
        for name in order
        if name in writers or name in values
    }
    origins = request.provenance
    # a rule about unknown provenance must also apply to an argument that the request does not name
    if unlabeled := [name for name in arguments if name not in origins]:
        origins = {**dict.fromkeys(unlabeled, unknown_provenance(request.task)), **origins}
    context["provenance"]["args"] = {
        name: origin_form(_write_origin, origin) for name, origin in origins.items()
    }
    if (approval := approval_json(request)) is not None:
        context["approval"] = approval
    return context
