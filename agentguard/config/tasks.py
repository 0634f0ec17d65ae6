"""``[tasks.NAME]``: templates of mandates, as agentguard.toml writes them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from agentguard.config.tables import Misplaced, Name, Scope, Table, listed
from agentguard.intent.templates import ALONE, Parameter, Template, holes, mixed
from agentguard.model import Budget

__all__ = ["ParameterSettings", "TaskSettings", "fits"]

Value = str | int | float | bool
Count = Annotated[int, Field(ge=0)]


def _spelled_out(value: object) -> object:
    """Return the table that ``"string?"`` is short for."""
    if not isinstance(value, str):
        return value
    return {"type": value.removesuffix("?"), "required": not value.endswith("?")}


class ParameterSettings(Table):
    """A blank: its type, and where it stands in the user's words."""

    type: Literal["string", "integer", "number"] = Field(
        default="string", description='type = "string", "integer" or "number"'
    )
    pattern: Name | None = Field(
        default=None, description=r"a regular expression, as in pattern = 'order (\d+)'"
    )
    required: bool = Field(default=True, description="true or false")


class TaskSettings(Table):
    """``[tasks.NAME]``: what a kind of task may touch at most."""

    when: tuple[Name, ...] = listed(r"regular expressions for the user's words, as in when = ['\brefund\b']")
    otherwise: bool = Field(default=False, description="true for the kind that is meant if no other is")
    tools: tuple[Name, ...] = listed('names from [tools], as in tools = ["get_order"]')
    resources: tuple[Name, ...] | None = listed('names from [resources], as in resources = ["orders"]', None)
    args: dict[Name, list[Value]] = Field(
        default_factory=dict, description='lists of values, as in args = { order_id = ["{order}"] }'
    )
    counterparties: tuple[Name, ...] | None = listed('a list, as in counterparties = ["{payee}"]', None)
    scopes: tuple[Scope, ...] | None = listed('a list without spaces in it, as in scopes = ["read"]', None)
    calls: Count | None = Field(default=None, description="how many calls, as in calls = 20")
    writes: Count | None = Field(default=None, description="how many calls that write, as in writes = 1")
    params: dict[Name, Annotated[ParameterSettings, BeforeValidator(_spelled_out)]] = Field(
        default_factory=dict, description='tables or types, as in params = { order = "string" }'
    )

    def template(self, name: str) -> Template:
        """Return it as a template."""
        return Template(
            name=name,
            tools=self.tools,
            when=self.when,
            resources=self.resources,
            args={argument: tuple(values) for argument, values in self.args.items()},
            counterparties=self.counterparties,
            scopes=self.scopes,
            budget=Budget(calls=self.calls, writes=self.writes),
            params={param: Parameter(**each.model_dump()) for param, each in self.params.items()},
            otherwise=self.otherwise,
        )


def fits(
    tasks: Mapping[str, TaskSettings], tools: Mapping[str, Collection[str] | None], resources: Collection[str]
) -> None:
    """Check what no single field can; *tools* have the names of their arguments, where these are known.

    Raises:
        Misplaced: A tool, a resource, an argument or a parameter does not exist, a regular expression is
            none, or two kinds are for all other words.
    """
    for name, task in tasks.items():
        at = ("tasks", name)
        _known(*at, "tools", names=task.tools, known=tools)
        _known(*at, "resources", names=task.resources or (), known=resources)
        _known(*at, "params", names=sorted(holes(task.model_dump())), known=task.params)
        for text in mixed(task.model_dump()):
            raise Misplaced(*at, "params", problem=f"{text!r} is more than a parameter", hint=ALONE)
        _arguments(name, task, tools)
        _pattern(*at, "when", patterns=task.when)
        for each in task.params.values():
            _pattern(*at, "params", patterns=() if each.pattern is None else (each.pattern,))
    if len(several := [name for name, task in tasks.items() if task.otherwise]) > 1:
        raise Misplaced(
            *("tasks", several[1], "otherwise"),
            problem=f"[tasks.{several[0]}] is for all other words already",
            hint="leave it out of one of them",
        )


def _known(*keys: str, names: Collection[str], known: Collection[str]) -> None:
    for each in names:
        if each not in known:
            raise Misplaced(
                *keys,
                problem=f"there is no {each!r}",
                hint=f"use one of: {', '.join(sorted(known)) or 'none yet'}",
            )


def _arguments(name: str, task: TaskSettings, tools: Mapping[str, Collection[str] | None]) -> None:
    taken = [tools[tool] for tool in task.tools]
    if any(arguments is None for arguments in taken):
        return  # not before the tools themselves are seen
    known = {argument for arguments in taken for argument in arguments or ()}
    known |= {f"{tool}.{argument}" for tool in task.tools for argument in tools[tool] or ()}
    _known("tasks", name, "args", names=tuple(task.args), known=known)


def _pattern(*keys: str, patterns: Collection[str]) -> None:
    for each in patterns:
        try:
            re.compile(each)
        except re.error as error:
            raise Misplaced(
                *keys,
                problem=f"{each!r} is no regular expression: {error}",
                hint="correct it; in TOML single quotes leave backslashes as they are",
            ) from None
