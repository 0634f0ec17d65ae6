"""Cedar's symbolic analysis, which says of all requests at once what some rules do with them.

It is a program of Cedar's, ``cedar symcc`` (https://github.com/cedar-policy/cedar), which asks the SMT solver
cvc5. Neither is a part of agentguard.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from agentguard.errors import ConfigurationError
from agentguard.policies.cedar.types import quoted
from agentguard.text import printable

__all__ = ["Analyzer", "Answer"]

TIMEOUT = 120.0
"""Seconds after which one question is given up."""
_HOLDS, _FAILS = "VERIFIED", "DOES NOT HOLD"
_PROGRAM = Path(__file__).with_name("cvc5_program.py")


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a property holds for all requests; else `example` is a request for which it does not."""

    holds: bool
    example: str = ""


class Analyzer:
    """Asks about the rules in *folder*, which is the caller's, by one schema.

    The program is ``cedar`` on the path, or what the environment variable CEDAR names; the solver is what
    CVC5 names, ``cvc5`` on the path, or the package cvc5.

    Raises:
        ConfigurationError: One of them is not installed.
    """

    def __init__(self, folder: Path, schema: str) -> None:
        self._folder = folder
        self._schema = folder / "schema.cedarschema"
        self._schema.write_text(schema, "utf-8")
        program = os.environ.get("CEDAR") or shutil.which("cedar")
        if program is None:
            raise ConfigurationError(
                "the analyzer of Cedar is not installed",
                hint="cargo install cedar-policy-cli --features analyze, or set CEDAR to the program",
            )
        self._cedar, self._solver = program, self._solver_program()

    def ask(self, property: str, tool: str, resource_type: str, **texts: str) -> Answer:
        """Return whether a property of ``cedar symcc`` holds for the rules in *texts*, by option.

        Raises:
            ConfigurationError: The analyzer or the solver has failed, or was too slow.
        """
        options = []
        for option, text in texts.items():
            file = self._folder / f"{option}.cedar"
            file.write_text(text, "utf-8")
            options += [f"--{option}", str(file)]
        command = [
            *(self._cedar, "symcc", "--cvc5-path", str(self._solver), "--principal-type", "Agent"),
            *("--action", f"Action::{quoted(tool)}", "--resource-type", resource_type),
            *("--schema", str(self._schema), property, *options),
        ]
        try:
            result = subprocess.run(  # noqa: S603  no shell; each argument is ours or a quoted name
                command, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(f"the analyzer has failed on {tool}: {type(error).__name__}") from error
        if result.returncode != 0 or (_HOLDS not in result.stdout and _FAILS not in result.stdout):
            lines = [line for line in result.stderr.splitlines() if line.strip()]
            raise ConfigurationError(
                f"the analyzer has failed on {printable(tool)}: {printable(' '.join(lines)[:500])}",
                hint="the program was built with --features analyze, and the solver is cvc5 1.3 or later",
            )
        if _FAILS not in result.stdout:
            return Answer(True)
        return Answer(False, result.stdout.partition("Counterexample found:")[2].strip())

    def _solver_program(self) -> Path:
        if (path := os.environ.get("CVC5") or shutil.which("cvc5")) is not None:
            return Path(path)
        if find_spec("cvc5") is None:
            raise ConfigurationError(
                "the solver cvc5 is not installed", hint="pip install 'agentguard[prove]', or set CVC5"
            )
        program = self._folder / "cvc5"
        program.write_text(
            f"#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(_PROGRAM))}\n", "utf-8"
        )
        program.chmod(stat.S_IRWXU)
        return program
