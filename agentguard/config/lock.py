"""agentguard.lock beside agentguard.toml: digests of the tools' definitions, written by `agentguard pin`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from agentguard.errors import ConfigurationError
from agentguard.files import read_trusted
from agentguard.model.definition import PARTS, Digests, Pins

__all__ = ["lock_of", "read_pins", "write_pins"]


def lock_of(config: Path) -> Path:
    """Return the path of the lock file that belongs to an agentguard.toml."""
    return config.parent / "agentguard.lock"


def read_pins(file: Path) -> Pins | None:
    """Return what the lock file holds; None if there is no such file, so that no tool is pinned.

    Raises:
        ConfigurationError: The file cannot be read, others may write it, or `agentguard pin` has not written
            it.
    """
    try:
        content = json.loads(read_trusted(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(file) from error
    match content:
        case {"version": 1, "tools": dict() as tools} if all(map(_is_digests, tools.values())):
            return Pins(tools)
    raise _unreadable(file)


def write_pins(file: Path, tools: Mapping[str, Digests]) -> None:
    """Write the lock file anew, whole or not at all."""
    content = {"version": 1, "tools": {name: dict(tools[name]) for name in sorted(tools)}}
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    temporary.replace(file)


def _is_digests(value: object) -> bool:
    return isinstance(value, dict) and set(value) == set(PARTS)


def _unreadable(file: Path) -> ConfigurationError:
    hint = "restore it, or review the tools and run: agentguard pin MODULE:TOOLS"
    return ConfigurationError("this is no lock file of agentguard", hint=hint, file=file)
