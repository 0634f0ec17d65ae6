"""Redis from the system's package, with an append-only file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from redis import AuthenticationError, RedisError
from redis import Redis as Client

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
        return {self.variable: self.serve(free_port())}

    def serve(self, port: int, **options: str) -> str:
        """Run it on *port*, with what an earlier one has left in its folder, and return its URL.

        An option's name is written with ``_`` in place of ``-``.
        """
        table = {"bind": "127.0.0.1", "port": str(port), "dir": str(self.home), "save": ""}
        table |= {"appendonly": "yes", "appendfsync": "everysec"}
        table |= {name.replace("_", "-"): value for name, value in options.items()}
        words = [word for name, value in table.items() for word in (f"--{name}", value)]
        self.child = self.spawn(self._program, *words)
        self.wait(self.child, lambda: _answers(port))
        return f"redis://127.0.0.1:{port}/0"


def _answers(port: int) -> bool:
    try:
        with Client(port=port, socket_timeout=2.0) as client:
            return bool(client.ping())
    except AuthenticationError:
        return True  # it wants a password
    except RedisError:
        return False
