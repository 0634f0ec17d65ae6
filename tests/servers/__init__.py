"""The real servers that the tests in ``tests/real`` speak to.

    python -m tests.servers [--only NAME,…] [--without NAME,…] -- COMMAND…

installs what is missing into a cache outside the tree (``$AGENTGUARD_CACHE``, or else
``~/.cache/agentguard``), starts each server on a free loopback port with its state in a private
temporary folder, runs COMMAND with the variables ``AGENTGUARD_TEST_…`` that lead to them, and stops
them all, however the command ends. The system's packages (PostgreSQL, Redis, Node, Go, Java and
Maven) must be there.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.servers.cedar import Cedar
from tests.servers.cerbos import Cerbos
from tests.servers.jaeger import Jaeger
from tests.servers.keycloak import Keycloak
from tests.servers.moto import Moto
from tests.servers.oidc import Oidc
from tests.servers.opa import Opa
from tests.servers.openbao import OpenBao
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis
from tests.servers.server import Server, ServerError
from tests.servers.spire import Spire
from tests.servers.valkey import Valkey

__all__ = ["NAMES", "ServerError", "running"]

_log = logging.getLogger(__name__)
_TABLE: dict[str, type[Server]] = {
    server.name: server
    for server in (OpenBao, Postgres, Oidc, Redis, Valkey, Moto, Spire, Cerbos, Cedar, Opa, Jaeger, Keycloak)
}
NAMES = tuple(_TABLE)


@contextmanager
def running(names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Have the servers *names* run; what is given are the environment variables that lead to them.

    Raises:
        ServerError: One of them does not start; the others are stopped.
    """
    # the kernel ends a server with the thread that has started it, so the threads live as long
    with (
        tempfile.TemporaryDirectory(prefix="agentguard-") as folder,
        ThreadPoolExecutor(len(names)) as pool,
    ):
        home = Path(folder)
        home.chmod(0o711)  # servers run by other users find theirs in it, and cannot list it
        servers = [_TABLE[name](home / name) for name in names]
        try:
            variables: dict[str, str] = {}
            for addresses in pool.map(_start, servers):
                variables |= addresses
            yield variables
        finally:
            for server in servers:
                server.stop()


def _start(server: Server) -> Mapping[str, str]:
    server.make_home()
    server.install()
    began = time.monotonic()
    variables = server.start()
    _log.info("%s ready after %.2f s", server.name, time.monotonic() - began)
    return variables
