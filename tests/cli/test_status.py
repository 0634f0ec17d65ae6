"""`agentguard status` and `recover` need a configuration alone, and none of the application's code."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentguard.audit import JsonLinesAudit
from agentguard.cli import main
from agentguard.enforcement.process import _named, owner
from agentguard.jose.encoding import revocation_key
from agentguard.model import LiveCredential, TaskStatus
from agentguard.stores import SqliteStore
from agentguard.testing.samples import sample_task
from agentguard.testing.scenes import call, live_credential

POD = "0f5c/pid:[4026531999]/time:[4026531834]"
"""The place of a pod on another machine."""
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = tmp_path / "agentguard.toml"
    # the policy file is not there: status and recover need no rules
    config.write_text(
        '[policy]\ncedar = ["policies/*.cedar"]\n[store]\npath = "state.db"\n[audit]\npath = "audit.jsonl"\n'
        '[issuer]\njwks = "jwks.json"\n'
    )

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, [*args, "--config", str(config)])

    return run


@pytest.fixture
def gone() -> str:
    """Return the name of a process of this machine that is gone."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as child:  # it ends when its input does
        return _named(child.pid)


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    store = SqliteStore(tmp_path / "state.db")
    store.create_task(sample_task(id="t", deadline=time.time() + 3_600))
    return store


def begin(store: SqliteStore, id_: str, process: str, broker: str = "*/read") -> LiveCredential:
    """Begin a call of a process in the task t, with a credential of the embedded issuer."""
    credential = replace(
        live_credential(id_), task_id="t", broker=broker, owner=process, expires_at=time.time() + 600
    )
    store.begin_call(call(id_, task="t"), credential)
    return credential


def told(result: Result) -> str:
    return " ".join(result.output.split())


def test_what_is_live_is_told_by_process_and_broker(
    run: Run, store: SqliteStore, gone: str, tmp_path: Path
) -> None:
    begin(store, "mine", owner())
    begin(store, "dead", gone)
    begin(store, "pod-1", f"{POD}|7@100")
    begin(store, "pod-2", f"{POD}|7@100")
    audit = JsonLinesAudit(tmp_path / "audit.jsonl")
    audit.append({"event": "one"})
    audit.rotate()
    audit.append({"event": "two"})
    result = run("status")
    text = told(result)
    assert result.exit_code == 1
    assert f"sqlite at {tmp_path / 'state.db'}" in text
    assert "the newest" in text
    assert "1 active tasks" in text
    assert "3 credentials of calls" in text
    assert f"{owner()} has 1 unfinished calls, and is alive" in text
    assert f"{gone} has 1 unfinished calls, and is gone" in text
    assert f"{POD}|7@100 has 2 unfinished calls, and is elsewhere: only you know" in text
    assert "1 credentials of */read wait for their revocation; the first expires in" in text
    assert "1 rotated files; the last record is 2 (two)" in text


def test_the_report_can_be_read_by_a_program(run: Run, store: SqliteStore, gone: str, tmp_path: Path) -> None:
    credential = begin(store, "dead", gone)
    audit = JsonLinesAudit(tmp_path / "audit.jsonl")
    audit.append({"event": "one"})
    facts = json.loads(run("status", "--json").output)
    assert facts["store"]["kind"] == "sqlite"
    assert facts["store"]["bytes"] > 0
    assert facts["outbox"] == [
        {"broker": "*/read", "credentials": 1, "first_expires_at": credential.expires_at}
    ]
    assert facts["processes"] == [{"process": gone, "state": "gone", "calls": 1}]
    assert facts["log"]["last"]["hash"] == audit.head().hash
    assert facts["counts"]["active tasks"] == 1


def test_where_nothing_waits_the_exit_code_is_0(run: Run, store: SqliteStore) -> None:
    begin(store, "mine", owner())
    result = run("status")
    assert result.exit_code == 0
    assert "nothing waits for its revocation" in result.output
    assert "audit.jsonl: No such file" in told(result)


@pytest.mark.parametrize("command", ["status", "recover"])
def test_a_store_in_memory_has_nothing_to_tell(run: Run, command: str, tmp_path: Path) -> None:
    (tmp_path / "agentguard.toml").write_text('[store]\nkind = "memory"\n')
    result = run(command)
    assert result.exit_code == 2
    assert "a store in memory ends with its process" in told(result)


def test_status_makes_no_store_and_no_log(run: Run, tmp_path: Path) -> None:
    result = run("status")
    assert result.exit_code == 2
    assert "there is no store yet" in told(result)
    assert [file.name for file in tmp_path.iterdir()] == ["agentguard.toml"]


@pytest.mark.promise("recover-without-code")
def test_what_a_dead_process_left_is_revoked_and_recorded_without_the_application(
    run: Run, store: SqliteStore, gone: str, tmp_path: Path
) -> None:
    begin(store, "dead", gone)
    begin(store, "mine", owner())
    result = run("recover")
    assert result.exit_code == 0, result.output
    assert "1 credentials 1 of */read" in told(result)
    assert [one.call_id for one in store.live("t")] == ["mine"]
    assert store.known(revocation_key("https://agentguard.local", "dead")), "a verifier refuses it"
    records = list(JsonLinesAudit(tmp_path / "audit.jsonl").records())
    assert [(record["event"], record["call"]) for record in records] == [("revocation", "dead")]
    assert not (tmp_path / "jwks.json").exists(), "nothing is published that a guard has published"
    assert not (tmp_path / ".agentguard").exists()
    assert run("status").exit_code == 0


@pytest.mark.promise("recover-without-code")
@pytest.mark.parametrize("options", [["--gone", f"{POD}|7@100"], ["--gone", POD], ["--all-gone"]])
def test_what_a_pod_left_that_never_came_back_is_revoked_once_somebody_says_so(
    run: Run, store: SqliteStore, options: list[str]
) -> None:
    begin(store, "pod", f"{POD}|7@100")
    begin(store, "other", "elsewhere|7@100")
    result = run("recover")
    assert result.exit_code == 0
    assert f"1 credentials of {POD}|7@100: use --gone if that process is gone" in told(result)
    assert len(store.live("t")) == 2, "nobody knows that it is gone"
    result = run("recover", *options)
    assert result.exit_code == 0
    remaining = [] if options == ["--all-gone"] else ["other"]
    assert [one.call_id for one in store.live("t")] == remaining


@pytest.mark.promise("recover-without-code")
def test_what_ended_tasks_left_and_what_has_expired_is_revoked(run: Run, store: SqliteStore) -> None:
    begin(store, "expired", owner())
    (credential,) = store.live("t")
    store.track(replace(credential, expires_at=time.time() - 1))
    begin(store, "ended", owner())
    store.end_task("t", TaskStatus.COMPLETED, ())
    assert run("status").exit_code == 1
    assert run("recover").exit_code == 0
    assert store.live("t") == ()


def test_what_has_no_broker_in_the_configuration_stays_and_is_told(
    run: Run, store: SqliteStore, gone: str
) -> None:
    begin(store, "theirs", gone, "shop/read")
    result = run("recover")
    assert result.exit_code == 1
    assert "1 credentials could not be revoked" in told(result)
    assert "1 of shop/read" in told(result)
    assert len(store.live("t")) == 1
