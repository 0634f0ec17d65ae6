"""The files of scenarios: what a user says, what the agent reads and calls, and what is decided of each call.

[[scenario]]
name = "a small refund of the user's own order"
words = "Please refund order A-1."
facts.order.A-1 = { status = "pending", owner = "user://ada" }

[[scenario.step]]
tool = "get_order"
args = { order_id = "A-1" }
result = { total = 30 }

[[scenario.step]]
tool = "refund_order"
args = { order_id = "A-1", amount = 30 }
expect = "permit"
by = "small-refunds"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from agentguard.config.tables import Table
from agentguard.errors import ConfigurationError, safe_text
from agentguard.text import printable

__all__ = ["Scenario", "Step", "files_beside", "read_scenarios"]

SUFFIX = "scenarios.toml"


class Step(Table):
    """One step: the user says something more (`says`), the application renews the mandate, or a call.

    `result` is what the stand-in for the tool returns, and with `fails` it raises an error. `expect` is what
    is to be decided, `by` the id of a rule that decides it, `code` the code of the denial; without one, a
    call that could not be judged is not as expected. `answer` is what the person says who is asked about the
    call; after a yes it has to run.
    """

    says: str | None = None
    renew: dict[str, Any] | None = None
    tool: str | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    result: Any = "done"
    fails: bool = False
    expect: Literal["permit", "ask", "deny"] = "permit"
    by: str | None = None
    code: str | None = None
    answer: Literal["yes", "no"] = "no"

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if sum(part is not None for part in (self.says, self.renew, self.tool)) != 1:
            raise ValueError("a step has one of says, renew and tool")
        if self.code is not None and self.expect != "deny":
            raise ValueError("only a denial has a code")
        return self


class Scenario(Table):
    """One task and its steps, for the user *subject* by the agent *agent* (by default that of the file).

    `at` is the time of its calls, with an offset or Z, by default the present. `mandate` is the task's;
    without one it is made of the words by the tables ``[tasks]``, and if there are none it allows all.
    `facts` are the records by the name of the fact and by their key; the parts of a key of several arguments
    have a comma between them.
    """

    name: str = Field(min_length=1)
    subject: str = "user://someone"
    agent: str = ""
    purpose: str = "test"
    words: str = ""
    at: AwareDatetime | None = None
    mandate: dict[str, Any] | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = Field(default_factory=dict)
    step: tuple[Step, ...] = Field(strict=False, min_length=1)


class _File(Table):
    scenario: tuple[Scenario, ...] = Field(strict=False, min_length=1)


def files_beside(config: Path) -> list[Path]:
    """Return the files of scenarios in the folder of a configuration, in the order of their names."""
    return sorted(config.parent.glob(f"*{SUFFIX}"))


def read_scenarios(files: Iterable[Path]) -> list[tuple[Path, Scenario]]:
    """Return the scenarios of these files, each with its file.

    Raises:
        ConfigurationError: A file cannot be read, is no TOML, or has something else in it.
    """
    return [(file, scenario) for file in files for scenario in _read(file).scenario]


def _read(file: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(file.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"the scenarios cannot be read: {safe_text(error)}", file=file) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{printable(place)}: {printable(first['msg'])}",
            hint="see the docstring of agentguard.cli.test.scenarios",
            file=file,
        ) from None
