"""A tool's classification, read from its literal form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentguard.errors import ConfigurationError
from agentguard.model.counted import counted_of
from agentguard.model.provenance import Sensitivity
from agentguard.model.tool import RECOGNIZED, ToolPath, ToolSpec

__all__ = ["spec_of"]

_KEYS = {
    *("path", "resource", "scopes", "sinks", "untrusted", "trusted", "sensitivity", "clearance"),
    *("server", "source", "instance", "recognized", "counted", "records"),
}


def spec_of(name: str, facts: Mapping[str, Any], schema: Mapping[str, Any] | None = None) -> ToolSpec:
    """Read a classification from its literal form, by the names of the fields of `ToolSpec`.

    Raises:
        ConfigurationError: A key or a level is unknown, or the path is missing or none of the three.
    """
    unknown = set(facts) - _KEYS
    if unknown:
        raise ConfigurationError(
            f"tool {name}: unknown {', '.join(sorted(unknown))}",
            hint=f"use {', '.join(sorted(_KEYS))}",
        )
    try:
        path = ToolPath(str(facts["path"]).lower())
    except (KeyError, ValueError) as error:
        raise ConfigurationError(
            f"tool {name} has no valid path", hint='path = "read", "write" or "escalation"'
        ) from error
    return ToolSpec(
        name=name,
        path=path,
        resource=facts.get("resource"),
        scopes=frozenset(facts.get("scopes", ())),
        sinks=frozenset(facts.get("sinks", ())),
        untrusted=bool(facts.get("untrusted", False)),
        trusted=frozenset(facts.get("trusted", ())),
        sensitivity=_level(name, "sensitivity", facts, Sensitivity.PUBLIC),
        clearance=_level(name, "clearance", facts, Sensitivity.RESTRICTED),
        schema=schema,
        server=facts.get("server"),
        source=facts.get("source"),
        instance=facts.get("instance"),
        recognized=_forms(name, facts.get("recognized", {})),
        counted=counted_of(name, facts.get("counted"), schema),
        records={
            field: {voucher: frozenset(sources) for voucher, sources in vouchers.items()}
            for field, vouchers in facts.get("records", {}).items()
        },
    )


def _forms(tool: str, forms: Mapping[str, str]) -> dict[str, str]:
    if unknown := sorted(f"{form}" for form in forms.values() if form not in RECOGNIZED):
        raise ConfigurationError(
            f"tool {tool} recognizes values in the unknown form {unknown[0]}",
            hint=f"use {', '.join(RECOGNIZED)}",
        )
    return dict(forms)


def _level(tool: str, key: str, facts: Mapping[str, Any], otherwise: Sensitivity) -> Sensitivity:
    level = facts.get(key)
    if level is None or isinstance(level, Sensitivity):
        return otherwise if level is None else level
    try:
        return Sensitivity.named(str(level))
    except ValueError as error:
        raise ConfigurationError(
            f"tool {tool} has no valid {key}", hint=str(error).replace("is none of", "should be one of")
        ) from None
