"""Many processes on one PostgreSQL store that crashes, loses connections, and has a worker killed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentguard.stores import SqliteStore
from agentguard.stores.postgres import PostgresStore
from tests.real.conftest import lacking
from tests.real.postgres_proxy import PostgresProxy
from tests.real.store_storm import Maker, Storm, storm
from tests.servers.postgres import Postgres
from tests.servers.server import ServerError


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Start a server of this test's own, which it may have crash."""
    with tempfile.TemporaryDirectory(prefix="agentguard-") as folder:
        home = Path(folder)
        home.chmod(0o711)  # the server is run by another user, and finds its own folder in this one
        server = Postgres(home / "server")
        server.make_home()
        try:
            server.install()
            server.start()
        except ServerError as error:
            lacking(str(error))
        yield server
        server.stop()


@pytest.fixture
def url(server: Postgres) -> str:
    """Return the URL of an empty database."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(b"DROP SCHEMA IF EXISTS agentguard CASCADE")
    PostgresStore(server.url, durability="lossy", timeout=30.0).check()
    return server.url


def maker(url: str, port: int | str | None = None) -> Maker:
    parts = conninfo_to_dict(url) | {"sslmode": "disable"} | ({} if port is None else {"port": port})
    return partial(PostgresStore, make_conninfo("", **parts), pool_size=8, durability="lossy")


@pytest.mark.promise("shared-store-limits")
@pytest.mark.promise("shared-store-outage")
@pytest.mark.parametrize(("asynchronous", "calls"), [(False, 20_000), (True, 5_000)])
def test_nothing_that_was_acknowledged_is_lost_and_no_limit_is_passed_in_a_storm(
    server: Postgres,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    asynchronous: bool,
    calls: int,
) -> None:
    with PostgresProxy(int(conninfo_to_dict(url)["port"] or 0), reads=False) as proxy:
        events = {0.2: proxy.cut, 0.5: server.crash, 0.8: proxy.cut}
        plan = Storm(calls=calls, asynchronous=asynchronous, events=events, seconds=120.0)
        report = storm(maker(url, proxy.port), tmp_path, plan)
    with capsys.disabled():
        print(f"\nPostgreSQL, {'async' if asynchronous else 'threads'}, in a storm: {report}")  # noqa: T201  figures
    assert report.problems == []
    assert report.results["ok"] > calls // 3
    assert report.results["BudgetExhausted"] > 0


def test_how_fast_it_is_beside_sqlite(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores: dict[str, Maker] = {
        "PostgreSQL": maker(url),
        "SQLite": partial(SqliteStore, tmp_path / "state.db", busy_timeout=30.0),
    }
    for name, make in stores.items():
        folder = tmp_path / name
        folder.mkdir()
        report = storm(make, folder, Storm(calls=2_000))
        with capsys.disabled():
            print(f"\n{name}: {report}")  # noqa: T201  figures
        assert report.problems == []
