"""A real OpenBao makes real PostgreSQL roles, for one path and one call, and they are gone after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from langchain_core.tools import tool

import agentguard
from agentguard import Guard, Resource, ToolPath
from agentguard.catalog import Catalog
from agentguard.concurrency.drive import drive
from agentguard.credentials import jwks
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.credentials.openbao import OpenBao
from agentguard.credentials.openbao.session import RequestRefused
from agentguard.credentials.openbao.transit import TransitSigner
from agentguard.errors import IssueError, VerificationError
from agentguard.model import Credential, Grant
from agentguard.outbound.client import Outbound
from agentguard.resource import Verifier
from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing import BrokerContract, RecordingAudit
from agentguard.testing.samples import sample_grant
from agentguard.testing.scenarios import AwaitedPort
from tests.conftest import Mode, Rule, classified
from tests.real.reports import AGENT, DATABASE, REVOCATION, TRANSIT, Platform, Reports

ALLOWED = {ToolPath.READ: {"SELECT"}, ToolPath.WRITE: {"SELECT", "INSERT"}, ToolPath.ESCALATION: {"CREATE"}}
ATTEMPTS = {
    "SELECT": b"SELECT text FROM report",
    "INSERT": b"INSERT INTO report VALUES (7, 'new') ON CONFLICT DO NOTHING",
    "CREATE": b"CREATE TABLE made (id int)",
    "DROP": b"DROP TABLE report",
}
PATHS = pytest.mark.parametrize("path", list(ToolPath))


@pytest.fixture(autouse=True)
def left(reports: Reports) -> Iterator[None]:
    """After each test no role is left that is not on its way out."""
    yield
    reports.release()
    assert reports.gone("v-%", within=5)


def face(by: object, mode: Mode) -> AwaitedPort:
    return AwaitedPort(by, asynchronous=mode.asynchronous)


def grant(path: ToolPath, id: str = "grant-1", **changes: Any) -> Grant:
    return sample_grant(id, path=path, resource=Resource(name="reports-db", origins=()), **changes)


class TestContract(BrokerContract):
    @pytest.fixture(autouse=True)
    def _given(self, reports: Reports) -> None:
        self.reports = reports

    def make(self) -> OpenBao:
        return self.reports.broker(ToolPath.READ)

    @pytest.fixture(autouse=True)
    def _undone(self, _given: None) -> Iterator[None]:
        yield
        self.reports.post(f"sys/leases/revoke-prefix/{DATABASE}", sync=True)


# --- for one path


@pytest.mark.promise("database-role-by-path")
@PATHS
async def test_a_role_may_do_what_its_path_may_and_no_more(
    reports: Reports, mode: Mode, path: ToolPath
) -> None:
    by = face(reports.broker(path), mode)
    credential: Credential = await by.issue(grant(path))
    permitted = set()
    with reports.connect(credential) as connection:
        for name, statement in ATTEMPTS.items():
            try:
                connection.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                continue
            permitted.add(name)
    await by.revoke(credential.handle, credential.expires_at)
    with psycopg.connect(reports.database) as connection:
        connection.execute("DROP TABLE IF EXISTS made")
    assert permitted == ALLOWED[path]


@pytest.mark.promise("database-role-by-path")
@pytest.mark.parametrize("other", [ToolPath.WRITE, ToolPath.ESCALATION])
async def test_a_read_login_gets_no_other_role(reports: Reports, mode: Mode, other: ToolPath) -> None:
    session = reports.session("read")
    bao = session.async_ if mode.asynchronous else session.sync
    login = await bao.login()
    with pytest.raises(RequestRefused, match="403: permission denied"):
        await bao.request("GET", f"{DATABASE}/creds/{other}", login)
    with pytest.raises(RequestRefused, match="400: the proof of identity is for another audience"):
        await face(
            reports.broker(other, session=reports.session(other, audience="openbao/read")), mode
        ).issue(grant(other))


@pytest.mark.promise("database-role-by-path")
@pytest.mark.parametrize(
    ("thief", "says"),
    [
        (lambda platform: Platform("spiffe://example.test/other", platform.key), "not the one of this role"),
        (lambda platform: Platform(AGENT), "not signed by a trusted key"),
        (lambda platform: Platform(AGENT, platform.key, lifetime=-600), "has expired"),
    ],
    ids=["another SPIFFE ID", "a key of its own", "an old proof"],
)
async def test_nobody_else_can_log_in(reports: Reports, mode: Mode, thief: Any, says: str) -> None:
    session = reports.session("read", identity=thief(reports.platform))
    with pytest.raises(RequestRefused, match=says) as refused:
        await face(reports.broker(ToolPath.READ, session=session), mode).issue(grant(ToolPath.READ))
    assert refused.value.status == 400


async def test_a_role_that_is_not_there_is_said(reports: Reports, mode: Mode) -> None:
    with pytest.raises(RequestRefused, match="no such role"):
        await face(reports.broker(ToolPath.READ, role="absent"), mode).issue(grant(ToolPath.READ))


async def test_a_login_that_cannot_be_revoked_is_refused(reports: Reports, mode: Mode) -> None:
    reports.login_role("batch", 'path "*" { capabilities = ["read"] }', token_type="batch")
    with pytest.raises(IssueError, match="no token that can be revoked"):
        await face(reports.broker(ToolPath.READ, role="batch"), mode).issue(grant(ToolPath.READ))


# --- and gone after it


@pytest.mark.promise("database-role-ends")
@PATHS
async def test_a_revoked_role_is_gone_and_its_connections_are_cut(
    reports: Reports, mode: Mode, path: ToolPath
) -> None:
    by = face(reports.broker(path), mode)
    credential: Credential = await by.issue(grant(path))
    username = credential.fields()["username"]
    with reports.connect(credential) as connection:
        await by.revoke(credential.handle, credential.expires_at)
        # where the policy lets the answer wait for the database there is nothing to wait for
        assert reports.gone(username, within=1.0 if path is ToolPath.WRITE else 0.0)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match=r"authentication failed|does not exist"):
        reports.connect(credential)
    await by.revoke(credential.handle, credential.expires_at)


@pytest.mark.promise("database-role-ends")
async def test_a_role_that_the_database_does_not_drop_is_not_known_to_be_revoked(
    reports: Reports, mode: Mode
) -> None:
    reports.database_role("stuck", ToolPath.READ, "SELECT nonsense")
    reports.login_role(
        "stuck",
        f'path "{DATABASE}/creds/stuck" {{ capabilities = ["read"] }}'
        ' path "sys/leases/revoke" { capabilities = ["update"] }',
    )
    by = face(reports.broker(ToolPath.READ, role="stuck"), mode)
    credential = await by.issue(grant(ToolPath.READ))
    with pytest.raises(IssueError, match="sys/leases/revoke answered 400"):
        await by.revoke(credential.handle, credential.expires_at)
    reports.database_role("stuck", ToolPath.READ, REVOCATION)
    await by.revoke(credential.handle, credential.expires_at)
    assert reports.gone(credential.fields()["username"], within=0.0)


@pytest.mark.promise("database-role-ends")
async def test_what_nobody_revokes_ends_with_the_grant(reports: Reports, mode: Mode) -> None:
    reports.login_role("long", f'path "{DATABASE}/creds/long" {{ capabilities = ["read"] }}', token_ttl="1h")
    reports.database_role("long", ToolPath.READ)
    by = face(reports.broker(ToolPath.READ, role="long"), mode)
    credential: Credential = await by.issue(grant(ToolPath.READ, lifetime=1.5))
    assert credential.expires_at <= time.time() + 1.5
    reports.connect(credential).close()
    assert reports.gone(credential.fields()["username"], within=3.0)
    await by.revoke(credential.handle, credential.expires_at)


# --- across a crash


@pytest.mark.promise("revoked-after-kill")
@pytest.mark.parametrize("when", ["prepared", "issued"])
def test_what_a_killed_process_left_is_revoked_by_another(
    reports: Reports, tmp_path: Path, when: str
) -> None:
    store = tmp_path / "state.db"
    died = subprocess.run(
        [sys.executable, "-m", "tests.real.dying_agent", when, str(store)],
        input=reports.platform.private_pem(),
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    state = SqliteStore(store)
    live = state.live()
    assert live
    assert reports.roles() == (1 if when == "issued" else 0)
    assert sum(reports.living(credential.handle) for credential in live) == 1
    guard = guarded(reports, state)
    assert guard.recover() == 0
    assert not state.live()
    assert reports.gone("v-%", within=1.0)
    assert not any(reports.living(credential.handle) for credential in live)
    guard.close()


# --- wrapped


@pytest.mark.promise("wrapped-credential-noticed")
async def test_a_wrapped_credential_works_once(reports: Reports, mode: Mode) -> None:
    by = face(reports.broker(ToolPath.READ, wrap=True), mode)
    credential: Credential = await by.issue(grant(ToolPath.READ))
    reports.connect(credential).close()
    await by.revoke(credential.handle, credential.expires_at)


class Thief(httpx.HTTPTransport):
    """Sits on the way, and opens what is wrapped before whom it is for."""

    def __init__(self) -> None:
        super().__init__()
        self.loot: dict[str, str] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if request.url.path.endswith(f"{DATABASE}/creds/read"):
            answer.read()
            opened = httpx.post(
                request.url.copy_with(path="/v1/sys/wrapping/unwrap"),
                headers={"X-Vault-Token": answer.json()["wrap_info"]["token"]},
                trust_env=False,
            )
            self.loot = opened.json()["data"]
        return answer


@pytest.mark.promise("wrapped-credential-noticed")
def test_one_that_a_thief_has_opened_is_noticed_and_worth_nothing(
    reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    thief = Thief()
    http = Outbound("openbao", f"{reports.address}/v1", transport=thief)
    by = reports.broker(ToolPath.READ, wrap=True, session=reports.session("read", http=http))
    with pytest.raises(IssueError, match="unwrapped before us"):
        by.issue(grant(ToolPath.READ))
    assert "alarm" in caplog.text
    assert reports.gone(thief.loot["username"], within=1.0)


# --- an issuer whose key never leaves OpenBao


@pytest.mark.promise("key-outside-python")
async def test_a_resource_believes_what_transit_has_signed(reports: Reports, mode: Mode) -> None:
    session, store = reports.session("issuer"), MemoryStore()
    signer = TransitSigner.load(session, "issuer", mount=TRANSIT)
    issuer = LocalIssuer(ToolPath.READ, issuer="https://guard.example", store=store, key=signer)
    orders = Resource(name="orders", origins=("https://orders.example",))
    verifier = Verifier(issuer="https://guard.example", keys=jwks(issuer), resource=orders, store=store)
    url = "https://orders.example/orders/4711"

    async def presented(id: str) -> str:
        credential = await face(issuer, mode).issue(sample_grant(id, path=ToolPath.READ, resource=orders))
        headers = dict(credential.headers("GET", url, None))
        assert verifier.verify("GET", url, headers, path=ToolPath.READ).id == id
        with pytest.raises(VerificationError):
            verifier.verify("GET", url, headers, path=ToolPath.WRITE)
        return str(credential.handle)

    revoked = await presented("one")
    reports.post(f"{TRANSIT}/keys/issuer/rotate")
    await presented("two")  # with the version that is published
    newer = TransitSigner.load(session, "issuer", mount=TRANSIT)
    assert newer.kid != signer.kid
    await face(issuer, mode).revoke(revoked, time.time() + 60)
    session.close()
    assert session.shared_login is None


@pytest.mark.promise("key-outside-python")
def test_its_role_can_sign_and_cannot_have_the_key(reports: Reports) -> None:
    session = reports.session("issuer")
    for method, path in (("GET", f"{TRANSIT}/export/signing-key/issuer"), ("GET", f"{DATABASE}/creds/read")):
        with pytest.raises(RequestRefused, match="403: permission denied"):
            drive(session.sync.request(method, path))
    assert reports.operator.get(f"{TRANSIT}/export/signing-key/issuer").status_code == 400
    session.close()


# --- the whole flow


def guarded(reports: Reports, store: Any, **options: Any) -> Guard:
    return Guard(
        catalog=Catalog(resources=[Resource(name="reports-db")]),
        policy=Rule(),
        identity=reports.platform,
        brokers={("reports-db", path): reports.broker(path, **options) for path in ToolPath},
        store=store,
        audit=RecordingAudit(),
    )


def report_tool(reports: Reports, usernames: list[str]) -> Any:
    @tool
    def read_report(id: int) -> str:
        """Read a report."""
        db = agentguard.credential("reports-db")
        env = db.env()
        assert (env["PGUSER"], env["PGPASSWORD"]) == (db.username, db.password)
        usernames.append(db.username)
        where: dict[str, Any] = reports.server
        with psycopg.connect(user=db.username, password=db.password, **where) as connection:
            row = connection.execute("SELECT text FROM report WHERE id = %s", [id]).fetchone()
        return str(row and row[0])

    return classified(read_report, path="read", resource="reports-db")


@pytest.mark.promise("database-role-ends")
async def test_a_tool_reads_with_a_role_that_its_call_alone_has(reports: Reports, mode: Mode) -> None:
    usernames: list[str] = []
    store = MemoryStore()
    guard = guarded(reports, store)
    (wrapped,) = guard.wrap([report_tool(reports, usernames)])
    with guard.task("Read the report", subject="alice", mandate={"tools": ["read_report"]}):
        for _ in range(2):
            assert await mode.invoke(wrapped, {"id": 1}) == "all is well"
            assert reports.gone(usernames[-1], within=0.0)
            assert not store.live()
    assert len(set(usernames)) == 2
    guard.close()


@pytest.mark.promise("database-role-ends")
async def test_a_reused_role_lives_as_long_as_its_task(reports: Reports, mode: Mode) -> None:
    usernames: list[str] = []
    guard = guarded(reports, MemoryStore(), reuse=True)
    (wrapped,) = guard.wrap([report_tool(reports, usernames)])
    with guard.task("Read the report", subject="alice", mandate={"tools": ["read_report"]}):
        for id in (1, 2):
            await mode.invoke(wrapped, {"id": id})
        assert reports.roles(usernames[0]) == 1
    assert len(usernames) == 2
    assert len(set(usernames)) == 1
    assert reports.gone(usernames[0], within=1.0)
    guard.close()


def test_the_example_shows_a_role_that_is_gone(reports: Reports, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples/openbao_postgres.py"
    assert len(example.read_text().splitlines()) <= 60
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(reports.platform.token("openbao/read").reveal())
    where = {f"PG{name}": reports.server[name.lower()] for name in ("HOST", "PORT")}
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        env=os.environ
        | {
            "PGDATABASE": reports.server["dbname"],
            "BAO_ADDR": reports.address,
            "AGENT_TOKEN_FILE": str(token),
        }
        | where,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "report:  all is well" in ran.stdout
    assert "after:   PostgreSQL refuses the role" in ran.stdout
