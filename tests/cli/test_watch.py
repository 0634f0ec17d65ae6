"""`agentguard watch` decides anew on each save, and tells of a file that is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest

from agentguard import Guard
from agentguard.audit import JsonLinesAudit
from tests.cli.test_scenarios import CONFIG, GOOD, POLICY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agentguard.toml").write_text(CONFIG)
    (tmp_path / "policy.cedar").write_text(POLICY)
    (tmp_path / "scenarios.toml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def log(folder: Path) -> Path:
    """Record one small refund, with its request."""
    with Guard.from_file(
        folder / "agentguard.toml", audit=JsonLinesAudit(folder / "log.jsonl"), record_requests=True
    ) as guard:

        @guard.tool(path="write")
        def refund(order_id: str, to: str, amount: float) -> str:
            """Refund."""
            return "done"

        with guard.task("t", subject="ada", mandate={"tools": "*"}, words="Refund 30 for A-1 to ada"):
            assert refund.invoke({"order_id": "A-1", "to": "ada", "amount": 30}) == "done"
    assert any("request" in json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    return folder / "log.jsonl"


@pytest.fixture
def watching(folder: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-u", "-m", "agentguard", "watch", str(log)]
    process = subprocess.Popen(
        [*arguments, "--config", str(folder / "agentguard.toml")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    late = Timer(60, process.kill)  # so that a test that reads in vain ends
    late.start()
    yield process
    late.cancel()
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def until(process: subprocess.Popen[str], words: str) -> list[str]:
    """Read lines up to the one that has these words."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"the command has ended: {''.join(lines)}")


@pytest.mark.process
def test_each_save_decides_calls_and_scenarios_anew_and_ctrl_c_ends_it(
    folder: Path, watching: subprocess.Popen[str]
) -> None:
    first = until(watching, "coverage")
    assert any("0 of 1 calls would turn" in line for line in first)
    (folder / "policy.cedar").write_text(POLICY.replace("100.0", "10.0"))
    second = until(watching, "coverage")
    assert any("1 of 1 calls would turn" in line for line in second)
    assert any("expected permit, and it is ask" in line for line in second)
    (folder / "policy.cedar").write_text(POLICY.replace("amount", "amonut"))
    assert any("amonut" in line for line in until(watching, "policy.cedar"))
    (folder / "policy.cedar").write_text(POLICY)
    assert any("0 of 1 calls would turn" in line for line in until(watching, "coverage"))
    watching.send_signal(signal.SIGINT)
    assert watching.wait(20) == 0
