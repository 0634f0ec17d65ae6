"""From the text of agentguard.toml to `Settings`. Each error says where it is and how to correct it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from agentguard.config.positions import line_of, positions
from agentguard.config.settings import Settings
from agentguard.config.tables import SettingError
from agentguard.errors import ConfigurationError, safe_text
from agentguard.files import read_trusted

__all__ = ["load", "position_of"]

_OF_NAMES = {"brokers", "facts", "pdps", "resources", "signals", "sources", "tasks", "tools"}
_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load(path: str | Path) -> Settings:
    """Read agentguard.toml. No other file is opened or made.

    Raises:
        ConfigurationError: The file cannot be read, is not TOML, or has a wrong setting. The error is
            about the first mistake and has its file, its line and a hint.
    """
    file = Path(path)
    text = _text(file)
    data = _parse(text, file)
    try:
        if "file" in data:
            raise SettingError("file", problem="unknown key", hint=_suggestion(Settings, "file"))
        return Settings.model_validate({**data, "file": file})
    except ValidationError as error:
        keys, problem, hint = _first(error)
        line = line_of(positions(text), keys)
        raise ConfigurationError(
            problem, hint=hint, file=file, line=line
        ) from None  # pydantic's error may hold values
    except SettingError as error:
        line = line_of(positions(text), error.keys)
        raise ConfigurationError(error.problem, hint=error.hint, file=file, line=line) from None


def position_of(settings: Settings, *keys: str) -> tuple[Path, int | None]:
    """Return the file and the line of *keys*. The line is None if the file can no longer be read."""
    line = None
    with suppress(ConfigurationError):
        line = line_of(positions(_text(settings.file)), keys)
    return settings.file, line


def _text(file: Path) -> str:
    try:
        return read_trusted(file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the file cannot be read: {safe_text(error)}",
            hint="`agentguard init` writes a new one, in UTF-8",
            file=file,
        ) from error


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        lines = text.splitlines()
        deepest = max(range(len(lines)), key=lambda n: lines[n].count("[") + lines[n].count("{"))
        raise ConfigurationError(
            "this is not TOML that anybody can read: its lists and tables are nested too deeply",
            hint="correct the line with the most brackets",
            file=file,
            line=deepest + 1,
        ) from None
    except ValueError as error:
        match = _AT.search(str(error))
        line = int(match[1]) if match and match[1] else text.count("\n") + 1 if match else None
        problem = _AT.sub("", str(error)) if match else type(error).__name__
        raise ConfigurationError(
            f"this is not TOML: {problem}",
            hint="correct the syntax here: https://toml.io",
            file=file,
            line=line,
        ) from error


def _first(error: ValidationError) -> tuple[tuple[str, ...], str, str]:
    """Return the keys, the problem and the hint of the first of pydantic's errors."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first: Mapping[str, Any] = errors[0]
    if first["type"] == "missing":
        first = next((other for other in errors if _misspells(other, first["loc"])), first)
    loc = tuple(part for part in first["loc"] if isinstance(part, str) and part != "[key]")
    keys, kind = _without_kind(loc)
    name = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return keys, f"{name}: unknown key", _suggestion(_table(keys[:-1], kind), keys[-1])
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = ", ".join(f'"{name}"' for name in _kinds(keys[0]))
        return (*keys, "kind"), f"{name}: its kind is missing or unknown", f"use one of {kinds} as its kind"
    problem = first["msg"].removeprefix("Input ").replace("Field required", "is missing")
    return keys, f"{name}: {problem}", _description(keys, kind)


def _misspells(error: Mapping[str, Any], missing: tuple[str | int, ...]) -> bool:
    """Return whether the error is about an unknown key beside *missing* that is nearly spelled like it."""
    *table, key = error["loc"]
    is_beside = error["type"] == "extra_forbidden" and tuple(table) == missing[:-1]
    return is_beside and bool(get_close_matches(str(key), [str(missing[-1])]))


def _without_kind(loc: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Return the keys as the file has them, without the kind that pydantic adds; and that kind."""
    index = {"identity": 1, "brokers": 2, "pdps": 2, "facts": 2}.get(loc[0])
    if index is None or len(loc) <= index:
        return loc, None
    return loc[:index] + loc[index + 1 :], loc[index]


def _kinds(section: str) -> dict[str, type[BaseModel]]:
    """Return the settings classes of a section, by their kinds."""
    annotation: Any = Settings.model_fields[section].annotation
    union = get_args(get_args(annotation)[-1])[0] if section in ("brokers", "facts", "pdps") else annotation
    return {get_args(table.model_fields["kind"].annotation)[0]: table for table in get_args(union)}


def _table(keys: tuple[str, ...], kind: str | None) -> type[Any]:
    """Return the settings class of the table at *keys*, or of its values if its keys are free names."""
    if not keys:
        return Settings
    if kind is not None:
        return _kinds(keys[0])[kind]
    annotation: Any = Settings.model_fields[keys[0]].annotation
    table: type[Any] = (get_args(annotation) or (annotation,))[-1]
    return table


def _suggestion(table: type[Any], wrong: str) -> str:
    keys = [name for name in table.model_fields if name != "file"]
    close = get_close_matches(wrong, keys, 1)
    return f"did you mean {close[0]}?" if close else f"remove it, or use one of: {', '.join(keys)}"


def _description(keys: tuple[str, ...], kind: str | None) -> str:
    """Return the description of the field at *keys*, or else of the table that holds it."""
    inner = _table(keys[:1], kind)
    depth = 2 if keys[0] in _OF_NAMES else 1
    has_field = isinstance(inner, type) and issubclass(inner, BaseModel) and len(keys) > depth
    field = inner.model_fields.get(keys[depth]) if has_field else None
    return (field or Settings.model_fields[keys[0]]).description or ""
