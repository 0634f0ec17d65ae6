"""Each revocation is for its user: those of one user that get no answer keep none of another's alive."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from agentguard.concurrency.drive import drive, operation_pair
from agentguard.concurrency.party import current_party
from agentguard.credentials.openbao.broker import OpenBao
from agentguard.credentials.openbao.session import Login, OpenBaoSession
from agentguard.enforcement.drain import Drain
from agentguard.enforcement.process import owner
from agentguard.errors import TaskNotActive
from agentguard.model import Credential, Grant, Identity, LiveCredential, Secret, TaskStatus, ToolPath
from agentguard.outbound.client import Outbound
from agentguard.stores.memory import MemoryStore
from tests.doubles.flow import Mint, World


@pytest.fixture(params=["sync", "async", "threads"])
def mode(request: pytest.FixtureRequest) -> str:
    """Both paths; on the second, a broker may be one whose methods run in threads."""
    return str(request.param)


class Asked(Mint):
    """It notes for whom it is asked to revoke, and can fail."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.inline = mode != "threads"
        self.parties = list[str]()

    def revoke(self, handle: str, expires_at: float) -> None:
        self.parties.append(current_party())
        super().revoke(handle, expires_at)


def world_of(mode: str, **changes: Any) -> tuple[World, Asked]:
    issuer = Asked(mode)
    world = World(brokers={(None, path): issuer for path in ToolPath}, **changes)
    world.begin()
    return world, issuer


def run(mode: str, world: World, work: Callable[[Any], Any]) -> Any:
    return drive(work(world.flow.sync)) if mode == "sync" else asyncio.run(work(world.flow.async_))


def live(call_id: str, task_id: str = "t1", broker: str = "*/write") -> LiveCredential:
    return LiveCredential(
        call_id=call_id, task_id=task_id, broker=broker, handle=call_id, expires_at=1e12, owner=owner()
    )


async def wait(_seconds: float) -> None:
    """Wait for nothing."""


# --- by each way in which something is revoked


@pytest.mark.promise("revocation-per-user")
def test_the_credential_of_a_call_is_revoked_for_its_user_at_its_end_and_early(mode: str) -> None:
    world, issuer = world_of(mode)
    path = "sync" if mode == "sync" else "async"
    world.call(path)
    world.begin(id="t2", identity=Identity(subject="bob", actor="agent://a"))

    def body(permit: Any) -> str:
        assert permit.revoke_early is not None
        drive(permit.revoke_early(True))
        return "done"

    world.call(path, body=body, named_task="t2", call_id="c2")
    assert issuer.parties == ["alice", "bob"]
    assert current_party() == ""


@pytest.mark.promise("revocation-per-user")
def test_what_a_task_holds_is_revoked_for_its_user_when_it_ends(mode: str) -> None:
    world, issuer = world_of(mode)
    world.store.track(live("c"))
    ending = world.endings.sync if mode == "sync" else world.endings.async_
    work = ending.end("t1", TaskStatus.REVOKED, "x")
    drive(work) if mode == "sync" else asyncio.run(work)
    assert issuer.parties == ["alice"]


@pytest.mark.promise("revocation-per-user")
@pytest.mark.parametrize("way", ["sweep", "close"])
def test_what_the_outbox_and_a_guard_that_closes_revoke_is_for_its_user(mode: str, way: str) -> None:
    world, issuer = world_of(mode)
    world.begin(id="t2", identity=Identity(subject="bob", actor="agent://a"))
    for call_id, task_id in (("c1", "t1"), ("c2", "t2"), ("c3", "forgotten")):
        with suppress(TaskNotActive):  # it is recorded all the same
            world.store.track(live(call_id, task_id))
        world.flow.calls.failed.add(call_id)
    drain = Drain(world.flow)
    drain.begin(0.0, blocks=False)
    run(mode, world, lambda flow: flow.outbox.sweep() if way == "sweep" else drain.finish(flow, wait))
    assert sorted(issuer.parties) == ["alice", "bob", "forgotten"]


@pytest.mark.promise("revocation-per-user")
def test_what_is_minted_too_late_is_revoked_for_its_user() -> None:
    minted, parties = threading.Event(), list[str]()

    class Late(Mint):
        inline = False

        def issue(self, grant: Grant) -> Credential:
            minted.wait(5)
            return super().issue(grant)

        def revoke(self, handle: str, expires_at: float) -> None:
            parties.append(current_party())
            super().revoke(handle, expires_at)

    issuer = Late()
    world = World(brokers={(None, path): issuer for path in ToolPath}, timeout=0.05)
    world.begin()
    world.denied("async")
    asked = len(parties)
    minted.set()
    until = time.monotonic() + 5
    while len(parties) == asked and time.monotonic() < until:
        time.sleep(0.002)
    assert set(parties) == {"alice"}
    assert issuer.revoked[-1].startswith("h-")


@pytest.mark.promise("revocation-per-user")
@pytest.mark.parametrize("failure", [OSError("disk"), SystemError()])
def test_a_store_that_cannot_read_tasks_keeps_nothing_from_being_revoked(
    mode: str, failure: Exception
) -> None:
    class Unread(MemoryStore):
        reads = 0

        def task(self, task_id: str) -> Any:
            self.reads += 1
            raise failure

    world, issuer = world_of(mode, store=Unread(clock=lambda: 1000.0))
    for number in range(5):
        world.store.track(live(f"c{number}"))
    credentials = [live(f"c{number}", f"t{number}") for number in range(5)]
    assert run(mode, world, lambda flow: flow.outbox.revoke(credentials)) == []
    assert sorted(issuer.parties) == [f"t{number}" for number in range(5)]
    assert world.store.reads == 1, "a store that hangs delays the revocation once"


# --- what follows


class IdentityOfAgent:
    """The agent's own identity."""

    def token(self, audience: str) -> Secret:
        """Return a token."""
        return Secret("x")


@pytest.mark.promise("revocation-per-user")
@pytest.mark.parametrize("way", ["sync", "async"])
def test_leases_of_one_user_that_openbao_does_not_drop_in_time_keep_no_other_users_alive(way: str) -> None:
    revoked = list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or b"{}")
        if request.url.path.endswith("sys/leases/revoke") and "mallory" in body["lease_id"]:
            raise httpx.ReadTimeout("slow", request=request)
        if request.url.path.endswith("revoke-self"):
            revoked.append(request.headers["x-vault-token"])
        return httpx.Response(204)

    async def aanswer(request: httpx.Request) -> httpx.Response:
        return answer(request)

    plain, native = httpx.MockTransport(answer), httpx.MockTransport(aanswer)
    http = Outbound("openbao", "https://bao.example/v1", transport=plain, async_transport=native)
    identity: Any = IdentityOfAgent()
    session = OpenBaoSession("https://bao.example", identity=identity, role="r", audience="a", http=http)
    broker = OpenBao(ToolPath.WRITE, session, creds="database/creds/ro")
    world = World(brokers={(None, ToolPath.WRITE): broker}, clock=time.time)
    for user in ("mallory", "alice"):
        world.begin(id=user, identity=Identity(subject=user, actor="agent://a"), deadline=time.time() + 600)
    credentials = list[LiveCredential]()
    for number in range(8):
        user = "mallory" if number < 7 else "alice"
        login = Login(Secret(f"t-{user}"), f"a{number}", time.time() + 600)
        broker._logins.add(login, f"g{number}")
        broker._logins.set_lease(login, f"lease-{user}-{number}")
        credentials.append(live(f"a{number}", user))

    async def one_after_the_other(flow: Any) -> list[LiveCredential]:
        return [left for one in credentials for left in await flow.outbox.revoke([one])]

    alive = run(way, world, one_after_the_other)
    assert "t-alice" in revoked
    assert {credential.task_id for credential in alive} == {"mallory"}


@pytest.mark.promise("revocation-per-user")
async def test_revocations_of_one_user_that_hang_take_no_places_of_another_users() -> None:
    answers, revoked = threading.Event(), list[str]()

    class Hangs:
        def revoke(self, handle: str, expires_at: float) -> None:
            if handle == "mallory":
                answers.wait(10)
            revoked.append(handle)

    revoke: Callable[..., Awaitable[None]] = operation_pair(
        Hangs(), "revoke", timeout=10, names_party=True
    ).async_
    hung = [asyncio.ensure_future(revoke("mallory", "mallory", 1e12)) for _ in range(64)]
    await asyncio.sleep(0)
    await asyncio.wait_for(revoke("alice", "alice", 1e12), 5)
    assert revoked == ["alice"]
    answers.set()
    await asyncio.gather(*hung)
