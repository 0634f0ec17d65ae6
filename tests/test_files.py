"""The folder `.agentguard` that we make: only its owner can enter it, and git leaves it out."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agentguard import Guard
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.files import make_private_folder
from agentguard.stores.sqlite import SqliteStore

TOML = '[policy]\ncedar = ["policy.cedar"]\n'
RULE = '@id("all") permit (principal, action, resource);'


def make_guard(folder: Path) -> None:
    (folder / "agentguard.toml").write_text(TOML)
    (folder / "policy.cedar").write_text(RULE)
    Guard.from_file(folder / "agentguard.toml").close()


def make_store(folder: Path) -> None:
    SqliteStore(folder / ".agentguard" / "state.db").close()


def make_log(folder: Path) -> None:
    JsonLinesAudit(folder / ".agentguard" / "audit.jsonl").close()


MAKERS = pytest.mark.parametrize("make", [make_guard, make_store, make_log])


@MAKERS
def test_whatever_makes_the_folder_makes_it_private_and_keeps_all_of_it_out_of_git(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path)
    folder = tmp_path / ".agentguard"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / ".gitignore").read_text().splitlines()[-1] == "*"


@pytest.mark.process
def test_git_finds_neither_keys_nor_state_nor_the_log(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)  # noqa: S607  whichever git there is
    make_guard(tmp_path)
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],  # noqa: S607  the same
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert status.stdout.split() == ["??", "agentguard.toml", "??", "policy.cedar"]


def test_a_folder_that_exists_and_one_of_another_name_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / ".agentguard").mkdir(mode=0o755)
    for name in (".agentguard", "state"):
        make_private_folder(tmp_path / name / "keys")
        assert [path.name for path in (tmp_path / name).iterdir()] == ["keys"]
    assert stat.S_IMODE((tmp_path / ".agentguard").stat().st_mode) == 0o755


def test_each_folder_that_is_missing_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / ".agentguard" / "keys")
    for folder in ("a", "a/.agentguard", "a/.agentguard/keys"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    assert (tmp_path / "a/.agentguard/.gitignore").exists()
