"""What the catalog says of counting, read from its literal form and compared with a tool's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentguard.errors import ConfigurationError
from agentguard.model.counts import Counted

__all__ = ["LONGEST_WINDOW", "counted_of", "require_countable"]

LONGEST_WINDOW = 366 * 86_400
"""The most seconds of a sliding window."""
_KEYS = ("sum", "per", "user", "agent")
_HINT = 'counted = true, or as in counted = { sum = ["amount"], per = ["order_id"], user = { day = 86400 } }'


def counted_of(tool: str, literal: object, schema: Mapping[str, Any] | None = None) -> Counted | None:
    """Read what is counted of a tool's calls; None or False is nothing, and True the number of calls alone.

    Raises:
        ConfigurationError: It has another form, or does not fit the tool's arguments, if they are known.
    """
    if literal is None or literal is False:
        return None
    if isinstance(literal, Counted):
        counted = literal
    elif literal is True:
        counted = Counted()
    else:
        counted = _read(tool, literal)
    for windows in (counted.user, counted.agent):
        for name, seconds in windows.items():
            if not name or type(seconds) is not int or not 1 <= seconds <= LONGEST_WINDOW:
                raise ConfigurationError(
                    f"tool {tool}: the window {name!r} has no valid length",
                    hint=f"whole seconds, from 1 to {LONGEST_WINDOW}, by a name: user = {{ day = 86400 }}",
                )
    require_countable(tool, counted, schema)
    return counted


def _read(tool: str, literal: object) -> Counted:
    if not isinstance(literal, Mapping) or not set(literal) <= {*_KEYS}:
        raise ConfigurationError(f"tool {tool} has no valid counted", hint=_HINT)
    texts = {key: literal.get(key) or () for key in ("sum", "per")}
    windows = {key: literal.get(key) or {} for key in ("user", "agent")}
    if not all(isinstance(names, list | tuple) and all(map(_is_text, names)) for names in texts.values()):
        raise ConfigurationError(f"tool {tool} has no valid counted", hint=_HINT)
    if not all(isinstance(table, Mapping) for table in windows.values()):
        raise ConfigurationError(f"tool {tool} has no valid counted", hint=_HINT)
    return Counted(
        sum=tuple(sorted(set(texts["sum"]))),
        per=tuple(sorted(set(texts["per"]))),
        user=dict(windows["user"]),
        agent=dict(windows["agent"]),
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def require_countable(tool: str, counted: Counted | None, schema: Mapping[str, Any] | None) -> None:
    """Require that a tool has the arguments that are counted by, and that sums are of numbers.

    Raises:
        ConfigurationError: It has not.
    """
    if counted is None or schema is None:
        return
    properties: Mapping[str, Any] = schema.get("properties", {})
    for name in sorted(counted.arguments):
        if name not in properties:
            raise ConfigurationError(
                f"tool {tool} counts by {name}, which is none of its arguments",
                hint=f"use: {', '.join(sorted(properties)) or 'none: it has no arguments'}",
            )
    for name in counted.sum:
        if not _is_number(properties[name], schema):
            raise ConfigurationError(
                f"tool {tool} adds up {name}, which is no number", hint="sum = names of integers and decimals"
            )


def _is_number(part: Any, root: Mapping[str, Any], depth: int = 0) -> bool:
    """Return whether a schema is that of an integer or a decimal, or of null beside it.

    A decimal of pydantic may also be a text with a pattern.
    """
    if not isinstance(part, Mapping) or depth > 8:
        return False
    if isinstance(reference := part.get("$ref"), str):
        name = reference.removeprefix("#/$defs/")
        return _is_number(root.get("$defs", {}).get(name), root, depth + 1)
    branches = part.get("anyOf") or part.get("oneOf")
    if branches is None:
        kinds = part.get("type")
        names = kinds if isinstance(kinds, list) else [kinds]
        return bool(names) and {*map(str, names)} <= {"integer", "number", "null"} and names != ["null"]
    numbers = [branch for branch in branches if _is_number(branch, root, depth + 1)]
    rest = [branch for branch in branches if branch not in numbers]
    return bool(numbers) and all(isinstance(one, Mapping) and _is_beside(one) for one in rest)


def _is_beside(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "null" or (part.get("type") == "string" and "pattern" in part)
