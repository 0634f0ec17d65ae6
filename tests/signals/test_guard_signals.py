"""A guard tells resource servers that a task has ended, and ends a task when a security team says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from agentguard import Guard
from agentguard.catalog import Catalog
from agentguard.errors import IssueError, TaskNotActive
from agentguard.identity import LocalIdentity
from agentguard.jose import Signer
from agentguard.model import TaskStatus
from agentguard.signals import IssuedId, SessionRevoked, Source, Transmitter, jwks
from agentguard.stores import MemoryStore
from agentguard.testing import FixedPolicy, RecordingAudit
from tests.conftest import Mode

TEAM, HERE = "https://soc.example", "https://guard.example"


class StubTransmitter:
    """A transmitter that keeps the handles that it should send, and can fail."""

    def __init__(self, *, failures: int = 0) -> None:
        self.handles, self.failures = list[str](), failures

    def notice(self, subject: str, cause: str, at: float) -> str:
        return SessionRevoked(at=at, user=IssuedId(HERE, subject), reason=cause).handle()

    def revoke(self, handle: str, expires_at: float) -> None:
        if self.failures:
            self.failures -= 1
            raise IssueError("answered 503")
        self.handles.append(handle)

    @property
    def tasks(self) -> set[str | None]:
        return {SessionRevoked.of(handle).task_id for handle in self.handles}


@pytest.fixture
def make_guard() -> Iterator[Callable[..., Guard]]:
    guards: list[Guard] = []

    def make(**changes: Any) -> Guard:
        parts: dict[str, Any] = {
            "catalog": Catalog([]),
            "policy": FixedPolicy(),
            "identity": LocalIdentity("agent://a"),
            "brokers": {},
            "store": MemoryStore(),
            "audit": RecordingAudit(),
        }
        guards.append(Guard(**{**parts, **changes}))
        return guards[-1]

    yield make
    for guard in guards:
        guard.close()


def until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    ends = time.monotonic() + seconds
    while not true() and time.monotonic() < ends:
        time.sleep(0.01)
    return true()


@pytest.mark.promise("signal-arrives-once")
@pytest.mark.parametrize("failures", [0, 1])
async def test_each_end_of_a_task_is_told_once_and_again_until_it_arrives(
    make_guard: Callable[..., Guard], mode: Mode, failures: int
) -> None:
    sender = StubTransmitter(failures=failures)
    guard = make_guard(signals={"orders": sender})
    task = guard.task("Refund", subject="user:ada", mandate={"tools": "*"}).begin()
    child = task.narrow("A part").begin()
    await mode.call(task, "revoke", "an operator said so")
    assert until(lambda: sender.tasks == {task.id, child.id})
    assert until(lambda: guard.enforcement.ports.store.live() == ())
    assert len(sender.handles) == 2
    event = SessionRevoked.of(sender.handles[0])
    assert (event.user, event.reason) == (IssuedId(HERE, "user:ada"), "an operator said so")
    await mode.call(task, "revoke", "again")
    await asyncio.sleep(0.05)
    assert len(sender.handles) == 2


@pytest.mark.promise("signal-arrives-once")
def test_what_was_owed_when_a_guard_ended_is_told_by_the_next(make_guard: Callable[..., Guard]) -> None:
    store, down, up = MemoryStore(), StubTransmitter(failures=1_000_000), StubTransmitter()
    first = make_guard(store=store, signals={"orders": down})
    task = first.task("Refund", subject="user:ada", mandate={"tools": "*"}).begin()
    task.complete()
    first.close()
    assert len(store.live()) == 1
    second = make_guard(store=store, signals={"orders": up})
    with second.task("Another", subject="user:bob", mandate={"tools": "*"}):
        assert until(lambda: up.tasks == {task.id})


def test_without_signals_the_end_of_a_task_owes_nothing(make_guard: Callable[..., Guard]) -> None:
    guard = make_guard()
    guard.task("Refund", subject="user:ada", mandate={"tools": "*"}).begin().complete()
    assert guard.enforcement.ports.store.live() == ()


# --- receiving


async def push(guard: Guard, event: SessionRevoked) -> httpx.Response:
    signer = Signer.generate()
    source = Source(issuer=TEAM, keys=jwks(signer), speaks_for=frozenset({HERE}))
    sender = Transmitter("https://guard.example/signals", audience=HERE, issuer=TEAM, signer=signer)
    transport = httpx.ASGITransport(guard.receiver([source], audience=HERE))
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
        headers = {"Content-Type": "application/secevent+jwt"}
        return await client.post("/signals", content=sender.sign(event), headers=headers)


@pytest.mark.promise("signal-ends-task")
@pytest.mark.parametrize("by", ["task", "user"])
async def test_a_security_teams_signal_ends_a_task_or_all_of_a_users(
    make_guard: Callable[..., Guard], by: str
) -> None:
    guard = make_guard()
    tasks = [
        guard.task("Refund", subject=subject, mandate={"tools": "*"}).begin()
        for subject in ("user:ada", "user:ada", "user:bob")
    ]
    by_task: dict[str, Any] = {"task_id": tasks[0].id}
    target = by_task if by == "task" else {"user": IssuedId(HERE, "user:ada")}
    answer = await push(guard, SessionRevoked(at=time.time(), reason="stolen laptop", **target))
    assert answer.status_code == 202, answer.text
    statuses = [task.state().status for task in tasks]
    revoked, active = TaskStatus.REVOKED, TaskStatus.ACTIVE
    assert statuses == ([revoked, active, active] if by == "task" else [revoked, revoked, active])
    audit = list(guard.enforcement.ports.audit.records(tasks[0].id))
    assert "stolen laptop" in audit[-1]["cause"]
    with pytest.raises(TaskNotActive), tasks[0].active():
        guard.task("More", subject="user:ada", mandate={"tools": "*"}).begin()


@pytest.mark.promise("signal-without-effect-told")
async def test_a_signal_for_what_is_unknown_here_is_done_and_ends_nothing_and_is_a_warning(
    make_guard: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    guard = make_guard()
    task = guard.task("Refund", subject="user:ada", mandate={"tools": "*"}).begin()
    nobody = IssuedId(HERE, "nobody")
    unknown: list[dict[str, Any]] = [{"task_id": "unknown"}, {"token": nobody}, {"user": nobody}]
    for target in unknown:
        answer = await push(guard, SessionRevoked(at=time.time(), **target))
        assert answer.status_code == 202, answer.text
        (name,) = [getattr(value, "name", value) for value in target.values()]
        (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "ended nothing" in message
        assert name in message
        caplog.clear()
    assert task.state().status is TaskStatus.ACTIVE
    over = [
        SessionRevoked(at=time.time(), task_id=task.id),
        SessionRevoked(at=time.time() + 1, task_id=task.id),
    ]
    for event, count in zip(over, (0, 1), strict=True):
        assert (await push(guard, event)).status_code == 202
        assert sum("ended nothing" in record.getMessage() for record in caplog.records) == count
