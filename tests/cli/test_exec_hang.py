"""`agentguard exec` and a vault that hangs: the command's end and our signals are served all the same."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest

from agentguard.cli.exec.reads import StoredReads
from agentguard.errors import IssueError
from agentguard.model import Secret
from tests.cli.test_exec import PAIR, Bao, Exec, _signal_handlers, bao, line, wrapped

__all__ = ["_signal_handlers", "bao", "wrapped"]  # fixtures


class Vault:
    """AWS's Secrets Manager, which answers *answers* requests and then sends one byte after the other."""

    def __init__(self) -> None:
        self.answers, self.hangs, self.closed = 0, Event(), Event()
        vault = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                vault.answers -= 1
                content = json.dumps({"SecretString": "v"}).encode()
                self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n".encode())
                if vault.answers < 0:
                    vault.hangs.set()
                    while not vault.closed.wait(0.1):  # no time-out of a read ever passes
                        self.wfile.write(b"x")
                self.wfile.write(b"\r\n" + content)

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def vault(wrapped: Exec) -> Iterator[Vault]:
    vault = Vault()
    wrapped.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{vault.server.server_address[1]}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "k",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    yield vault
    vault.closed.set()
    vault.server.shutdown()
    vault.server.server_close()


@pytest.mark.process
@pytest.mark.promise("exec-lease-ends", "exec-recorded")
@pytest.mark.parametrize("end", ["child", "signal"])
def test_a_vault_that_hangs_later_keeps_no_lease_and_no_signal(
    wrapped: Exec, bao: Bao, vault: Vault, end: str
) -> None:
    vault.answers = 1
    options = ["--renew=fd", "--refresh=1", "--secret", "K=aws:x", *PAIR]
    running = wrapped.start(*options, "--", "sh", "-c", "echo up; read end; exit 7")
    assert line(running) == "up"
    assert vault.hangs.wait(10)
    if end == "signal":
        running.terminate()
    else:
        assert running.stdin is not None
        running.stdin.write("\n")
        running.stdin.flush()
    assert running.wait(8) == (7 if end == "child" else 128 + signal.SIGTERM)
    assert bao.state()["leases"] == []


@pytest.mark.process
@pytest.mark.promise("exec-recorded")
def test_a_first_read_that_hangs_is_ended_by_ctrl_c(wrapped: Exec, vault: Vault) -> None:
    running = wrapped.start("--secret", "K=aws:x", "--", "no-such-command")
    assert vault.hangs.wait(15)
    running.send_signal(signal.SIGINT)
    try:
        assert running.wait(8) == 128 + signal.SIGINT
    except subprocess.TimeoutExpired:
        pytest.fail("no signal ends it")
    assert wrapped.records()[-1]["status"] == 128 + signal.SIGINT


def test_a_read_is_given_up_after_its_time_and_the_others_are_not() -> None:
    end = Event()

    class Stored:
        def __init__(self, name: str) -> None:
            self.name = name

        def read(self) -> Secret:
            if self.name == "hung":
                end.wait(20)
            return Secret("v")

    reads = StoredReads({name: Stored(name) for name in ("hung", "other")}, seconds=0.05)
    assert reads.wait(10)
    end.set()
    with pytest.raises(IssueError, match=r"hung: no answer within 0\.05 seconds"):
        reads.values()
    reads = StoredReads({"other": Stored("other")})
    assert reads.wait(10)
    assert reads.values()["other"].reveal() == "v"
    assert StoredReads({}).wait(0)
