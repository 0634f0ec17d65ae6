"""The audit log in a real PostgreSQL: the contract, several writers, what alters it, and what fails."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.tools import tool
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner, Result

from agentguard import Denied
from agentguard.audit.chain import Head
from agentguard.audit.postgres import LogReport, PostgresAudit, verify_log
from agentguard.cli import main
from agentguard.concurrency.drive import drive
from agentguard.errors import AuditError, ConfigurationError
from agentguard.model import Secret
from agentguard.testing import AuditContract
from agentguard.testing.scenarios import AwaitedPort
from tests.conftest import Kit, Mode, classified
from tests.real.conftest import lacking, needed
from tests.real.postgres_proxy import PostgresProxy
from tests.servers.postgres import Postgres
from tests.servers.server import ServerError

Database = psycopg.Connection[psycopg.rows.TupleRow]
SCHEMAS = (f"audit_{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[Database]:
    """Return a connection of the superuser."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        drop = [f"DROP SCHEMA IF EXISTS audit_{number} CASCADE" for number in range(200)]
        connection.execute("; ".join(drop).encode())
        yield connection


@pytest.fixture
def schema(database: Database) -> str:
    return next(SCHEMAS)


@pytest.fixture
def proxy(postgres: str) -> Iterator[PostgresProxy]:
    with PostgresProxy(int(conninfo_to_dict(postgres)["port"] or 0)) as proxy:
        yield proxy


Make = Callable[..., PostgresAudit]


@pytest.fixture
def make(postgres: str, schema: str) -> Iterator[Make]:
    logs = list[PostgresAudit]()

    def make(proxy: PostgresProxy | None = None, **settings: Any) -> PostgresAudit:
        url = postgres
        if proxy is not None:
            changes: dict[str, Any] = {"host": "127.0.0.1", "port": proxy.port, "sslmode": "disable"}
            url = make_conninfo("", **(conninfo_to_dict(url) | changes))
        defaults: dict[str, Any] = {"schema": schema, "durability": "lossy", "timeout": 5.0}
        logs.append(PostgresAudit(url, **(defaults | settings)))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def report_of(log: PostgresAudit, head: Head | None = None) -> LogReport:
    return verify_log(log.rows(), head, settled=0.0)


def permit(call: str) -> dict[str, Any]:
    return {"event": "decision", "effect": "permit", "call": call, "task": "t"}


def outcome(call: str) -> dict[str, Any]:
    return {"event": "outcome", "call": call, "task": "t"}


async def append(mode: Mode, log: PostgresAudit, *records: dict[str, Any]) -> None:
    for record in records:
        await mode.call(log, "append", record)


class TestPostgresAudit(AuditContract):
    @pytest.fixture(autouse=True)
    def _server(self, database: Database) -> None:
        self.url = needed("AGENTGUARD_TEST_POSTGRES")

    def make(self) -> PostgresAudit:
        return PostgresAudit(self.url, schema=next(SCHEMAS), durability="lossy", timeout=10.0)


# --- several writers


def _write(url: str, schema: str, name: str, number: int) -> None:
    log = PostgresAudit(url, schema=schema, durability="lossy", timeout=20.0)

    async def together() -> None:
        await asyncio.gather(*(log.aappend(permit(f"{name}-{n}")) for n in range(number)))
        await asyncio.gather(*(log.aappend(outcome(f"{name}-{n}")) for n in range(number)))

    asyncio.run(together())
    log.close()


@pytest.mark.promise("audit-log-in-postgres")
def test_the_log_of_several_processes_that_write_at_once_is_sound_and_whole(
    postgres: str, make: Make, schema: str
) -> None:
    make().append({"event": "first"})
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(postgres, schema, f"p{n}", 200)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    log = make()
    report = report_of(log)
    assert (report.sound, len(report.chains), report.records) == (True, 5, 2 + 4 * 401)
    assert report.unfinished == []
    calls = [record["call"] for record in log.records("t") if record["event"] == "outcome"]
    assert sorted(calls) == sorted(f"p{n}-{m}" for n in range(4) for m in range(200))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.promise("audit-log-in-postgres")
def test_a_forked_child_writes_a_chain_of_its_own_and_harms_that_of_its_parent_nothing(make: Make) -> None:
    log = make()
    log.append(permit("1"))
    if not (pid := os.fork()):
        try:
            log.append(outcome("1"))
            log.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    log.append(permit("2"))
    report = report_of(log)
    assert report.sound
    assert sorted(chain.records for chain in report.chains.values()) == [2, 3]
    assert len(report.unfinished) == 1, "of the other one the child has written the outcome"


async def test_calls_side_by_side_wait_for_one_statement_and_not_for_each_other(
    make: Make, proxy: PostgresProxy
) -> None:
    log = make(proxy)
    await log.aappend({"event": "first"})
    before = proxy.round_trips
    await asyncio.gather(*(log.aappend(permit(f"{n}")) for n in range(200)))
    assert proxy.round_trips - before <= 20
    assert report_of(log).sound


# --- what alters it


def altered(database: Database, schema: str, statement: str) -> None:
    """Have the owner alter the log, who can take the trigger away."""
    table = f"{schema}.records"
    database.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only".encode())
    assert database.execute(statement.encode()).rowcount > 0
    database.execute(f"ALTER TABLE {table} ENABLE TRIGGER append_only".encode())


ALTERATIONS = {
    "another text": """UPDATE {} SET line = replace(line, '"call":"c1"', '"call":"c9"') WHERE seq = 3""",
    "another text with a new hash": "UPDATE {} SET line = replace(line, 'c1', 'c9'), hash = repeat('0', 64)"
    " WHERE seq = 3",
    "a record that is missing": "DELETE FROM {} WHERE seq = 3",
    "two records in another order": "UPDATE {} SET seq = CASE seq WHEN 3 THEN 104 ELSE 103 END"
    " WHERE seq IN (3, 4)",
    "an end that is missing, which another chain has seen": "DELETE FROM {} WHERE seq > 3",
    "a record that is kept for no task": "UPDATE {} SET family = ARRAY[]::text[] WHERE seq = 3",
    "a record that was added later than now": "UPDATE {} SET added = 'infinity' WHERE seq = 3",
    "records behind one that had seen them": "UPDATE {} SET n = DEFAULT WHERE writer ="
    " (SELECT writer FROM {} ORDER BY n LIMIT 1)",
    "a chain that is missing, which another one has seen": "DELETE FROM {} WHERE writer ="
    " (SELECT writer FROM {} ORDER BY n LIMIT 1)",
}


@pytest.mark.promise("audit-log-in-postgres")
@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_whatever_is_altered_in_the_table_is_found(
    make: Make, database: Database, schema: str, alteration: str
) -> None:
    log = make()
    for number in range(4):
        log.append(permit(f"c{number}"))
    other = make()
    other.append({"event": "other"})
    assert report_of(log).sound
    altered(database, schema, ALTERATIONS[alteration].replace("{}", f"{schema}.records"))
    assert not report_of(log).sound


@pytest.mark.promise("audit-log-in-postgres")
def test_a_chain_that_was_written_anew_is_found_by_what_another_one_has_seen(
    make: Make, database: Database, schema: str
) -> None:
    log = make()
    log.append({"event": "first"})
    make().append({"event": "other"})
    shadow = make(schema=next(SCHEMAS))
    shadow._writer.name = log._writer.name
    shadow.append({"event": "another"})
    for row in shadow.rows():
        text = f"line = $${row.line}$$, hash = '{row.hash}' WHERE writer = '{row.writer}' AND seq = {row.seq}"
        altered(database, schema, f"UPDATE {schema}.records SET {text}")  # noqa: S608  names of our own
    report = report_of(log)
    assert all(chain.sound for chain in report.chains.values())
    assert [fault.kind for fault in report.faults] == ["changed"]


@pytest.mark.promise("audit-log-in-postgres")
def test_what_was_removed_last_is_found_by_the_head_that_was_kept_elsewhere(
    make: Make, database: Database, schema: str
) -> None:
    log = make()
    for number in range(5):
        log.append(permit(f"{number}"))
    make().append({"event": "newest chain"})
    head = report_of(log).head
    log.append(permit("later"))
    assert report_of(log, head).sound
    newest = f"n > (SELECT max(n) - 3 FROM {schema}.records)"  # noqa: S608  names of our own
    altered(database, schema, f"DELETE FROM {schema}.records WHERE {newest}")  # noqa: S608  names of our own
    assert report_of(log).sound
    assert [fault.kind for fault in report_of(log, head).faults] == ["cut"]


@pytest.mark.promise("audit-log-append-only")
@pytest.mark.parametrize("statement", ["UPDATE {} SET line = ''", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_role_of_the_agents_can_add_and_read_and_the_owner_alters_nothing_by_mistake(
    make: Make, database: Database, schema: str, postgres: str, statement: str
) -> None:
    make().migrate()
    role, password = f"agent_{schema}", "of-the-agents"
    database.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD '{password}'".encode())
    database.execute(
        f"GRANT USAGE ON SCHEMA {schema} TO {role};"
        f" GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};"
        f" GRANT INSERT (writer, seq, hash, family, line) ON {schema}.records TO {role}".encode()
    )
    url = make_conninfo(
        "",
        **{k: v for k, v in conninfo_to_dict(postgres).items() if k != "password"},
    )
    url = make_conninfo(url, user=role)
    log = PostgresAudit(url, password=Secret(password), schema=schema, durability="lossy", timeout=5.0)
    log.append(permit("1"))
    assert [record["call"] for record in log.records()] == ["1"]
    log.close()
    with psycopg.connect(make_conninfo(url, password=password), autocommit=True) as agent:
        for column, value in (("n", "-1"), ("added", "'infinity'")):
            forgery = (
                f"INSERT INTO {schema}.records ({column}, writer, seq, hash, family, line)"  # noqa: S608  ours
                f" OVERRIDING SYSTEM VALUE VALUES ({value}, 'w', 1, 'h', '{{}}', 'l')"
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                agent.execute(forgery.encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.execute(statement.format(f"{schema}.records").encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.execute(f"ALTER TABLE {schema}.records DISABLE TRIGGER append_only".encode())
    with pytest.raises(psycopg.errors.RaiseException, match="changes and deletes none"):
        database.execute(statement.format(f"{schema}.records").encode())
    with pytest.raises(ConfigurationError, match="may not make the audit log"):
        PostgresAudit(
            url, password=Secret(password), schema=next(SCHEMAS), durability="lossy", timeout=5.0
        ).migrate()


# --- what fails


@pytest.mark.promise("audit-log-in-postgres")
async def test_a_record_whose_answer_is_lost_is_written_once(
    make: Make, proxy: PostgresProxy, mode: Mode
) -> None:
    log = make(proxy)
    await append(mode, log, permit("1"))
    for number, loss in enumerate(("answer", "end of the answer"), 2):
        proxy.lose(loss)  # type: ignore[arg-type]  # one of its texts
        await append(mode, log, permit(f"{number}"), outcome(f"{number}"))
    assert [record["call"] for record in log.records()] == ["1", "2", "2", "3", "3"]
    assert report_of(log).sound


@pytest.mark.promise("audit-log-in-postgres")
async def test_a_cut_connection_is_opened_anew(make: Make, proxy: PostgresProxy, mode: Mode) -> None:
    log = make(proxy)
    for number in range(5):
        await append(mode, log, permit(f"{number}"))
        proxy.cut()
    assert [record["call"] for record in log.records()] == [f"{number}" for number in range(5)]
    assert report_of(log).sound


@pytest.mark.promise("audit-log-in-postgres")
async def test_a_server_that_stands_still_is_waited_for_in_bounded_time(
    make: Make, proxy: PostgresProxy, mode: Mode
) -> None:
    make().migrate()
    log = make(proxy, timeout=1.5)
    await append(mode, log, permit("1"))
    with proxy.standstill():
        begun = time.monotonic()
        for call in ("2", "3"):
            with pytest.raises(AuditError, match=r"in time|answer"):
                await append(mode, log, permit(call))
        assert time.monotonic() - begun < 5.0
    with pytest.raises(AuditError, match="wait to be written"):
        log.health()
    await asyncio.to_thread(wait_for_nothing_to_wait, log)
    await append(mode, log, {"event": "last"})
    log.health()
    calls = [record.get("call") for record in log.records()]
    assert calls[0] == "1"
    assert "3" not in calls, "it was given up before it was under way"
    assert report_of(log).sound


def wait_for_nothing_to_wait(log: PostgresAudit) -> None:
    ends = time.monotonic() + 10.0
    while log._writer.waiting:
        assert time.monotonic() < ends, "what could not be written waits although the server answers"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="agentguard-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        server = Postgres(home / "server")
        server.make_home()
        try:
            server.install()
            server.start()
        except ServerError as error:
            lacking(str(error))
        yield server
        server.stop()


@pytest.mark.promise("audit-log-in-postgres")
async def test_no_call_runs_while_the_server_is_away_and_what_has_happened_is_written_when_it_is_back(
    own: Postgres, mode: Mode
) -> None:
    port = int(conninfo_to_dict(own.url)["port"] or 0)
    schema = f"guarded_{'async' if mode.asynchronous else 'sync'}"
    ran, kit = list[str](), Kit()
    with PostgresProxy(port, reads=False) as proxy:
        url = make_conninfo("", **(conninfo_to_dict(own.url) | {"port": proxy.port, "sslmode": "disable"}))
        log = PostgresAudit(url, schema=schema, durability="lossy", timeout=1.0)
        guard = kit.another(audit=log)

        @tool
        def look(order: str) -> str:
            """Look at an order."""
            ran.append(order)
            if order == "2":
                own.crash()
                proxy.cut()
            return order

        (guarded,) = guard.wrap([classified(look)], on_deny="raise")
        async with guard.task("t", subject="alice", mandate={"tools": "*"}):
            await mode.run(guarded, {"order": "1"})
            await mode.run(guarded, {"order": "2"})
            minted = len(kit.broker.issued)
            proxy._server, port = 1, proxy._server
            proxy.cut()
            with pytest.raises(Denied) as denied:
                await mode.run(guarded, {"order": "3"})
            assert len(kit.broker.issued) == minted, "it is denied before anything is minted"
            proxy._server = port
            await mode.run(guarded, {"order": "4"})
        guard.close()
        records = list(log.records())
        report = verify_log(log.rows(), settled=0.0)
    assert denied.value.code == "audit_error"
    assert ran == ["1", "2", "4"]
    decided = [record.get("code") or record["effect"] for record in records if record["event"] == "decision"]
    assert decided == ["permit", "permit", "audit_error", "permit"], "the denial was written when it could be"
    assert report.sound
    assert report.unfinished == []


@pytest.mark.promise("audit-log-in-postgres")
def test_a_server_that_may_lose_records_is_refused(make: Make) -> None:
    log = make(durability="checked")
    with pytest.raises(AuditError, match=r"fsync = off"):
        log.append(permit("1"))
    with pytest.raises(ConfigurationError, match=r"fsync = off"):
        log.health()


# --- the commands


def run_cli(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.fixture
def toml(postgres: str, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    parts: dict[str, Any] = conninfo_to_dict(postgres)
    monkeypatch.setenv("AUDIT_PASSWORD", str(parts.pop("password", "none")))
    path = tmp_path / "agentguard.toml"
    path.write_text(
        f'[audit]\nkind = "postgres"\nurl = "{make_conninfo("", **parts)}"\nschema = "{schema}"\n'
        'password = "env:AUDIT_PASSWORD"\ndurability = "lossy"\ntimeout = 5\n'
    )
    return path


@pytest.mark.promise("audit-log-in-postgres")
def test_the_commands_make_verify_and_show_the_log_that_the_configuration_names(
    toml: Path, make: Make, database: Database, schema: str
) -> None:
    config = ["--config", str(toml)]
    assert "was made" in run_cli("audit", "migrate", *config).output
    assert "is there already" in run_cli("audit", "migrate", *config).output
    log = make()
    for record in (permit("c1") | {"tool": "look", "subject": "alice"}, outcome("c1"), permit("c2")):
        log.append(record)
    result = run_cli("audit", "verify", *config)
    assert (result.exit_code, "1 chains, 4 records, none altered" in result.output) == (0, True)
    assert "a permit without an outcome" in result.output
    shown = run_cli("audit", "show", "--json", "--tool", "look", *config)
    assert [json.loads(line)["call"] for line in shown.output.splitlines()] == ["c1", "c1"]
    assert run_cli("audit", "rotate", *config).exit_code == 2
    assert "ok" in run_cli("doctor", *config).output
    altered(database, schema, f"DELETE FROM {schema}.records WHERE seq = 2")  # noqa: S608  the same
    result = run_cli("audit", "verify", *config)
    assert (result.exit_code, "altered, or is not complete" in result.output) == (1, True)
    head = run_cli("audit", "verify", "--head", f"3:{'0' * 64}", *config)
    assert re.search(r"cut\b", head.output)


def test_sync_and_async_appends_of_one_process_share_a_chain(make: Make) -> None:
    log = make()
    for asynchronous in (False, True):
        port = AwaitedPort(log, asynchronous=asynchronous)
        (asyncio.run if asynchronous else drive)(port.append(permit(f"{asynchronous}")))
    assert len(report_of(log).chains) == 1
