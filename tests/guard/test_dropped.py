"""What a guard leaves that nobody has closed: no file descriptor, no thread, and no credential."""

from __future__ import annotations

import asyncio
import gc
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool

from agentguard import Guard, ToolPath
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.concurrency.drive import drive
from agentguard.model import Credential, Grant
from agentguard.outbound.client import Outbound
from agentguard.stores.sqlite import SqliteStore
from tests.conftest import Kit, Mode, classified
from tests.tiers import examples

ALL: Any = {"tools": "*"}
GUARDS = 50


class Issuer(http.server.BaseHTTPRequestHandler):
    """Answers every request, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def issuer() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Asking:
    """A broker that asks an issuer over HTTP."""

    paths = frozenset(ToolPath)

    def __init__(self, url: str) -> None:
        self._outbound = Outbound("issuer", url)

    def close(self) -> None:
        self._outbound.close()

    def issue(self, grant: Grant) -> Credential:
        drive(self._ask())
        return Credential("s3cret", id=grant.id, expires_at=time.time() + 60, headers=lambda *_: {})

    async def _ask(self) -> None:
        await self._outbound.ask.sync("POST", "/")

    async def aissue(self, grant: Grant) -> Credential:
        await self._outbound.ask.async_("POST", "/")
        return Credential("s3cret", id=grant.id, expires_at=time.time() + 60, headers=lambda *_: {})

    def revoke(self, handle: str, expires_at: float) -> None:
        pass


@tool
def look(order: str) -> str:
    """Look."""
    return "it is on its way"


def descriptors() -> list[str]:
    """Return what each open descriptor of this process leads to."""
    leads = []
    for name in os.listdir("/proc/self/fd"):
        try:
            leads.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return sorted(leads)


def ours() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("agentguard"))


async def until_gone(before: int) -> None:
    end = time.monotonic() + 8
    while (len(descriptors()) > before or ours()) and time.monotonic() < end:
        gc.collect()
        await asyncio.sleep(0.02)


def make(kit: Kit, path: Path, number: int, issuer: str) -> Guard:
    guard = kit.another(
        store=SqliteStore(path / f"{number}.db"),
        audit=JsonLinesAudit(path / f"{number}.jsonl"),
        brokers=dict.fromkeys([(None, tool_path) for tool_path in ToolPath], broker := Asking(issuer)),
    )
    guard._closer.parts.insert(0, broker)  # as of a guard that was made from a file
    return guard


@pytest.mark.exhaustive(2)
@pytest.mark.parametrize("closed", [False, True], ids=["dropped", "closed"])
async def test_guards_that_are_gone_leave_no_descriptor_and_no_thread(
    kit: Kit, mode: Mode, tmp_path: Path, issuer: str, closed: bool
) -> None:
    async def use(number: int) -> None:
        guard = make(kit, tmp_path, number, issuer)
        guarded = guard.wrap(classified(look.model_copy()))[0]
        async with guard.task("t", subject="alice", mandate=ALL):
            await mode.invoke(guarded, {"order": "4711"})
        if closed:
            await mode.call(guard, "close")

    before = descriptors()
    await use(-1)
    await until_gone(len(before))
    for number in range(examples(GUARDS)):
        await use(number)
    await until_gone(len(before))
    assert (len(descriptors()) <= len(before), ours()) == (True, []), descriptors()


AT_EXIT = """
import sys, threading
from agentguard import Guard, ToolPath, classified
from agentguard.catalog import Catalog
from agentguard.identity.local import LocalIdentity
from agentguard.model import Resource
from agentguard.ports import BrokerTraits
from agentguard.stores.sqlite import SqliteStore
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.concurrency.drive import drive
from agentguard.testing import FixedPolicy, RecordingBroker
from langchain_core.tools import tool

class Broker(RecordingBroker):
    traits = BrokerTraits(reuse=frozenset({ToolPath.READ}), binds_arguments=False)
    def revoke(self, handle, expires_at):
        super().revoke(handle, expires_at)
        print("revoked", flush=True)

runs, never = threading.Event(), threading.Event()

@tool
def look(order: str) -> str:
    "Look."
    return "it is on its way"

@tool
def wait(order: str) -> str:
    "Wait."
    runs.set()
    never.wait()

broker = Broker()
guard = Guard(
    catalog=Catalog(resources=[Resource(name="orders", origins=("https://orders.example",))]),
    policy=FixedPolicy(), identity=LocalIdentity("agent://test"),
    brokers=dict.fromkeys([(None, path) for path in ToolPath], broker),
    store=SqliteStore(sys.argv[1] + "/store.db"), audit=JsonLinesAudit(sys.argv[1] + "/audit.jsonl"),
)
for tool_, path in ((look, "read"), (wait, "write")):
    tool_.metadata = {"agentguard": classified(path=path, resource="orders")}
look, wait = guard.wrap([look, wait])
task = guard.task("t", subject="alice", mandate={"tools": "*"}).begin()

def call():
    with task.active():
        wait.invoke({"order": "1"})

with task.active():
    look.invoke({"order": "1"})
threading.Thread(target=call, daemon=True).start()
runs.wait()
print("live", len(broker.live), flush=True)
"""


@pytest.mark.process
@pytest.mark.promise("closing-leaves-nothing-alive")
def test_a_process_that_ends_without_closing_its_guard_revokes_what_it_holds(tmp_path: Path) -> None:
    run = [sys.executable, "-c", AT_EXIT, str(tmp_path)]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    said = ended.stdout
    assert (said[:6], said.count("revoked")) == ("live 2", 2), ended.stderr  # in threads: side by side
    assert SqliteStore(tmp_path / "store.db").live() == ()
