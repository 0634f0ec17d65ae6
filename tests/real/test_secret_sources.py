"""`agentguard exec` and legacy keys with a real OpenBao, a real PostgreSQL, and moto's Secrets Manager."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from agentguard.concurrency.drive import drive
from agentguard.credentials.long_lived import LegacySecret
from agentguard.credentials.sources import source
from agentguard.errors import IssueError, TaskNotActive
from agentguard.model import LiveCredential, ToolPath
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing import sample_grant
from tests.cli.test_exec import COMMAND, line
from tests.real import conftest
from tests.real.reports import CREATION, DATABASE, MOUNT, REVOCATION, Reports

KV = "exec-kv"
ROLE = f"openbao:{DATABASE}/creds/exec"
PAIR = ["--secret", f"PGUSER={ROLE}#username", "--secret", f"PGPASSWORD={ROLE}#password"]
POLICY = f"""
path "{DATABASE}/creds/exec" {{ capabilities = ["read"] }}
path "{KV}/data/api" {{ capabilities = ["read"] }}
"""
REVOKER = """
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
"""
QUERY = """
import os, psycopg, sys, time
with psycopg.connect(autocommit=True, connect_timeout=5) as connection:
    text = connection.execute("SELECT text FROM report").fetchone()[0]
    print(os.getpid(), connection.execute("SELECT current_user").fetchone()[0], text, flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def reports(openbao: conftest.OpenBao, postgres: str) -> Iterator[Reports]:
    """Return what the operators made, once for all modules that need it."""
    world = Reports(openbao.url, openbao.token, postgres)
    if f"{DATABASE}/" not in world.operator.get("sys/mounts").json():
        world.configure()
    else:  # another module's platform signs there
        world.post(f"auth/{MOUNT}/config", jwt_validation_pubkeys=[world.platform.public_pem()])
    world.post(f"sys/mounts/{KV}", type="kv", options={"version": "2"})
    for _ in range(20):  # version 2 is not ready at once
        if world.operator.post(f"{KV}/data/api", json={"data": {"key": "k-1", "deep": {"n": 7}}}).is_success:
            break
        time.sleep(0.2)
    world.login_role("exec", POLICY)
    world.login_role("exec-revoker", REVOKER, bound_audiences=["openbao/exec"])
    yield world
    world.operator.delete(f"sys/mounts/{KV}")
    world.close()


@pytest.fixture
def lease(reports: Reports, request: pytest.FixtureRequest) -> Reports:
    """Return the reports, whose role for exec lives as long as the test says."""
    ttl, most = getattr(request, "param", ("60s", "1h"))
    reports.post(
        f"{DATABASE}/roles/exec",
        db_name="reports",
        creation_statements=CREATION.format(role="reports_read"),
        revocation_statements=REVOCATION,
        default_ttl=ttl,
        max_ttl=most,
    )
    return reports


class Run:
    """`agentguard exec` as its user starts it: with a login by a JWT that the platform has written."""

    def __init__(self, reports: Reports, directory: Path) -> None:
        server = conninfo_to_dict(reports.database)
        self.directory, self.started = directory, list[subprocess.Popen[str]]()
        (directory / "jwt").write_text(reports.platform.token("openbao/exec").reveal())
        places = {f"PG{name.upper()}": str(server[name]) for name in ("host", "port")}
        login = {"ADDR": reports.address, "ROLE": "exec", "AUDIENCE": "openbao/exec", "MOUNT": MOUNT}
        login["REVOKER_ROLE"] = "exec-revoker"
        self.environ = {"PATH": os.environ["PATH"], **places, "PGDATABASE": str(server["dbname"])}
        self.environ |= {f"BAO_{name}": value for name, value in login.items()}
        self.environ["BAO_JWT_FILE"] = str(directory / "jwt")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        keep = [part for name in ("PGHOST", "PGPORT", "PGDATABASE") for part in ("--keep", name)]
        argv = [*COMMAND, "--state", str(self.directory / "state"), *keep, *arguments]
        pipe = subprocess.PIPE
        self.started.append(subprocess.Popen(argv, env=self.environ, stdout=pipe, stderr=pipe, text=True))
        return self.started[-1]

    def reads_again(self) -> str:
        """Return what the next run says."""
        later = self.start("--secret", f"K=openbao:{KV}/data/api#key", "--", "true")
        said = later.communicate(timeout=60)[1]
        assert later.returncode == 0, said
        return said

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in (self.directory / "state/audit.jsonl").read_text().splitlines()]

    def entries(self) -> list[LiveCredential]:
        store = SqliteStore(self.directory / "state/exec.db")
        try:
            return list(store.live())
        finally:
            store.close()

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def run(lease: Reports, tmp_path: Path) -> Iterator[Run]:
    runner = Run(lease, tmp_path)
    yield runner
    runner.close()


def test_a_stored_secret_is_read_by_a_login_of_the_workload(reports: Reports) -> None:
    session = reports.session("exec")
    for path, value in (("key", "k-1"), ("deep.n", "7")):
        assert source(f"openbao:{KV}/data/api#{path}", session=session).read().reveal() == value
    with pytest.raises(IssueError, match="403"):
        source(f"openbao:{KV}/data/other#key", session=session).read()
    reports.release()


def test_a_dynamic_secret_is_refused_as_a_long_lived_key_and_left_to_nobody(lease: Reports) -> None:
    session, before = lease.session("exec"), lease.roles()
    by = LegacySecret(source(f"{ROLE}#password", session=session), paths=[ToolPath.WRITE])
    with pytest.raises(IssueError, match="a dynamic secret"):
        by.issue(sample_grant())
    ends = time.monotonic() + 5  # the policy does not permit to revoke the lease: it ends with the login
    while lease.roles() > before:
        assert time.monotonic() < ends
    lease.release()


def test_a_childs_database_role_is_gone_when_exec_has_ended(run: Run, lease: Reports) -> None:
    running = run.start(*PAIR, "--", sys.executable, "-c", QUERY, "0")
    _, user, text = line(running).split(maxsplit=2)
    assert user.startswith("v-")
    assert text == "all is well"
    assert running.wait(30) == 0
    assert lease.gone(user, within=1.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_role_is_gone_when_exec_was_asked_to_end(run: Run, lease: Reports, number: signal.Signals) -> None:
    running = run.start(*PAIR, "--", sys.executable, "-c", QUERY, "60")
    user = line(running).split()[1]
    running.send_signal(number)
    running.wait(30)
    assert lease.gone(user, within=1.0)


@pytest.mark.promise("exec-lease-ends")
def test_after_kill_9_the_child_is_dead_and_the_next_run_ends_its_role(run: Run, lease: Reports) -> None:
    running = run.start(*PAIR, "--", sys.executable, "-c", QUERY, "60")
    user = line(running).split()[1]
    running.kill()
    running.wait()
    assert lease.roles(user) == 1
    (entry,) = run.entries()
    assert lease.living(entry.handle)
    assert "left at OpenBao" not in run.reads_again()
    assert not lease.living(entry.handle)
    assert lease.gone(user, within=1.0)
    assert run.entries() == []


@pytest.fixture
def bare_role(lease: Reports) -> Iterator[Reports]:
    """Return the reports, whose role for exec may not even revoke itself."""
    lease.login_role("exec", POLICY, token_no_default_policy=True)
    yield lease
    lease.login_role("exec", POLICY, token_no_default_policy=False)


@pytest.mark.promise("exec-lease-ends")
def test_a_login_that_may_not_revoke_itself_ends_with_the_command(run: Run, bare_role: Reports) -> None:
    running = run.start(*PAIR, "--", sys.executable, "-c", QUERY, "2")
    user = line(running).split()[1]
    (entry,) = run.entries()
    assert running.wait(30) == 0
    assert not bare_role.living(entry.handle)
    assert bare_role.gone(user, within=5.0)
    assert run.records()[-2]["what"] == "revoked"


@pytest.mark.promise("exec-revocation-not-claimed")
def test_a_refused_revocation_is_told_and_made_by_a_later_run_that_may(run: Run, bare_role: Reports) -> None:
    revoker = run.environ.pop("BAO_REVOKER_ROLE")
    running = run.start(*PAIR, "--", sys.executable, "-c", QUERY, "0")
    user = line(running).split()[1]
    assert "not known to be revoked" in running.communicate(timeout=30)[1]
    assert run.records()[-2]["what"] == "not revoked"
    entries = run.entries()
    assert all(bare_role.living(entry.handle) for entry in entries)
    assert bare_role.roles(user) == 1
    assert "is not revoked yet, and ends by itself at 20" in run.reads_again()
    run.environ["BAO_REVOKER_ROLE"] = revoker
    run.reads_again()
    assert not [entry for entry in entries if bare_role.living(entry.handle)]
    assert bare_role.gone(user, within=5.0)


@pytest.mark.promise("exec-revokes-own-only")
def test_a_forged_entry_ends_nobodys_token_or_lease(run: Run, lease: Reports) -> None:
    running = run.start(*PAIR, "--", sys.executable, "-c", QUERY, "60")
    user = line(running).split()[1]
    own = run.entries()[0]
    others = [lease.post("auth/token/create", ttl="60s")["auth"]["accessor"]]
    others.append(drive(lease.session("read").sync.login()).accessor)  # our workload's, in another role
    lease_id = lease.operator.get(f"{DATABASE}/creds/read").json()["lease_id"]
    owner = f"{own.owner.rpartition('|')[0]}|4194000@1"
    store = SqliteStore(run.directory / "state/exec.db")
    for number, name in enumerate([*others, lease_id, f"lease {lease_id}"]):
        with suppress(TaskNotActive):
            store.track(replace(own, call_id=f"forged-{number}", handle=name, owner=owner, expires_at=4e9))
    store.close()
    said = run.reads_again()
    assert said.count("is the token of somebody else, and is left alone") == 2
    assert all(lease.living(accessor) for accessor in [*others, own.handle])
    assert lease.operator.put("sys/leases/lookup", json={"lease_id": lease_id}).is_success
    assert lease.roles(user) == 1
    running.terminate()
    running.wait(30)
    assert lease.gone(user, within=1.0)
    for accessor in others:
        lease.post("auth/token/revoke-accessor", accessor=accessor)
    lease.post("sys/leases/revoke", lease_id=lease_id, sync=True)


@pytest.mark.promise("exec-lease-ends", "exec-revokes-own-only")
def test_the_leases_of_a_token_that_was_passed_are_left_only_by_who_has_it(run: Run, lease: Reports) -> None:
    policy = POLICY + 'path "sys/leases/revoke" { capabilities = ["update"] }'
    lease.post("sys/policies/acl/exec-given", policy=policy)
    tokens = [
        lease.post("auth/token/create", ttl="60s", policies=["exec-given"])["auth"]["client_token"]
        for _ in range(2)
    ]
    del run.environ["BAO_JWT_FILE"]
    run.environ["BAO_TOKEN"] = tokens[0]
    running = run.start(*PAIR, "--", sys.executable, "-c", QUERY, "60")
    user = line(running).split()[1]
    running.kill()
    running.wait()
    state = b"".join(file.read_bytes() for file in (run.directory / "state").iterdir())
    assert tokens[0].encode() not in state
    run.environ["BAO_TOKEN"] = tokens[1]
    assert "was not written with this BAO_TOKEN" in run.reads_again()
    assert lease.roles(user) == 1
    run.environ["BAO_TOKEN"] = tokens[0]
    assert "left at OpenBao" not in run.reads_again()
    assert lease.gone(user, within=1.0)


@pytest.mark.promise("exec-lease-ends")
def test_a_command_that_removes_the_notes_of_a_token_keeps_no_role(run: Run, lease: Reports) -> None:
    del run.environ["BAO_JWT_FILE"]
    run.environ["BAO_TOKEN"] = lease.operator.headers["X-Vault-Token"]
    program = """
import glob, os, sys
for name in glob.glob(sys.argv[1] + "/exec.db*"):
    os.unlink(name)
print(os.environ["A"], os.environ["B"])
"""
    two = ["--secret", f"A={ROLE}#username", "--secret", f"B=vault:{DATABASE}/creds/exec#username"]
    running = run.start(*two, "--", sys.executable, "-c", program, str(run.directory / "state"))
    out, err = running.communicate(timeout=60)
    users = out.split()
    assert len(set(users)) == 2, err
    assert all(lease.gone(user, within=1.0) for user in users), err
    assert "not known to be revoked" not in err


@pytest.mark.parametrize("lease", [("3s", "1h")], indirect=True)
def test_a_role_is_extended_as_long_as_the_child_runs(run: Run, lease: Reports) -> None:
    running = run.start(*PAIR, "--", sys.executable, "-c", QUERY, "7")
    user = line(running).split()[1]
    time.sleep(5.5)
    assert lease.roles(user) == 1
    with psycopg.connect(lease.database) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
        assert connection.execute(query, [user]).fetchone() == (1,)
    assert running.wait(30) == 0
    assert lease.gone(user, within=1.0)


@pytest.mark.parametrize("lease", [("3s", "5s")], indirect=True)
def test_a_role_at_its_end_is_replaced_by_another_for_the_child_to_use(run: Run, lease: Reports) -> None:
    program = """
import os, psycopg, time
def place(name):
    return os.pread(int(os.environ["AGENTGUARD_FD_" + name]), 999, 0).decode()
seen = []
while len(seen) < 2:
    try:
        login = {"user": place("PGUSER"), "password": place("PGPASSWORD"), "connect_timeout": 5}
        with psycopg.connect(**login) as connection:
            user = connection.execute("SELECT current_user").fetchone()[0]
    except psycopg.OperationalError:
        continue
    if user not in seen:
        seen.append(user)
        print(user, flush=True)
    time.sleep(0.05)
"""
    running = run.start("--renew=fd", *PAIR, "--", sys.executable, "-c", program)
    users = [line(running), line(running)]
    assert len(set(users)) == 2
    assert running.wait(30) == 0
    assert all(lease.gone(user, within=1.0) for user in users)


def test_the_wrappers_form_reaches_secrets_manager(moto: str, tmp_path: Path) -> None:
    environ = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "k", "AWS_ENDPOINT_URL": moto}
    client: Any = boto3.client(
        "secretsmanager",
        region_name="eu-west-1",
        endpoint_url=moto,
        aws_access_key_id="AKIA",
        aws_secret_access_key="k",
    )
    arn = client.create_secret(Name="prod/a=b", SecretString=json.dumps({"db": {"password": "p=1"}}))["ARN"]
    client.create_secret(Name="plain", SecretBinary=b"binary")
    client.close()
    program = (
        "from os import environ as e; print(e['DB'], e['PLAIN'], *(name for name in e if 'AWS' in name))"
    )
    secrets = [f"DB={arn}#db.password", "PLAIN=plain"]
    command = [*COMMAND, "--state", str(tmp_path / "state"), "--vault-type=aws", "--vault-region=eu-west-1"]
    ran = subprocess.run(
        [*command, *secrets, "--", sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "p=1 binary\n", ran.stderr
