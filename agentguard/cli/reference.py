"""`agentguard reference`: each setting, each reason for a denial and each command, written from the code."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperCommand, TyperGroup

from agentguard.config.settings import Settings
from agentguard.config.tables import Table
from agentguard.errors import ADVICE, DenialCode
from agentguard.errors.remedies import REMEDIES

__all__ = ["Part", "command", "commands", "denials", "page", "settings"]


class Part(StrEnum):
    """A part of the reference."""

    SETTINGS = "settings"
    DENIALS = "denials"
    COMMANDS = "commands"


def command(
    context: typer.Context,
    part: Annotated[Part | None, typer.Argument(help="Print this part alone.")] = None,
) -> None:
    """Print each key of agentguard.toml, each reason for a denial, and each command, as Markdown."""
    root = cast("TyperGroup", context.find_root().command)
    typer.echo(page(root) if part is None else "\n".join(_lines(part, root)))


def page(root: TyperGroup) -> str:
    """Return the whole reference as Markdown; *root* is the command line."""
    head = ["# Reference", "", "`agentguard reference` writes this page from the code.", ""]
    return "\n".join([*head, *settings(), *denials(), *commands(root)])


def _lines(part: Part, root: TyperGroup) -> Iterator[str]:
    match part:
        case Part.SETTINGS:
            return settings()
        case Part.DENIALS:
            return denials()
        case Part.COMMANDS:
            return commands(root)


# --- agentguard.toml


def settings() -> Iterator[str]:
    """Yield a section for each table of agentguard.toml, with each key, its default and what it means."""
    yield from ("## agentguard.toml", "")
    for name, field in Settings.model_fields.items():
        if name != "file":
            yield from _tables(name, field)


def _tables(name: str, field: FieldInfo) -> Iterator[str]:
    """Yield the sections of one key of the file: of its table, of its tables by name, or of its value."""
    is_named = get_origin(field.annotation) is dict
    kinds = list(_models(field.annotation))
    if not kinds:
        text = field.description or ""
        yield from (f"### [{name}]", "", f"{text[:1].upper()}{text[1:]}.", "")
    for kind in kinds:
        title = f"[{name}.NAME]" if is_named else f"[{name}]"
        words = get_args(kind.model_fields["kind"].annotation) if "kind" in kind.model_fields else ()
        word = f', kind = "{words[0]}"' if len(words) == 1 else ""
        yield from (f"### {title}{word}", "", _summary(kind), "")
        yield from ("| key | default | |", "|---|---|---|")
        yield from (_row(key, of) for key, of in kind.model_fields.items() if not (word and key == "kind"))
        yield ""


def _models(annotation: Any) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    elif get_origin(annotation) in (dict, UnionType, Union, Annotated):
        for part in get_args(annotation):
            yield from _models(part)


def _summary(kind: type[Table]) -> str:
    """Return what the first paragraph of the docstring says, without the name of the table."""
    paragraph = " ".join((kind.__doc__ or "").strip().partition("\n\n")[0].replace("``", "`").split())
    text = paragraph.partition(": ")[2] if paragraph.startswith("`") else paragraph
    return f"{text[:1].upper()}{text[1:]}"


def _row(key: str, field: FieldInfo) -> str:
    if field.is_required():
        default = "required"
    elif (value := field.get_default(call_default_factory=True)) in (None, (), {}, PydanticUndefined):
        default = ""
    else:
        default = f"`{_toml(value)}`"
    words = [f"{field.description or ''}", *_nested(field.annotation)]
    return f"| `{field.alias or key}` | {default} | {_cell('; '.join(words))} |"


def _nested(annotation: Any) -> Iterator[str]:
    """Yield the keys of tables that stand in a value."""
    for kind in _models(annotation):
        yield ", ".join(f"`{key}`: {field.description}" for key, field in kind.model_fields.items())


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple() | list():
            return f"[{', '.join(map(_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# --- denials


def denials() -> Iterator[str]:
    """Yield a table of all denial codes: what an operator does, and what a model reads."""
    yield from (
        "## Why calls are denied",
        "",
        "The code is in the audit record and on the span of each denial.",
        "",
    )
    yield from ("| code | what to do | what the model reads |", "|---|---|---|")
    for code in DenialCode:
        yield f"| `{code}` | {_cell(REMEDIES[code])} | {_cell(ADVICE[code])} |"
    yield ""


# --- commands


def commands(root: TyperGroup) -> Iterator[str]:
    """Yield a section for each command of the command line, with its arguments and options."""
    yield from ("## Commands", "")
    yield from _command(root, "agentguard")


def _command(command: TyperGroup | TyperCommand, name: str) -> Iterator[str]:
    if isinstance(command, TyperGroup):
        for key, inner in command.commands.items():
            yield from _command(cast("TyperCommand", inner), f"{name} {key}")
        return
    with typer.Context(command, info_name=name) as context:
        usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"### {name}", "", f"`{name} {usage}`", "")
    yield from ((command.help or "").replace("\b\n", "").strip(), "")
    options = [option for option in command.params if option.param_type_name == "option"]
    for option in options:
        yield f"- `{', '.join(option.opts)}`: {_cell(getattr(option, 'help', None) or '')}"
    yield from ("",) if options else ()
