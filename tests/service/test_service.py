"""A service with two workers and streamed answers: each call is its user's, and nothing is left alive."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from agentguard import Guard
from agentguard.audit.chain import Head, Report, verify
from tests.servers.server import free_port, serves

REQUESTS, USERS, AT_ONCE = 1_000, 50, 16
SETTINGS = """
[agent]
id = "agent://desk"
[policy]
cedar = ["policy.cedar"]
[resources.orders]
origins = ["https://orders.example"]
[tools.get_order]
path = "read"
resource = "orders"
[tools.refund_order]
path = "write"
resource = "orders"
"""


@dataclass
class Service:
    """The service as its users and its operator see it."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path
    answers: int = 0
    dropped: int = 0
    failed: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / ".agentguard" / "audit.jsonl"

    async def workers(self, http: httpx.AsyncClient) -> set[int]:
        """Return the ids of the workers that answer now."""
        answers = await asyncio.gather(*(http.get("/pid") for _ in range(40)))
        return {answer.json()["pid"] for answer in answers}

    async def ask(self, http: httpx.AsyncClient, number: int) -> None:
        """Be one user with one request; a third of them go before the answer is complete."""
        user, order = f"u{number % USERS}", f"u{number % USERS}-2"
        if number % 10 == 9:  # the model asks for another user's order
            order = f"u{(number + 1) % USERS}-1"
        path = f"/{'sync' if number % 2 else 'async'}/{user}/{order}"
        lines: list[str] = []
        try:
            async with http.stream("GET", path) as response:
                async for line in response.aiter_lines():
                    lines.append(line)
                    if number % 3 == 0 and len(lines) == 2:
                        self.dropped += 1
                        break
                else:
                    self.answers += 1
        except httpx.HTTPError:
            self.failed += 1  # the worker was replaced
            return
        self._compare(user, order, lines, is_whole=number % 3 != 0)

    def _compare(self, user: str, order: str, lines: list[str], *, is_whole: bool) -> None:
        texts = [text for line in lines for text in json.loads(line)]
        results = [json.loads(text) for text in texts if text.startswith("{")]
        for result in results:
            if (result["user"], result["subject"]) != (user, f"user:{user}"):
                self.wrong.append(f"{user} got {result}")
        orders = [result["order"] for result in results]
        expected = [f"{user}-1"] + ([order] if is_whole and order.startswith(f"{user}-") else [])
        if orders != expected:
            self.wrong.append(f"{user} asked for {order}, and got {orders} of {texts}")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "agentguard.toml").write_text(SETTINGS)
    (tmp_path / "policy.cedar").write_text('@id("all") permit(principal, action, resource);')
    port, root = free_port(), Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "tests.service.desk:app", f"--port={port}", "--workers=2",
         "--log-level=warning"],
        cwd=root,
        env={**os.environ, "DESK_CONFIG": str(tmp_path / "agentguard.toml")},
        start_new_session=True,
    )  # fmt: skip
    service = Service(f"http://127.0.0.1:{port}", process, tmp_path)
    try:
        ends = time.monotonic() + 60
        while not serves(f"{service.url}/pid"):
            assert time.monotonic() < ends
            time.sleep(0.2)
        yield service
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@asynccontextmanager
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits, trust_env=False) as http:
        yield http


def rotate(service: Service, number: int) -> Path:
    """Rotate the log as logrotate does: by a new name."""
    return service.log.rename(service.log.with_name(f"audit.{number}.jsonl"))


def memory(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.process
@pytest.mark.promise("service-keeps-users-apart")
async def test_a_thousand_streamed_requests_of_fifty_users_are_each_judged_for_their_own_user(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    began, places = time.monotonic(), asyncio.Semaphore(AT_ONCE)

    async def one(http: httpx.AsyncClient, number: int) -> None:
        async with places:
            await service.ask(http, number)

    logs, sizes = [], dict[int, int]()
    async with client(service) as http:
        for part in range(5):
            numbers = range(part * REQUESTS // 5, (part + 1) * REQUESTS // 5)
            asking = asyncio.gather(*(one(http, number) for number in numbers))
            if part in (1, 3):
                logs.append(rotate(service, part))
            if part == 2:
                killed = min(await service.workers(http))
                os.kill(killed, signal.SIGKILL)
            await asking
            if part == 0:
                sizes = {pid: memory(pid) for pid in await service.workers(http)}
        workers = await _both(service, http)
        grown = {pid: (sizes[pid], memory(pid)) for pid in workers & sizes.keys()}
    with capsys.disabled():
        seconds = time.monotonic() - began
        counts = f"{service.answers} answers, {service.dropped} dropped, {service.failed} failed"
        print(f"\n{counts} in {seconds:.0f} s; KiB of a worker's memory: {grown}")  # noqa: T201  figures
    assert service.wrong == [], _faults([*logs, service.log])
    assert service.answers + service.dropped + service.failed == REQUESTS
    assert service.failed <= 2 * AT_ONCE
    assert len(workers) == 2
    assert killed not in workers
    assert all(after < 1.25 * before for before, after in grown.values())
    os.killpg(service.process.pid, signal.SIGTERM)
    service.process.wait(30)
    _check_what_is_left(service, [*logs, service.log])


async def _both(service: Service, http: httpx.AsyncClient) -> set[int]:
    """Return the workers, once the one that replaces the killed one has started too."""
    ends = time.monotonic() + 60
    while len(workers := await service.workers(http)) < 2 and time.monotonic() < ends:  # noqa: ASYNC110  another process
        await asyncio.sleep(0.5)
    return workers


def _check_what_is_left(service: Service, logs: list[Path]) -> None:
    """Check that only the killed worker has left something, and that a next process ends it."""
    with closing(Guard.from_file(service.folder / "agentguard.toml")) as guard:
        store = guard.enforcement.ports.store
        active = {task for number in range(USERS) for task in store.active(f"user:u{number}")}
        live = store.live()
        assert len(active) <= AT_ONCE
        assert {credential.task_id for credential in live} <= active
        guard.recover()
        assert store.live() == ()
    reports = [_report(log) for log in logs]
    assert all(report.sound for report in reports)
    for log, report, following in zip(logs, reports, reports[1:], strict=False):
        assert report.head in following.continues
        assert _report(log, report.head).sound
    assert sum(report.records for report in reports) > 3 * REQUESTS


def _faults(logs: list[Path]) -> set[str]:
    """Return the reasons of those denials that no user has caused."""
    records = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return {record["reason"] for record in records if record.get("code", "").endswith("_error")}


def _report(log: Path, head: Head | None = None) -> Report:
    with log.open("rb") as lines:
        return verify(lines, head)
