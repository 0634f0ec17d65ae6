from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentguard.audit import verify
from agentguard.cli import main
from agentguard.cli.demo.story import STORY

DEMO = [sys.executable, "-c", "from agentguard.cli import main; main()", "demo"]
LIMIT = 15.0  # seconds; what the demo promises


def children(pid: int) -> list[int]:
    """Return the processes that *pid* has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_demo_keeps_its_promises_in_time_and_leaves_a_sound_log(tmp_path: Path) -> None:
    begun = time.monotonic()
    ran = subprocess.run(
        [*DEMO, "--keep", str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        timeout=4 * LIMIT,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    elapsed = time.monotonic() - begun
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert elapsed < LIMIT
    *told, command = ran.stdout.strip().splitlines()
    assert max(map(len, told)) <= 80
    assert "promises kept" in ran.stdout
    found = re.fullmatch(r"agentguard audit verify (.*) --head (.*)", command)
    assert found is not None
    assert CliRunner().invoke(main, ["audit", "verify", found[1], "--head", found[2]]).exit_code == 0
    with Path(found[1]).open("rb") as lines:
        assert verify(lines).sound
    assert Path(found[1]).stat().st_mode & 0o077 == 0
    # a token begins with {"alg" or {"typ", in base64url
    seen = ran.stdout.encode() + b"".join(f.read_bytes() for f in (tmp_path / "kept").iterdir())
    assert b"eyJ" not in seen


def test_a_promise_that_is_not_kept_is_named_and_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bearer, *others = STORY.alive
    broken = replace(
        STORY,
        after=replace(STORY.after, ends="done"),
        alive=(replace(bearer, error="invalid_request"), *others),
        deeds=("refund 4711", "close dispute 4711", "refund 4712"),
    )
    monkeypatch.setattr("agentguard.cli.demo.STORY", broken)
    result = CliRunner().invoke(main, ["demo", "--keep", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 1
    assert "3 of 32 promises BROKEN" in result.output
    named = re.findall(
        r"^  (get_order: promised|thief, bearer: promised|the shop has done)", result.output, re.M
    )
    assert sorted(named) == ["get_order: promised", "the shop has done", "thief, bearer: promised"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.usefixtures("heard")
def test_a_demo_that_is_interrupted_leaves_no_process(
    sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    errors, temporary = tmp_path / "stderr", tmp_path / "temporary"
    temporary.mkdir()
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            DEMO, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "TMPDIR": str(temporary)}
        ) as demo,
    ):
        assert demo.stdout is not None
        assert demo.stdout.readline(), errors.read_text()  # the shop has told its port
        started = children(demo.pid)
        assert len(started) == 2
        demo.send_signal(sent)
        assert demo.wait(10) == code
    deadline = time.monotonic() + 10
    while (left := [pid for pid in started if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    if sent is signal.SIGINT:
        assert not list(temporary.iterdir())


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "agentguard.toml").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--keep", str(tmp_path)])
    assert result.exit_code == 1
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_without_its_extra_the_demo_says_so() -> None:
    program = "import sys; sys.modules['uvicorn'] = None; from agentguard.cli import main; main(['demo'])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install 'agentguard[demo]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_story_covers_each_refusal_by_a_code_of_its_own() -> None:
    calls = {call.ends for call in (*STORY.honest, *STORY.injected, STORY.tapped, STORY.after)}
    assert calls == {"done", "mandate", "policy", "approval_refused", "task_ended"}
    answers = [(each.status, each.error, each.reason) for each in (*STORY.alive, *STORY.late)]
    assert len(set(answers)) == len(answers) == 7
