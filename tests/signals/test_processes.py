"""A server in another process, without the guard's store, refuses the token of a task that has ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentguard import ToolPath
from agentguard.credentials import LocalIssuer, load_key
from agentguard.credentials.local_issuer import jwks as token_keys
from agentguard.signals import jwks
from agentguard.stores.memory import MemoryStore
from tests.doubles.signal_parts import ISSUER

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


def start_part(part: str, settings: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.doubles.signal_parts", part]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(settings))
    process.stdin.close()
    process.stdin = None
    return process


def run_part(part: str, settings: dict[str, Any], *, code: int = 0) -> dict[str, Any]:
    """Run an agent in another process to its end, and return what it printed."""
    process = start_part(part, settings)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return {name: fact for line in out.splitlines() for name, fact in json.loads(line).items()}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    reader = LocalIssuer(
        ToolPath.READ, issuer=ISSUER, store=MemoryStore(), key=load_key(tmp_path / "read.pem")
    )
    return {
        "home": str(tmp_path),
        "token_keys": token_keys(reader),
        "signal_keys": jwks(load_key(tmp_path / "signals.pem")),
    }


@contextmanager
def shop(settings: dict[str, Any]) -> Iterator[int]:
    process = start_part("shop", settings)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["port"]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.promise("signal-without-shared-store")
def test_a_stolen_token_with_its_key_is_refused_after_the_task(settings: dict[str, Any]) -> None:
    with shop(settings) as port:
        facts = run_part("complete", {**settings, "port": port})
    assert facts == {
        "tool": "200",
        "after_the_call": 200,  # the guard has revoked it, and the server shares no store with the guard
        "after_the_end_of_another_task": 200,
        "after_the_task": 401,
        "left": 0,
    }


@pytest.mark.promise("signal-arrives-once")
def test_a_signal_that_a_killed_guard_owed_arrives_when_both_are_up_again(settings: dict[str, Any]) -> None:
    with shop(settings) as port:
        config = {**settings, "port": port}
        stolen = run_part("crash", config, code=-9)
    assert run_part("recover", config) == {"left": 1}

    def works() -> int:
        headers = {"Authorization": f"DPoP {stolen['token']}", "DPoP": stolen["proofs"].pop()}
        url = f"http://127.0.0.1:{port}/orders/4711"
        return httpx.get(url, headers=headers, trust_env=False).status_code

    with shop(config):
        assert works() == 200  # nobody has told the server yet
        assert run_part("recover", config) == {"left": 0}
        assert works() == 401
