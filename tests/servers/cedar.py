"""The programs of `agentguard prove`: Cedar's analyzer, from crates.io, and the solver cvc5, from PyPI."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.servers.cache import kept, venv
from tests.servers.server import Server, ServerError

__all__ = ["Cedar"]

_VERSION, _SOLVER = "4.14.1", "cvc5==1.4.2"
_SHIM = Path(__file__).parents[2] / "agentguard/cli/prove/cvc5_program.py"


class Cedar(Server):
    name = "cedar"

    def install(self) -> None:
        cargo = shutil.which("cargo")
        if cargo is None:
            raise ServerError("cedar: cargo is not installed, which builds its analyzer")

        def build(folder: Path) -> None:
            features = ("--features", "analyze", "--locked", "--version", _VERSION)
            self.run(cargo, "install", "cedar-policy-cli", *features, "--root", str(folder))

        self._program = kept(f"cedar-{_VERSION}", build) / "bin/cedar"
        self._python = venv(_SOLVER, self.run) / "bin/python"

    def start(self) -> Mapping[str, str]:
        solver = self.home / "cvc5"
        solver.write_text(f'#!/bin/sh\nexec "{self._python}" "{_SHIM}"\n')
        solver.chmod(0o755)
        return {"AGENTGUARD_TEST_CEDAR": str(self._program), "AGENTGUARD_TEST_SOLVER": str(solver)}
