"""What a guard says of its own health, and that to ask it mints, records and tells nothing."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.tools import tool

import agentguard
from agentguard import Guard, ToolPath
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.enforcement.health import Health
from agentguard.errors import IssueError, StoreError
from agentguard.outbound.client import Limits, Outbound
from agentguard.outbound.services import AsksServices
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing import RecordingBroker
from tests.conftest import Kit, Mode

ALL: Any = {"tools": "*"}
ADDRESS = "https://issuer.internal.example"


class Issuer(AsksServices, RecordingBroker):
    """A broker whose issuer answers, fails or hangs, as the test says."""

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.status: int | None = 200
        transport = httpx.MockTransport(self.answer)
        self._http = Outbound(
            ADDRESS,
            ADDRESS,
            limits=Limits(attempts=1, threshold=2),
            transport=transport,
            async_transport=transport,
        )

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.method)
        if self.status is None:
            raise httpx.ConnectError("no route to 10.0.0.7")
        return httpx.Response(self.status)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def guard(kit: Kit, issuer: Issuer, tmp_path: Path) -> Iterator[Guard]:
    with kit.another(
        brokers=dict.fromkeys([(None, path) for path in ToolPath], issuer),
        store=SqliteStore(tmp_path / "store.db"),
        audit=JsonLinesAudit(tmp_path / "audit.jsonl"),
    ) as guard:
        yield guard


async def health_of(guard: Guard, mode: Mode) -> Health:
    health: Health = await mode.call(guard, "health")
    return health


async def test_a_guard_that_can_be_used_is_healthy_and_nothing_is_minted_or_recorded(
    guard: Guard, mode: Mode, issuer: Issuer, tmp_path: Path
) -> None:
    health = await health_of(guard, mode)
    assert health, health
    assert {(check.kind, check.name) for check in health.checks} == {
        ("store", "read"),
        ("store", "write"),
        ("audit", "audit"),
        ("broker", "default/read"),
    } or [check.kind for check in health.checks] == ["store", "store", "audit", "broker"]
    assert (issuer.asked, issuer.issued) == (["GET"], [])
    assert (tmp_path / "audit.jsonl").read_bytes() == b""
    assert (health.outbox.depth, health.outbox.age, health.outbox.live) == (0, 0.0, 0)
    assert [breaker.seconds for breaker in health.breakers] == [0.0]


@pytest.mark.parametrize("status", [None, 503])
async def test_an_issuer_that_does_not_answer_is_a_problem(
    guard: Guard, mode: Mode, issuer: Issuer, status: int | None
) -> None:
    issuer.status = status
    health = await health_of(guard, mode)
    assert not health
    assert [check.kind for check in health.problems] == ["broker"]


async def test_a_breaker_that_is_open_is_told_and_its_service_is_not_asked(
    guard: Guard, mode: Mode, issuer: Issuer
) -> None:
    issuer.status = None
    for _ in range(3):
        health = await health_of(guard, mode)
    assert len(issuer.asked) == 2
    assert "not asked for" in health.problems[0].problem
    assert health.breakers[0].seconds > 0


async def test_a_store_that_is_gone_and_a_log_that_cannot_be_written_are_problems(
    guard: Guard, mode: Mode, tmp_path: Path
) -> None:
    (tmp_path / "store.db").unlink()
    (tmp_path / "audit.jsonl").unlink()
    (tmp_path / "audit.jsonl").mkdir()
    await asyncio.sleep(0.01)
    health = await health_of(guard, mode)
    assert {check.kind for check in health.problems} == {"store", "audit"}


class Hanging(RecordingBroker):
    """A broker that does not say whether its issuer answers."""

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()

    def health(self) -> None:
        self.end.wait(20)


async def test_a_part_that_hangs_holds_nobody_up(kit: Kit, mode: Mode) -> None:
    hanging: Any = Hanging()
    hanging.inline = False
    guard = kit.another(brokers=dict.fromkeys([(None, path) for path in ToolPath], hanging))
    guard._health._timeout = 0.1
    began = time.monotonic()
    health = await asyncio.wait_for(health_of(guard, mode), 10)
    hanging.end.set()
    assert [check.problem for check in health.problems] == ["it did not answer in time"]
    assert time.monotonic() - began < 5


@tool
def look(order: str) -> str:
    """Look."""
    agentguard.credential()
    return "it is on its way"


async def test_the_outbox_has_a_depth_and_an_age_and_a_guard_with_it_is_healthy(kit: Kit, mode: Mode) -> None:
    later = [0.0]
    kit.guard = kit.another(clock=lambda: time.time() + later[0], lifetime=60.0)
    guarded = kit.wrap(look)
    kit.broker.revoke_error = IssueError("down")
    kit.guard.enforcement.on_unrevoked = lambda: None
    async with kit.guard.task("t", subject="alice", mandate=ALL).aactive():
        await mode.invoke(guarded, {"order": "1"})
    later[0] = 45.0
    health = await health_of(kit.guard, mode)
    assert (health.outbox.depth, health.outbox.live) == (1, 1)
    assert bool(health)
    assert 45.0 <= health.outbox.age < 55.0


async def test_a_closed_guard_is_not_healthy_and_asking_it_raises_nothing(guard: Guard, mode: Mode) -> None:
    await mode.call(guard, "close")
    health = await health_of(guard, mode)
    assert (bool(health), health.closing) == (False, True)


async def ask(app: Any, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        return await client.request(method, "/healthz")


@pytest.mark.promise("healthz-tells-nothing")
async def test_healthz_answers_and_names_no_host_unless_asked(guard: Guard, issuer: Issuer) -> None:
    app, details = guard.healthz(), guard.healthz(details=True)
    answer = await ask(app)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "failed": []})
    issuer.status = None
    answer = await ask(guard.healthz())
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable", "failed": ["broker"]})
    assert "internal" not in answer.text
    detailed = await ask(details)
    assert detailed.status_code == 503
    assert ADDRESS in json.dumps(detailed.json())
    assert detailed.headers["cache-control"] == "no-store"


@pytest.mark.promise("healthz-tells-nothing")
async def test_healthz_cannot_be_used_to_load_an_issuer(guard: Guard, issuer: Issuer) -> None:
    app = guard.healthz()
    answers = await asyncio.gather(*(ask(app) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    await ask(app)
    assert len(issuer.asked) == 1
    app._last = (time.monotonic() - 1.5, app._last[1]) if app._last else None
    await ask(app)
    assert len(issuer.asked) == 2


async def test_healthz_answers_to_get_and_head_alone(guard: Guard) -> None:
    app = guard.healthz()
    assert (await ask(app, "POST")).status_code == 405
    head = await ask(app, "HEAD")
    assert (head.status_code, head.content) == (200, b"")


def test_a_credential_of_a_hidden_error_is_not_in_the_health(kit: Kit) -> None:
    class Store(type(kit.store)):  # type: ignore[misc]  # one that fails
        def live(self, task_id: str | None = None) -> Any:
            raise StoreError("the disk is gone")

    health = kit.another(store=Store()).health()
    assert [(check.name, check.problem) for check in health.problems] == [
        ("read", "StoreError: the disk is gone")
    ]
