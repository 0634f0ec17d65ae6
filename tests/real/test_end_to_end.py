"""One identity from SPIRE opens a database through OpenBao and an API through the issuer, for one task.

A thief on the same machine is another user: SPIRE gives it another name, and that opens neither.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from psycopg.conninfo import make_conninfo

import agentguard
from agentguard import Guard, Resource, ToolPath
from agentguard.catalog import Catalog
from agentguard.credentials.oauth import AuthorizationServer, IssuerProfile, SpiffeJwt, TokenExchange
from agentguard.credentials.openbao import OpenBao
from agentguard.credentials.openbao.session import OpenBaoSession
from agentguard.identity.spiffe import SpiffeIdentity
from agentguard.jose import Signer
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing import RecordingAudit, ScriptedChatModel
from tests.conftest import Mode, Rule, classified
from tests.doubles.notebooks import drawn, run_notebook, texts
from tests.real.conftest import Spire, require_plots
from tests.real.reports import DATABASE, Reports
from tests.servers.oidc import trust
from tests.servers.spire import SUPPORT, TRUST_DOMAIN, bundle, public_keys

ROOT = Path(__file__).parents[2]
USERS, API = "https://users.example", "https://orders.example"
AUDIENCE, MOUNT = "openbao/read", "spire"
HERE = "127.0.0.1/32"
QUESTION: Any = {"messages": [("user", "How is order 4711?")]}


@dataclass
class Seen:
    """What the tools were given, for whoever would steal it."""

    database: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    alive: list[int] = field(default_factory=list)


@pytest.fixture(scope="session")
def workloads(reports: Reports, spire: Spire) -> str:
    """Have OpenBao believe SPIRE: its workload *support*, from this host, may read reports."""
    assert spire
    reports.post(f"sys/auth/{MOUNT}", type="jwt")
    reports.post(f"auth/{MOUNT}/config", jwt_validation_pubkeys=public_keys())
    reports.post(
        f"auth/{MOUNT}/role/read",
        role_type="jwt",
        user_claim="sub",
        bound_subject=SUPPORT,
        bound_audiences=[AUDIENCE],
        token_policies=["reports-read"],
        token_bound_cidrs=[HERE],
        token_ttl="60s",
        token_max_ttl="1h",
    )
    trust("agents", TRUST_DOMAIN, bundle())
    trust("clients", SUPPORT, {})
    return spire.socket


@pytest.fixture(scope="session")
def identity(workloads: str) -> Iterator[SpiffeIdentity]:
    source = SpiffeIdentity(workloads, timeout=10.0)
    yield source
    source.close()


@pytest.fixture
def users() -> Signer:
    signer = Signer.generate()
    trust("users", USERS, {"keys": [signer.public_jwk]})
    return signer


@pytest.fixture
def observations() -> Seen:
    return Seen()


@pytest.fixture
def guard(
    reports: Reports, identity: SpiffeIdentity, oidc: str, tmp_path: Path, observations: Seen
) -> Iterator[Callable[[], tuple[Guard, list[Any]]]]:
    store = SqliteStore(tmp_path / "state.db")
    session = OpenBaoSession(reports.address, identity=identity, role="read", audience=AUDIENCE, mount=MOUNT)
    database = OpenBao(
        ToolPath.READ, session, creds=f"{DATABASE}/creds/read", server=reports.server, reuse=True
    )
    issuer = TokenExchange(
        AuthorizationServer(oidc, SpiffeJwt(SUPPORT, identity)),
        paths=[ToolPath.READ],
        identity=identity,
        store=store,
        profile=IssuerProfile(resource_uris={"orders/read": API}),
    )
    reports_guard = Guard(
        catalog=Catalog(resources=[Resource(name="reports-db"), Resource(name="orders", origins=(API,))]),
        policy=Rule(),
        identity=identity,
        brokers={("reports-db", ToolPath.READ): database, ("orders", ToolPath.READ): issuer},
        store=store,
        audit=RecordingAudit(),
    )

    @tool
    def read_report(number: int) -> str:
        """Read a report."""
        db = agentguard.credential("reports-db")
        observations.database |= {"user": db.username, "password": db.password}
        observations.alive.append(reports.roles(db.username))
        where = make_conninfo("", user=db.username, password=db.password, **reports.server)
        with psycopg.connect(where) as connection:
            row = connection.execute("SELECT text FROM report WHERE id = %s", [number]).fetchone()
        return str(row and row[0])

    @tool
    def get_order(order_id: str) -> str:
        """Read an order."""
        observations.headers |= dict(
            agentguard.credential("orders").headers("GET", f"{API}/orders/{order_id}")
        )
        return "shipped"

    tools = [
        *reports_guard.wrap(classified(read_report, path="read", resource="reports-db")),
        *reports_guard.wrap(classified(get_order, path="read", resource="orders", scopes=["orders:read"])),
    ]
    yield lambda: (reports_guard, tools)
    reports_guard.close()
    database.close()
    issuer.close()


def user_token(users: Signer, issuer: str) -> str:
    claims = {"iss": USERS, "sub": "user:ada", "aud": issuer, "exp": int(time.time()) + 60}
    return users.sign(users.head(typ="JWT"), claims)


@pytest.mark.promise("one-identity-one-task")
async def test_an_agent_proves_who_it_is_and_holds_nothing_one_second_after_its_task(
    guard: Callable[[], tuple[Guard, list[Any]]],
    reports: Reports,
    users: Signer,
    oidc: str,
    observations: Seen,
    mode: Mode,
) -> None:
    reports_guard, tools = guard()
    script: list[Any] = [
        [("read_report", {"number": 1})],
        [("get_order", {"order_id": "4711"}), ("read_report", {"number": 1})],
        "done",
    ]
    agent = create_agent(ScriptedChatModel(script=script), tools)
    task = reports_guard.task(
        "Report on order 4711",
        subject="user:ada",
        mandate={"tools": ["read_report", "get_order"], "scopes": ["orders:read"]},
        subject_token=user_token(users, oidc),
    )
    if mode.asynchronous:
        async with task:
            answer = await agent.ainvoke(QUESTION)
        ended = time.monotonic()
    else:
        with task:
            answer = agent.invoke(QUESTION)
        ended = time.monotonic()
    assert reports.gone(observations.database["user"], within=1.0 - (time.monotonic() - ended))
    with pytest.raises(psycopg.OperationalError, match=r"does not exist|authentication failed"):
        psycopg.connect(make_conninfo("", **observations.database, **reports.server))
    texts = [message.text for message in answer["messages"] if message.type == "tool"]
    assert texts == ["all is well", "shipped", "all is well"]
    assert observations.alive == [1, 1]  # it was one role, and it was there
    assert reports_guard.enforcement.ports.store.live() == ()
    assert observations.headers["Authorization"].startswith("DPoP ")
    revoked = [r for r in reports_guard.enforcement.ports.audit.records() if r["event"] == "task"]
    assert [record["unrevoked"] for record in revoked] == [0]


# --- the thief, as another user of this machine


@pytest.fixture(scope="session")
def thief(workloads: str, nobody: int) -> Callable[[str], str]:
    """Return what SPIRE gives to another user, for an audience."""
    assert nobody

    def token(audience: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.real.spire_workload", "65534"],
            cwd=ROOT,
            env={"SPIFFE_ENDPOINT_SOCKET": workloads},
            input=f"{audience}\n",
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return ran.stdout.strip()

    return token


def login(reports: Reports, proof: str, **options: Any) -> httpx.Response:
    transport = httpx.HTTPTransport(**options)
    with httpx.Client(base_url=f"{reports.address}/v1/", transport=transport, trust_env=False) as client:
        return client.post(f"auth/{MOUNT}/login", json={"role": "read", "jwt": proof})


@pytest.mark.promise("other-identity-opens-nothing")
def test_another_spiffe_id_cannot_log_in_to_openbao(reports: Reports, thief: Callable[[str], str]) -> None:
    refused = login(reports, thief(AUDIENCE))
    assert refused.status_code == 400
    assert "invalid subject (sub) claim" in refused.text


@pytest.mark.promise("other-identity-opens-nothing")
def test_a_proof_for_another_audience_cannot_log_in_to_openbao(
    reports: Reports, identity: SpiffeIdentity
) -> None:
    refused = login(reports, identity.token(API).reveal())
    assert refused.status_code == 400
    assert "audience" in refused.text


@pytest.mark.promise("other-identity-opens-nothing")
def test_another_host_cannot_use_the_true_proof_at_openbao(
    reports: Reports, identity: SpiffeIdentity
) -> None:
    proof = identity.token(AUDIENCE).reveal()
    assert login(reports, proof).status_code == 200
    assert login(reports, proof, local_address="127.0.0.2").status_code in (400, 403)


@pytest.mark.promise("other-identity-opens-nothing")
def test_another_spiffe_id_is_no_client_of_the_issuer(
    oidc: str, thief: Callable[[str], str], identity: SpiffeIdentity, users: Signer
) -> None:
    def exchange(assertion: str, actor: str) -> httpx.Response:
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
        jwt = "urn:ietf:params:oauth:token-type:jwt"
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "client_id": SUPPORT,
            "client_assertion_type": kind,
            "client_assertion": assertion,
            "subject_token": user_token(users, oidc),
            "subject_token_type": jwt,
            "actor_token": actor,
            "actor_token_type": jwt,
            "resource": API,
            "scope": "orders:read",
        }
        metadata = httpx.get(f"{oidc}/.well-known/openid-configuration", trust_env=False).json()
        return httpx.post(metadata["token_endpoint"], data=form, trust_env=False)

    agent_token = identity.token(oidc).reveal()
    stolen = exchange(thief(oidc), agent_token)
    assert (stolen.status_code, stolen.json()["error"]) == (401, "invalid_client")
    # the true client is known, and stopped for want of a proof of possession alone
    true = exchange(agent_token, agent_token)
    assert (true.status_code, true.json()["error"]) == (400, "invalid_grant")


def test_the_example_shows_an_agent_without_a_secret(oidc_jwt: str, workloads: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "spiffe_identity.py")],
        cwd=tmp_path,
        env={**os.environ, "SPIFFE_ENDPOINT_SOCKET": workloads, "ISSUER": oidc_jwt},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"agent:  {SUPPORT}" in ran.stdout
    assert "would send Authorization and DPoP, DPoP and not Bearer" in ran.stdout
    assert "left:   0 credentials alive" in ran.stdout
    assert "later:  IdentityError" in ran.stdout
    assert "eyJ" not in ran.stdout


def test_the_notebook_shows_a_role_from_identity_to_revocation(reports: Reports) -> None:
    require_plots()
    notebook = run_notebook("database_credential")
    assert reports.gone("v-%-reader-%", within=5)
    text = texts(notebook)
    assert text["task"].strip().endswith("1 role for 2 calls")
    assert "in the guard's outbox: ()" in text["after"]
    assert "password authentication failed" in text["thief"]
    (late,) = re.findall(r"last seen (\d+) ms after the task's end", text["after"])
    assert int(late) < 1000
    assert "image/png" in drawn(notebook)["plot"]
    assert "<svg" in drawn(notebook)["timeline"]["text/html"]
