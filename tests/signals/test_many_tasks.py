"""A logout of a user with many tasks is processed, and its sender gets an answer in time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentguard.model import Login, TaskState
from agentguard.signals import Receiver, SessionRevoked, Source, jwks
from agentguard.signals.events import SESSION_REVOKED
from agentguard.stores import MemoryStore
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing.samples import sample_task
from tests.signals.test_whose_tasks import IDP, KEYS, Place, of, opaque, user


class Counting(MemoryStore):
    """Counts the tasks that are read one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def task(self, task_id: str) -> TaskState | None:
        self.reads += 1
        return super().task(task_id)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "state.db")


@pytest.mark.promise("logout-ends-tasks")
def test_a_store_finds_the_tasks_whose_login_lacks_a_name(store: Any) -> None:
    login = Login(issuer=IDP, subject="4711")
    for id_, session, jti in (("both", "s-1", "t-1"), ("session", "s-2", ""), ("token", "", "t-2")):
        store.create_task(sample_task(id_, login=replace(login, session=session, jti=jti), deadline=1e12))
    store.create_task(plain := sample_task("plain", deadline=1e12))
    subject = plain.identity.subject
    assert set(store.active_in(login)) == {"both", "session", "token"}
    assert store.active_in(login, without="session") == ("token",)
    assert store.active_in(login, without="jti") == ("session",)
    assert set(store.active(subject, without="session")) == {"plain", "token"}
    assert set(store.active(subject, without="jti")) == {"plain", "session"}
    assert store.active(subject, without="subject") == ("plain",)


@pytest.mark.promise("logout-ends-tasks")
async def test_a_logout_of_one_session_reads_no_other_task_of_its_user() -> None:
    store = Counting()
    place = Place(store)
    one, others = place.begin(sid="s-1"), [place.begin(sid="s-2") for _ in range(50)]
    store.reads = 0
    assert await place.push(of(user=user(), session=opaque("s-1"))) == 202
    assert store.reads < 10
    assert place.active(one, *others) == [False] + 50 * [True]
    place.guard.close()


async def push(app: Receiver, jti: str = "j") -> int:
    signer, now = KEYS[IDP], time.time()
    claims: dict[str, Any] = {"iss": IDP, "aud": "a", "iat": int(now), "jti": jti, "sub_id": user()}
    head = signer.head(typ="secevent+jwt", kid=signer.kid)
    token = signer.sign(head, {**claims, "events": {SESSION_REVOKED: {}}})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=IDP) as client:
        headers = {"Content-Type": "application/secevent+jwt"}
        return (await client.post("/", content=token, headers=headers)).status_code


@pytest.mark.promise("logout-ends-tasks")
async def test_an_end_that_takes_long_goes_on_after_the_answer_and_is_acknowledged_when_it_is_done() -> None:
    done, calls = asyncio.Event(), list[str]()

    async def end(event: SessionRevoked) -> None:
        calls.append(event.id)
        await done.wait()

    source = Source(issuer=IDP, keys=jwks(KEYS[IDP]))
    app = Receiver([source], audience="a", store=MemoryStore(), revoke=end, timeout=0.05)
    assert [await push(app), await push(app)] == [503, 503]
    assert await push(app, "other") == 503
    done.set()
    assert [await push(app), await push(app)] == [202, 202]
    assert calls == ["j", "other"]  # the repeated signal waits for the work that it began
