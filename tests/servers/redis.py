"""Redis from the system's package, with an append-only file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from redis import Redis as Client
from redis import RedisError

from tests.servers.server import Server, ServerError, free_port

__all__ = ["Redis"]


class Redis(Server):
    name = "redis"
    variable = "AGENTGUARD_TEST_REDIS"

    def install(self) -> None:
        program = shutil.which("redis-server")
        if not program:
            raise ServerError("redis: not installed; on Debian: apt-get install redis-server")
        self._program = program

    def start(self) -> Mapping[str, str]:
        port = free_port()
        options = {"bind": "127.0.0.1", "port": str(port), "dir": str(self.home)}
        options |= {"save": "", "appendonly": "yes", "appendfsync": "everysec"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        child = self.spawn(self._program, *words)
        self.wait(child, lambda: _answers(port))
        return {self.variable: f"redis://127.0.0.1:{port}/0"}


def _answers(port: int) -> bool:
    try:
        with Client(port=port, socket_timeout=2.0) as client:
            return bool(client.ping())
    except RedisError:
        return False
