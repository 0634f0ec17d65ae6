"""`agentguard store` on a real PostgreSQL, Redis and Valkey, by agentguard.toml alone."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from typer.testing import CliRunner, Result

from agentguard.cli import main
from agentguard.config import build, load
from agentguard.model import TaskStatus
from agentguard.ports import Store
from agentguard.testing import sample_task
from agentguard.testing.scenes import call, live_credential, pending_approval
from tests.real.conftest import needed

FAR = 1e12
Run = Callable[..., Result]


@pytest.fixture(params=["redis", "valkey", "postgres"])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration that names an empty store on a server."""
    name = f"command_{secrets.token_hex(4)}"
    url = needed(f"AGENTGUARD_TEST_{request.param.upper()}")
    file = tmp_path / "agentguard.toml"
    if request.param != "postgres":
        file.write_text(f'[store]\nkind = "redis"\nurl = "{url}"\nprefix = "{name}"\ndurability = "lossy"\n')
        yield file
        return
    parts = urlsplit(url)
    monkeypatch.setenv("STORE_PASSWORD", parts.password or "")
    bare = url.replace(f":{parts.password}@", "@")
    file.write_text(
        f'[store]\nkind = "postgres"\nurl = "{bare}"\nschema = "{name}"\ndurability = "lossy"\n'
        'password = "env:STORE_PASSWORD"\n'
    )
    yield file
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE".encode())


@pytest.fixture
def run(config: Path) -> Run:
    return lambda *args: CliRunner().invoke(main, ["store", *args, "--config", str(config)])


@pytest.fixture
def store(config: Path) -> Iterator[Store]:
    """The store of a guard with that configuration."""
    store = build(load(config)).ports.store
    yield store
    store.close()  # type: ignore[attr-defined]  # those of servers have it


def test_a_store_is_made_once(run: Run, config: Path) -> None:
    first, second = run("migrate"), run("migrate")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    if "postgres" in config.read_text():
        assert "there was no store: one was made" in first.output
    assert "has the newest schema already" in second.output
    assert run("check").exit_code == 0


def test_what_is_live_and_what_nobody_has_revoked_is_told(run: Run, store: Store) -> None:
    for name in ("child", "over"):
        store.create_task(sample_task(name, deadline=FAR))
    store.begin_call(call("1"), replace(live_credential("1"), expires_at=FAR))
    assert run("check").exit_code == 0
    store.begin_call(call("2", task="over"), replace(live_credential("2", task="over"), expires_at=FAR))
    store.begin_call(call("3"), live_credential("3"))  # it expired in 1970
    store.end_task("over", TaskStatus.REVOKED)
    result = run("check")
    assert result.exit_code == 1, result.output
    assert "1 credentials of calls" in result.output
    assert "2 credentials wait for their revocation" in result.output
    store.forget("2")
    store.forget("3")
    assert run("check").exit_code == 0


def test_a_question_of_a_task_that_is_over_is_not_open(run: Run, store: Store) -> None:
    for name in ("child", "over"):
        store.create_task(sample_task(name, deadline=FAR))
        store.save_approval(replace(pending_approval(name, task_id=name), expires_at=FAR))
    store.end_task("over", TaskStatus.REVOKED)
    output = run("check").output
    assert ("1 open questions" in output) is hasattr(store, "counts")  # Redis counts nothing


def test_a_server_is_not_compacted_from_here(run: Run) -> None:
    result = run("compact")
    assert result.exit_code == 2
    assert "not compacted from here" in result.output


@pytest.mark.promise("recover-without-code")
def test_what_a_pod_left_in_a_store_on_a_server_is_told_and_revoked(config: Path, store: Store) -> None:
    def command(*args: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [*args, "--config", str(config)])
        return result.exit_code, " ".join(result.output.split())

    store.create_task(sample_task("child", deadline=FAR))
    for name, process in (("1", "pod/pid:[1]|7@100"), ("2", "elsewhere|7@100")):
        credential = replace(live_credential(name), broker="*/read", owner=process, expires_at=FAR)
        store.begin_call(call(name), credential)
    code, text = command("status")
    assert code == 0
    assert "pod/pid:[1]|7@100 has 1 unfinished calls, and is elsewhere" in text
    if "postgres" in config.read_text():
        assert "1 active tasks" in text
        assert "2 running calls" in text
    assert "password" not in text
    code, text = command("recover", "--gone", "pod/pid:[1]")
    assert code == 0
    assert "revoked 1 credentials 1 of */read" in text
    assert [one.call_id for one in store.live("child")] == ["2"]
