"""PostgreSQL from the system's package: an empty database, and a superuser with a password."""

from __future__ import annotations

import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import psycopg

from tests.servers.server import Server, ServerError, free_port

__all__ = ["Postgres"]


class Postgres(Server):
    name = "postgres"
    user = "postgres"  # it refuses to be run by root
    farewell = signal.SIGINT  # a fast shutdown: sessions are ended, not awaited

    def install(self) -> None:
        # Debian keeps the programs of each version off the path
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        path = ":".join(map(str, folders)) or None
        programs = [shutil.which(name, path=path) or shutil.which(name) for name in ("initdb", "postgres")]
        if not all(programs):
            raise ServerError("postgres: not installed; on Debian: apt-get install postgresql")
        self._initdb, self._postgres = map(str, programs)

    def start(self) -> Mapping[str, str]:
        port, password = free_port(), secrets.token_urlsafe()
        data, secret = self.home / "data", self.home / "password"
        secret.touch(mode=0o600)
        if self._user:
            shutil.chown(secret, self._user)
        secret.write_text(password)
        self.run(
            *(self._initdb, "--pgdata", str(data), "--username", "agentguard", "--pwfile", str(secret)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync"),
        )
        settings = {
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.home),
            "fsync": "off",
            **self.settings(),
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._command = (self._postgres, "-D", str(data), *options)
        self.url = f"postgresql://agentguard:{password}@127.0.0.1:{port}/postgres"
        self._run()
        return {"AGENTGUARD_TEST_POSTGRES": self.url}

    def settings(self) -> Mapping[str, str]:
        """Return further settings of the server."""
        return {}

    def crash(self) -> None:
        """Have it end at once, as after a crash, and start again from its log."""
        self._child.send_signal(signal.SIGQUIT)  # an immediate shutdown
        self._child.wait(self.patience)
        self._run()

    def _run(self) -> None:
        self._child = self.spawn(*self._command)
        self.wait(self._child, lambda: _answers(self.url))


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
