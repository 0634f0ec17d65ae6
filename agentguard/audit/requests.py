"""Requests written as JSON and read back, so that other rules can decide on recorded calls.

A recorded request holds the values of arguments and the user's words, so it is recorded only if the
application says so. The classification of a tool is not recorded: a replayed request is about the tool as the
catalog classifies it today. The table in `agentguard.model.inputs` says which other values are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from agentguard.model import AccessRequest, Arguments, Identity, Json, Provenance, TaskState, ToolSpec
from agentguard.model.inputs import (
    ARGUMENT_INPUTS,
    FROM_JSON,
    INPUTS,
    JSON_FORM,
    REQUIRED,
    RuleInput,
    writer_of,
)

__all__ = ["recorded", "replayed"]

Inputs = tuple[RuleInput, ...]


class _Field(NamedTuple):
    """A recorded value: its name, what reads it from JSON, and what stands for it where it is absent."""

    name: str
    read: Callable[[Json], Any] | None
    absent: Json


@cache
def _fields(inputs: Inputs, part: str) -> tuple[_Field, ...]:
    """Return the recorded values in one part of a record ("" stands for the record itself)."""
    parted = ((row.source.rpartition("."), row) for row in inputs if row.on_record)
    return tuple(
        _Field(name, FROM_JSON.get(row.type), row.absent) for (of, _, name), row in parted if of == part
    )


@cache
def _writer(inputs: Inputs, part: str) -> Callable[[object], dict[str, Json]]:
    """Return what writes one part of the record of a request."""
    parted = ((row.source.rpartition("."), row) for row in inputs if row.on_record)
    return writer_of([(name, row) for (of, _, name), row in parted if of == part], JSON_FORM)


_write_origin = _writer(ARGUMENT_INPUTS, "")


def recorded(request: AccessRequest, inputs: Inputs = INPUTS) -> dict[str, Json]:
    """Return the request as JSON, without the approval: a replayed request has none."""
    return {
        "arguments": request.arguments.values,
        "identity": _writer(inputs, "identity")(request),
        "task": _writer(inputs, "task")(request),
        "origins": {name: _origin_json(origin) for name, origin in request.provenance.items()},
        **_writer(inputs, "")(request),
    }


def _origin_json(origin: Provenance) -> dict[str, Json]:
    form = _write_origin(origin)
    for part, origins in (("inside", origin.inside), ("texts", origin.texts)):
        if origins:
            form[part] = {name: _origin_json(inner) for name, inner in origins.items()}
    return form


def _origin(record: Mapping[str, Any]) -> Provenance:
    inside, texts = (
        {name: _origin(inner) for name, inner in record.get(part, {}).items()} for part in ("inside", "texts")
    )
    return Provenance(**_read(record, ARGUMENT_INPUTS, ""), inside=inside, texts=texts)


def replayed(record: Mapping[str, Any], tool: ToolSpec, inputs: Inputs = INPUTS) -> AccessRequest:
    """Return the request that *record* holds, about the tool as it is known now.

    Raises:
        ValueError: The record was not made by `recorded`.
    """
    try:
        return _replayed(record, tool, inputs)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no recorded request: {type(error).__name__}: {error}") from error


def _replayed(record: Mapping[str, Any], tool: ToolSpec, inputs: Inputs) -> AccessRequest:
    arguments = record["arguments"]
    if not isinstance(arguments, Mapping):
        raise TypeError("the arguments are no object")
    of_request, of_identity, of_task = (_read(record, inputs, part) for part in ("", "identity", "task"))
    identity = Identity(**of_identity)
    return AccessRequest(
        identity=identity,
        tool=tool,
        arguments=Arguments.of(arguments),
        task=TaskState(identity=identity, **of_task),
        provenance={argument: _origin(origin) for argument, origin in record["origins"].items()},
        **of_request,
    )


def _read(record: Mapping[str, Any], inputs: Inputs, part: str) -> dict[str, Any]:
    """Return the values that stand in one part of the record, by their names."""
    source, values = record[part] if part else record, dict[str, Any]()
    for name, read, absent in _fields(inputs, part):
        value = source[name] if absent is REQUIRED else source.get(name, absent)
        values[name] = value if read is None else read(value)
    return values
