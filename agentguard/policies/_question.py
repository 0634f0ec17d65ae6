"""The question to a policy decision point (PDP) beyond this process, as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

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
from agentguard.provenance.arguments import unknown_provenance

__all__ = ["SUBJECT_TYPE", "question", "with_approval"]

SUBJECT_TYPE = "identity"
"""The type of the question's subject, unless a PDP has a name of its own for the type of its users."""


def question(
    request: AccessRequest, inputs: tuple[RuleInput, ...] = INPUTS, *, subject_type: str = SUBJECT_TYPE
) -> dict[str, Json]:
    """Return the question in the shape of AuthZEN 1.0 section 5: subject, action, resource, context.

    The arguments are properties of the resource. The names in the context are those of Cedar's context, with
    the time in seconds since the epoch as ``at``. Credentials and the user's own words are not in it.
    """
    tool, who, arguments = request.tool, request.identity, request.arguments.values
    return {
        "subject": {
            "type": subject_type,
            "id": who.subject,
            "properties": {"actor": who.actor, "chain": list(who.chain)},
        },
        "action": {"name": tool.name},
        "resource": {
            "type": tool.resource or "tool",
            "id": tool.resource or tool.name,
            "properties": arguments,
        },
        "context": _context(request, arguments, inputs),
    }


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
    context = {name: values[name] if name in values else writers[name](request) for name in order}
    origins = request.provenance
    # a rule about unknown provenance must also apply to an argument that the request does not name
    if unlabeled := [name for name in arguments if name not in origins]:
        origins = {**dict.fromkeys(unlabeled, unknown_provenance(request.task)), **origins}
    context["provenance"]["args"] = {name: _write_origin(origin) for name, origin in origins.items()}
    if (approval := approval_json(request)) is not None:
        context["approval"] = approval
    return context
