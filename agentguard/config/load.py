"""From the text of agentguard.toml to Settings; every mistake says where it is and how to correct it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from agentguard.config.positions import line_of, places
from agentguard.config.settings import Settings
from agentguard.config.tables import Misplaced
from agentguard.errors import ConfigurationError

__all__ = ["load", "place"]

_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load(path: str | Path) -> Settings:
    """Read agentguard.toml. Opens no other file, and makes none.

    Raises:
        ConfigurationError: The file cannot be read, is no TOML, or says what it may not: for the
            first mistake, with file, line and hint.
    """
    file = Path(path)
    text = _text(file)
    data = _parsed(text, file)
    try:
        if "file" in data:
            raise Misplaced("file", problem="unknown key", hint=_suggestion(Settings, "file"))
        return Settings.model_validate({**data, "file": file})
    except ValidationError as error:
        keys, problem, hint = _first(error)
        line = line_of(places(text), keys)
        raise ConfigurationError(problem, hint=hint, file=file, line=line) from None  # it may hold values
    except Misplaced as error:
        line = line_of(places(text), error.keys)
        raise ConfigurationError(error.problem, hint=error.hint, file=file, line=line) from None


def place(settings: Settings, *keys: str) -> tuple[Path, int | None]:
    """Return file and line of *keys*, for a mistake that is found later; no line without the file."""
    line = None
    with suppress(ConfigurationError):
        line = line_of(places(_text(settings.file)), keys)
    return settings.file, line


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the file cannot be read: {type(error).__name__}",
            hint="`agentguard init` writes one; it is UTF-8 text",
            file=file,
        ) from error


def _parsed(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        at = _AT.search(str(error))
        line = int(at[1]) if at and at[1] else text.count("\n") + 1 if at else None
        what = _AT.sub("", str(error)) if at else type(error).__name__
        raise ConfigurationError(
            f"this is no TOML: {what}", hint="correct the syntax here: https://toml.io", file=file, line=line
        ) from error


def _first(error: ValidationError) -> tuple[tuple[str, ...], str, str]:
    """Return the keys, the problem and the hint of the first of pydantic's errors."""
    first: Mapping[str, Any] = error.errors(include_url=False, include_context=False, include_input=False)[0]
    loc = tuple(part for part in first["loc"] if isinstance(part, str) and part != "[key]")
    keys, kind = _untagged(loc)
    name = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return keys, f"{name}: unknown key", _suggestion(_table(keys[:-1], kind), keys[-1])
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = ", ".join(f'"{each}"' for each in _kinds(keys[0]))
        return (*keys, "kind"), f"{name}: it has no kind that is known", f"use one of {kinds} as its kind"
    problem = first["msg"].removeprefix("Input ").replace("Field required", "is missing")
    return keys, f"{name}: {problem}", _description(keys, kind)


def _untagged(loc: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Return the keys as they stand in the file, and the kind of the table that pydantic names among them."""
    place = {"identity": 1, "brokers": 2, "pdps": 2}.get(loc[0])
    if place is None or len(loc) <= place:
        return loc, None
    return loc[:place] + loc[place + 1 :], loc[place]


def _kinds(section: str) -> dict[str, type[BaseModel]]:
    """Return the tables that a section with kinds may hold."""
    annotation: Any = Settings.model_fields[section].annotation
    union = get_args(get_args(annotation)[-1])[0] if section in ("brokers", "pdps") else annotation
    return {get_args(table.model_fields["kind"].annotation)[0]: table for table in get_args(union)}


def _table(keys: tuple[str, ...], kind: str | None) -> type[Any]:
    """Return the type of the table at *keys*, or of its values where its names are free."""
    if not keys:
        return Settings
    if kind is not None:
        return _kinds(keys[0])[kind]
    annotation: Any = Settings.model_fields[keys[0]].annotation
    table: type[Any] = (get_args(annotation) or (annotation,))[-1]
    return table


def _suggestion(table: type[Any], wrong: str) -> str:
    known = [name for name in table.model_fields if name != "file"]
    close = get_close_matches(wrong, known, 1)
    return f"did you mean {close[0]}?" if close else f"remove it; known are: {', '.join(known)}"


def _description(keys: tuple[str, ...], kind: str | None) -> str:
    """Return what the settings say of the field at *keys*, or of the table that holds it."""
    inner = _table(keys[:1], kind)
    depth = 2 if keys[0] in ("brokers", "pdps", "resources", "signals", "tasks", "tools") else 1
    known = isinstance(inner, type) and issubclass(inner, BaseModel) and len(keys) > depth
    own = inner.model_fields.get(keys[depth]) if known else None
    return (own or Settings.model_fields[keys[0]]).description or ""
