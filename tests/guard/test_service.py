"""The example of a web service, as a process that gets SIGTERM while a tool runs."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.stores.sqlite import SqliteStore

EXAMPLES = Path(__file__).parents[2] / "examples"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Service:
    """The example, which runs."""

    def __init__(self, path: Path) -> None:
        self.path, port = path, free_port()
        command = [sys.executable, str(path / "service.py"), str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)

    def orders(self, order_id: str, seconds: float = 0.0) -> httpx.Response:
        return self.client.get(f"/orders/{order_id}", params={"seconds": seconds})

    def wait(self) -> None:
        end = time.monotonic() + 40
        while True:
            try:
                assert self.orders("4711").json() == "I have read order 4711."
                return
            except httpx.ConnectError:
                assert self.process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)

    def outcomes(self) -> list[tuple[object, object]]:
        records = JsonLinesAudit(self.path / ".agentguard" / "audit.jsonl").records()
        return [(one["outcome"], one["revoked"]) for one in records if one["event"] == "outcome"]

    def live(self) -> int:
        return len(SqliteStore(self.path / ".agentguard" / "state.db").live())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    ignored = shutil.ignore_patterns(".*", "__pycache__")
    service = Service(Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=ignored)))
    yield service
    service.client.close()
    service.process.kill()
    service.process.communicate()


@pytest.mark.process
@pytest.mark.promise("closing-leaves-nothing-alive")
@pytest.mark.parametrize(("seconds", "outcome"), [(1.0, "done"), (30.0, "cancelled")])
def test_a_service_that_gets_sigterm_ends_its_calls_and_leaves_nothing_alive(
    service: Service, seconds: float, outcome: str
) -> None:
    service.wait()
    answers: list[httpx.Response] = []
    request = threading.Thread(target=lambda: answers.append(service.orders("1", seconds)))
    request.start()
    assert service.process.stdout is not None
    assert [service.process.stdout.readline() for _ in range(2)] == ["reading\n"] * 2
    began = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(20)
    request.join(5)
    assert time.monotonic() - began < 15
    assert [answer.is_success for answer in answers] == [outcome == "done"]
    assert (service.outcomes(), service.live()) == ([("done", True), (outcome, True)], 0)
