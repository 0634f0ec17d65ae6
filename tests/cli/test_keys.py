"""`agentguard keys` replaces the keys by agentguard.toml alone, beside guards that run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentguard.cli import main
from agentguard.config import build, load
from agentguard.credentials.keyfile import read_key

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `agentguard keys` on a configuration whose guard has run once."""
    config = tmp_path / "agentguard.toml"
    config.write_text('[issuer]\njwks = "jwks.json"\n[store]\nkind = "memory"\n')
    build(load(config))

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["keys", *args, "--config", str(config)])

    return run


def published(tmp_path: Path) -> list[str]:
    return [key["kid"] for key in json.loads((tmp_path / "jwks.json").read_text())["keys"]]


def test_keys_are_listed_with_what_they_do(run: Run, tmp_path: Path) -> None:
    first = run("list")
    assert first.exit_code == 0
    assert first.output.count("signs ") == 3
    kid = read_key(tmp_path / ".agentguard/keys/read.pem").kid
    assert kid in first.output
    assert run("rotate").exit_code == 0
    second = run("list").output
    assert second.count("waits ") == 3
    assert second.count("until 2") == 3


@pytest.mark.promise("rotation-refuses-nothing")
def test_a_new_key_is_published_at_once_and_signs_after_verifiers_have_read_it(
    run: Run, tmp_path: Path
) -> None:
    kids = published(tmp_path)
    now = time.time()
    result = run("rotate")
    assert result.exit_code == 0
    assert set(kids) < set(published(tmp_path))
    assert len(published(tmp_path)) == 6
    begins = {int(file.name.split(".")[1]) for file in (tmp_path / ".agentguard/keys").glob("*.*.pem")}
    assert all(now + 300 <= begin for begin in begins)
    assert run("rotate", "--wait", "30").exit_code == 2  # less than verifiers keep a set
    again = run("rotate")
    assert again.exit_code == 2
    assert "waits for its time already" in again.output


def test_a_key_may_sign_at_once(run: Run, tmp_path: Path) -> None:
    assert run("rotate", "--now").exit_code == 0
    time.sleep(1.0)  # the second in which it was made may not be over
    output = run("list").output
    assert output.count("verifies ") == 3
    assert output.count("signs ") == 3


@pytest.mark.promise("rotation-refuses-nothing")
def test_an_old_key_is_removed_when_its_tokens_are_over_and_no_earlier(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / ".agentguard/keys"
    now = int(time.time())
    for path in ("read", "write", "escalation"):  # rotations 3,600 + 65 seconds ago, and a little later
        (folder / f"{path}.pem").rename(folder / f"{path}.1.pem")
    run("rotate", "--now")
    for file in folder.glob(f"*.{now}*.pem"):
        file.rename(folder / f"{file.name.split('.')[0]}.{now - 3_660}.pem")
    assert "0 keys were removed, 6 are left" in run("prune").output
    for file in folder.glob("*.1?????????.pem"):
        file.rename(folder / f"{file.name.split('.')[0]}.{now - 3_700}.pem")
    result = run("prune")
    assert "3 keys were removed, 3 are left" in result.output
    assert len(published(tmp_path)) == 3


def test_a_folder_that_is_not_there_is_an_error_and_makes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "agentguard.toml"
    config.write_text("")
    for command in ("list", "rotate", "prune"):
        result = CliRunner().invoke(main, ["keys", command, "--config", str(config)])
        assert result.exit_code == 2
        assert "keys" in result.output
    assert [file.name for file in tmp_path.iterdir()] == ["agentguard.toml"]
