"""A request in JSON, and back: to ask other rules about what an audit log says has happened.

It holds the values of arguments and the user's words, so it is recorded only where an application says
so. What a tool is stands in the catalog and not in the record: rules are asked about the tools of today.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from agentguard.model import (
    AccessRequest,
    Arguments,
    Identity,
    Json,
    Mandate,
    Provenance,
    Sensitivity,
    TaskState,
    ToolSpec,
)

__all__ = ["recorded", "replayed"]

_FACTS = ("id", "purpose", "words", "kinds", "calls", "writes", "history", "untrusted", "lineage", "labels")


def recorded(request: AccessRequest) -> dict[str, Json]:
    """Return all that a policy is asked by this request, but for the approval, which is another question."""
    task, identity = request.task, request.identity
    facts = {name: getattr(task, name) for name in _FACTS}
    provenance = {
        name: {**asdict(each), "sources": sorted(each.sources)} for name, each in request.provenance.items()
    }
    return {
        "arguments": request.arguments.values,
        "identity": asdict(identity),
        "task": {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()},
            "sensitivity": int(task.sensitivity),
            "mandate": task.mandate.literal(),
            "deadline": task.deadline,
        },
        "origins": provenance,
        "environment": dict(request.environment),
        "legacy": request.legacy,
        "at": request.at,
    }


def replayed(record: Mapping[str, Any], tool: ToolSpec) -> AccessRequest:
    """Return the request that *record* holds, about the tool as it is known now.

    Raises:
        ValueError: The record is not one of `recorded`.
    """
    try:
        return _replayed(record, tool)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no recorded request: {type(error).__name__}: {error}") from error


def _replayed(record: Mapping[str, Any], tool: ToolSpec) -> AccessRequest:
    who, task, arguments = record["identity"], record["task"], record["arguments"]
    if not isinstance(arguments, Mapping):
        raise TypeError("the arguments are no object")
    identity = Identity(subject=who["subject"], actor=who["actor"], chain=tuple(who["chain"]))
    facts: dict[str, Any] = {name: tuple(v) if isinstance(v := task[name], list) else v for name in _FACTS}
    mandate = Mandate.of(task["mandate"])
    provenance = {
        name: Provenance(
            **{**each, "sources": frozenset(each["sources"]), "sensitivity": Sensitivity(each["sensitivity"])}
        )
        for name, each in record["origins"].items()
    }
    return AccessRequest(
        identity=identity,
        tool=tool,
        arguments=Arguments.of(arguments),
        task=replace(
            TaskState(id="", purpose="", identity=identity, mandate=mandate, deadline=task["deadline"]),
            sensitivity=Sensitivity(task["sensitivity"]),
            **facts,
        ),
        environment=dict(record["environment"]),
        legacy=record["legacy"],
        provenance=provenance,
        at=record["at"],
    )
