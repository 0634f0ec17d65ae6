"""Store and audit log speak by TLS to the PostgreSQL whose certificate they trust, and to no other."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentguard.audit.postgres import PostgresAudit
from agentguard.concurrency.drive import drive
from agentguard.errors import AuditError, StoreError
from agentguard.stores.postgres import PostgresStore
from agentguard.testing.scenarios import AwaitedPort
from tests.conftest import Mode
from tests.doubles.loopback import certificate
from tests.real.conftest import lacking
from tests.servers.postgres import Postgres
from tests.servers.server import ServerError


class TlsPostgres(Postgres):
    """A server with a certificate for 127.0.0.1."""

    def settings(self) -> Mapping[str, str]:
        file = certificate(self.home, expires=timedelta(days=1))
        file.chmod(0o600)
        if self._user:
            shutil.chown(file, self._user)
        return {"ssl": "on", "ssl_cert_file": str(file), "ssl_key_file": str(file)}


@pytest.fixture(scope="module")
def server() -> Iterator[TlsPostgres]:
    with tempfile.TemporaryDirectory(prefix="agentguard-") as folder:
        home = Path(folder)
        home.chmod(0o711)  # the server is run by another user, and finds its own folder in this one
        server = TlsPostgres(home / "server")
        server.make_home()
        try:
            server.install()
            server.start()
        except ServerError as error:
            lacking(str(error))
        yield server
        server.stop()


@pytest.mark.promise("shared-store-in-private")
def test_a_certificate_of_another_authority_or_for_another_name_is_refused(
    server: TlsPostgres, tmp_path: Path, mode: Mode
) -> None:
    def known(host: str, ca: Path) -> bool:
        changes = {"host": host, "sslmode": "verify-full"}
        url = make_conninfo("", **(conninfo_to_dict(server.url) | changes))
        store = PostgresStore(url, ca=ca, durability="lossy", timeout=10.0)
        try:
            attempt = AwaitedPort(store, asynchronous=mode.asynchronous).known("jti")
            return bool((asyncio.run if mode.asynchronous else drive)(attempt))
        finally:
            store.close()

    authority = server.home / "server.pem"
    assert known("127.0.0.1", authority) is False
    with pytest.raises(StoreError, match="certificate verify failed"):
        known("127.0.0.1", certificate(tmp_path, expires=timedelta(days=1)))
    with pytest.raises(StoreError, match="does not match host name"):
        known("localhost", authority)


@pytest.mark.promise("audit-log-in-postgres")
def test_the_audit_log_is_written_to_no_server_of_another_authority_or_name(
    server: TlsPostgres, tmp_path: Path
) -> None:
    def append(host: str, ca: Path) -> int:
        url = make_conninfo("", **(conninfo_to_dict(server.url) | {"host": host, "sslmode": "verify-full"}))
        log = PostgresAudit(url, ca=ca, durability="lossy", timeout=10.0)
        try:
            log.append({"event": "decision"})
            return len(list(log.records()))
        finally:
            log.close()

    authority = server.home / "server.pem"
    assert append("127.0.0.1", authority) == 1
    with pytest.raises(AuditError, match="certificate verify failed"):
        append("127.0.0.1", certificate(tmp_path, expires=timedelta(days=1)))
    with pytest.raises(AuditError, match="does not match host name"):
        append("localhost", authority)
