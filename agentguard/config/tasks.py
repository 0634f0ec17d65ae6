"""``[tasks.NAME]``: templates of mandates."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from agentguard.config.tables import Name, Scope, SettingError, Table, list_field
from agentguard.intent.templates import ALONE, Parameter, Template, holes, mixed
from agentguard.model import Budget
from agentguard.model.declared import declared_in
from agentguard.model.looks import Looks, looks_in

__all__ = ["ParameterSettings", "TaskSettings", "validate_tasks"]

Value = str | int | float | bool
Count = Annotated[int, Field(ge=0)]


def _parameter_table(value: object) -> object:
    """Return the table that a shorthand such as ``"string?"`` stands for."""
    if not isinstance(value, str):
        return value
    return {"type": value.removesuffix("?"), "required": not value.endswith("?")}


class ParameterSettings(Table):
    """A parameter: its type, and where it stands in the user's words."""

    type: Literal["string", "integer", "number"] = Field(
        default="string", description='type = "string", "integer" or "number"'
    )
    pattern: Name | None = Field(
        default=None, description=r"a regular expression, as in pattern = 'order (\d+)'"
    )
    required: bool = Field(default=True, description="true or false")


class TaskSettings(Table):
    """``[tasks.NAME]``: the limits of one kind of task."""

    when: tuple[Name, ...] = list_field(
        r"regular expressions for the user's words, as in when = ['\brefund\b']"
    )
    otherwise: bool = Field(
        default=False, description="true for the kind of all requests that no other kind matches"
    )
    tools: tuple[Name, ...] = list_field('names from [tools], as in tools = ["get_order"]')
    resources: tuple[Name, ...] | None = list_field(
        'names from [resources], as in resources = ["orders"]', None
    )
    args: dict[Name, list[Value]] = Field(
        default_factory=dict,
        description='lists of values, as in args = { order_id = ["{order}"], "items.kind" = ["book"] }',
    )
    counterparties: tuple[Name, ...] | None = list_field('a list, as in counterparties = ["{payee}"]', None)
    scopes: tuple[Scope, ...] | None = list_field(
        'a list without spaces in it, as in scopes = ["read"]', None
    )
    calls: Count | None = Field(default=None, description="how many calls, as in calls = 20")
    writes: Count | None = Field(default=None, description="how many calls that write, as in writes = 1")
    questions: Count | None = Field(
        default=None, description="how many questions to persons, as in questions = 3"
    )
    choice_bits: Count | None = Field(
        default=None,
        description="how many bits its calls say by the choice among values that are vouched for, as in"
        " choice_bits = 512",
    )
    params: dict[Name, Annotated[ParameterSettings, BeforeValidator(_parameter_table)]] = Field(
        default_factory=dict, description='tables or types, as in params = { order = "string" }'
    )

    def template(self, name: str) -> Template:
        """Return the template with the name *name*."""
        return Template(
            name=name,
            tools=self.tools,
            when=self.when,
            resources=self.resources,
            args={argument: tuple(values) for argument, values in self.args.items()},
            counterparties=self.counterparties,
            scopes=self.scopes,
            budget=Budget(
                calls=self.calls,
                writes=self.writes,
                questions=self.questions,
                choice_bits=self.choice_bits,
            ),
            params={name: Parameter(**param.model_dump()) for name, param in self.params.items()},
            otherwise=self.otherwise,
        )


def validate_tasks(
    tasks: Mapping[str, TaskSettings], tools: Mapping[str, Collection[str] | None], resources: Collection[str]
) -> None:
    """Check the tasks against the tools and resources. *tools* maps a tool to its arguments, if known.

    Raises:
        SettingError: A tool, a resource, an argument or a parameter does not exist, a regular expression
            is wrong, or two kinds have ``otherwise``.
    """
    for name, task in tasks.items():
        keys = ("tasks", name)
        _require_known(*keys, "tools", names=task.tools, choices=tools)
        _require_known(*keys, "resources", names=task.resources or (), choices=resources)
        _require_known(*keys, "params", names=sorted(holes(task.model_dump())), choices=task.params)
        for text in mixed(task.model_dump()):
            raise SettingError(*keys, "params", problem=f"{text!r} is more than a parameter", hint=ALONE)
        _require_arguments(name, task, tools)
        _require_patterns(*keys, "when", patterns=task.when)
        for param in task.params.values():
            _require_patterns(*keys, "params", patterns=() if param.pattern is None else (param.pattern,))
    if len(defaults := [name for name, task in tasks.items() if task.otherwise]) > 1:
        raise SettingError(
            *("tasks", defaults[1], "otherwise"),
            problem=f"[tasks.{defaults[0]}] has otherwise = true already",
            hint="remove it from one of them",
        )


def _require_known(*keys: str, names: Collection[str], choices: Collection[str]) -> None:
    for name in names:
        if name not in choices:
            raise SettingError(
                *keys,
                problem=f"there is no {name!r}",
                hint=f"use one of: {', '.join(sorted(choices)) or 'none yet'}",
            )


def _require_arguments(name: str, task: TaskSettings, tools: Mapping[str, Collection[str] | None]) -> None:
    of_tools = [tools[tool] for tool in task.tools]
    if any(arguments is None for arguments in of_tools):
        return  # their names are known only when the guard has the tools themselves
    argument_names = set[str]()
    for tool in task.tools:
        paths = set(_paths(looks_in(declared_in({"properties": tools[tool]}))))
        argument_names |= paths | {f"{tool}.{path}" for path in paths}
    _require_known("tasks", name, "args", names=tuple(task.args), choices=argument_names)


def _paths(looks: Looks) -> Iterator[str]:
    """Yield the arguments, and the fields inside of them as ``argument.field``."""
    for name, look in looks.items():
        yield name
        yield from (f"{name}.{path}" for path in _paths(look.fields))


def _require_patterns(*keys: str, patterns: Collection[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingError(
                *keys,
                problem=f"{pattern!r} is not a regular expression: {error}",
                hint="correct it; in TOML single quotes leave backslashes as they are",
            ) from None
