"""What ends while a credential is being minted: nothing runs with it, and nothing of it is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from agentguard.concurrency.drive import drive
from agentguard.credentials.long_lived import LegacySecret
from agentguard.errors import DenialCode
from agentguard.model import (
    Credential,
    Grant,
    LiveCredential,
    Obligation,
    Secret,
    TaskState,
    TaskStatus,
    ToolPath,
)
from agentguard.ports import BrokerTraits
from agentguard.stores.memory import MemoryStore
from tests.doubles.flow import PAYMENTS, PERMIT, Log, Mint, World

ANSWERS = 0.15


class SlowVault:
    """A source of a long-lived key that answers late."""

    name = "vault"

    def read(self) -> Secret:
        time.sleep(ANSWERS)
        return Secret("s3cret-key")


class Sealed(Mint):
    """A broker that mints late and names its handle beforehand, as those of sealed tokens do."""

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.live = set[str]()

    def prepare(self, grant: Grant) -> str:
        return f"sealed-{grant.id}"

    def issue(self, grant: Grant) -> Credential:
        time.sleep(ANSWERS)
        self.issued.append(grant)
        self.live.add(f"sealed-{grant.id}")
        return Credential("s3cret", id=grant.id, expires_at=1e12, handle=f"sealed-{grant.id}")

    def revoke(self, handle: str, expires_at: float) -> None:
        self.live.discard(handle)
        super().revoke(handle, expires_at)


class Reused(Sealed):
    """The same, for all calls of a task."""

    def __init__(self) -> None:
        super().__init__()
        self.traits = BrokerTraits(reuse=frozenset(ToolPath))


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def call_whose_task_ends_meanwhile(broker: Any, mode: str) -> World:
    """Make a call whose task ends while its credential is minted; it is denied for that."""
    world = World(brokers={(None, path): broker for path in ToolPath})
    world.begin()
    ending = threading.Timer(ANSWERS / 3, world.end, ["t1", TaskStatus.REVOKED, "signal"])
    ending.start()
    assert world.denied(mode).code is DenialCode.TASK_ENDED
    ending.join()
    return world


@pytest.mark.promise("task-end-revokes")
@pytest.mark.parametrize("broker", [Sealed, Reused])
def test_a_task_that_ends_while_a_credential_with_a_known_handle_is_minted_runs_nothing(
    mode: str, broker: type[Sealed]
) -> None:
    mint = broker()
    world = call_whose_task_ends_meanwhile(mint, mode)
    assert len(mint.issued) == 1, "it was minted, after the end"
    assert world.ran == []
    assert mint.live == set()
    assert world.store.live() == ()


@pytest.mark.promise("task-end-revokes")
def test_a_long_lived_key_that_arrives_after_the_task_is_attached_to_nothing(mode: str) -> None:
    broker = LegacySecret(SlowVault(), paths=list(ToolPath))
    world = call_whose_task_ends_meanwhile(broker, mode)
    assert world.ran == []
    assert broker._live == {}
    assert world.store.live() == ()


class Late(Mint):
    """A broker that names its handle when it has minted, after the guard has stopped waiting."""

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.live, self.revokes = set[str](), True

    def issue(self, grant: Grant) -> Credential:
        time.sleep(3 * ANSWERS)
        credential = super().issue(grant)
        self.live.add(credential.handle)
        return credential

    def revoke(self, handle: str, expires_at: float) -> None:
        if not self.revokes and handle in self.live:
            raise OSError("the issuer cannot be reached")
        self.live.discard(handle)
        super().revoke(handle, expires_at)


def deny_late(mint: Late, mode: str) -> World:
    """Make a call that is denied since its credential does not come in time, and wait for it to come."""
    world = World(brokers={(None, path): mint for path in ToolPath}, timeout=ANSWERS)
    world.begin()
    assert world.denied(mode).code is DenialCode.NO_CREDENTIAL
    assert world.ran == []
    deadline = time.monotonic() + 5
    while not mint.issued and time.monotonic() < deadline:
        time.sleep(0.01)
    return world


def wait_until_dead(mint: Late) -> None:
    deadline = time.monotonic() + 5
    while mint.live and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.promise("late-credential-revoked")
def test_a_credential_that_arrives_after_the_time_out_is_revoked(mode: str) -> None:
    mint = Late()
    world = deny_late(mint, mode)
    wait_until_dead(mint)
    assert mint.live == set()
    time.sleep(0.02)
    assert world.store.live() == ()


@pytest.mark.promise("late-credential-revoked")
def test_a_late_credential_whose_revocation_fails_is_on_record_and_revoked_by_the_next_sweep(
    mode: str,
) -> None:
    mint = Late()
    mint.revokes = False
    world = deny_late(mint, mode)
    deadline = time.monotonic() + 5
    handles: set[str] = set()
    while not handles & mint.live and time.monotonic() < deadline:
        handles = {live.handle for live in world.store.live()}
        time.sleep(0.01)
    assert mint.live
    assert mint.live <= handles
    mint.revokes = True
    world.now += 3600
    drive(world.flow.sync.outbox.sweep())
    assert mint.live == set()


@pytest.mark.promise("lifetime-from-judgement")
def test_a_credential_ends_by_the_time_of_its_judgement_however_long_its_issuer_took() -> None:
    now = [1000.0]

    class Late(SlowVault):
        def read(self) -> Secret:
            now[0] += 40.0
            return Secret("s3cret-key")

    broker = LegacySecret(Late(), paths=[ToolPath.READ], clock=lambda: now[0])
    grant: Any = Grant(
        id="g",
        task_id="t",
        identity=None,  # type: ignore[arg-type]  # the broker does not look at it
        tool="lookup",
        path=ToolPath.READ,
        resource=PAYMENTS,
        scopes=frozenset(),
        digest="",
        lifetime=60.0,
        at=1000.0,
    )
    assert broker.issue(grant).expires_at == 1060.0


class Meanwhile(Mint):
    """A broker during whose issue something happens."""

    def __init__(self, *, inline: bool, knows_handle: bool) -> None:
        super().__init__()
        self.inline = inline
        self.happens: Callable[[], Any] = lambda: None
        self.knows_handle = knows_handle

    def issue(self, grant: Grant) -> Credential:
        self.happens()
        self.issued.append(grant)
        handle = grant.id if self.knows_handle else f"h-{grant.id}"
        return Credential("s3cret", id=grant.id, expires_at=1e12, handle=handle)


class Counting(MemoryStore):
    """A store that counts what it is asked, and may be unable to end a task."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: 1000.0)
        self.asked, self.fails = list[str](), False

    def task(self, task_id: str) -> TaskState | None:
        self.asked.append("task")
        return super().task(task_id)

    def track(self, credential: LiveCredential) -> None:
        self.asked.append("track")
        super().track(credential)

    def end_task(
        self, task_id: str, status: TaskStatus, owed: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        if self.fails:
            raise OSError("database is locked")
        return super().end_task(task_id, status, owed)


KINDS = pytest.mark.parametrize(
    ("inline", "knows_handle", "reuse"),
    [
        (inline, knows, reuse)
        for inline in (True, False)
        for knows in (True, False)
        for reuse in (True, False)
    ],
)


def world_meanwhile(
    inline: bool, knows_handle: bool, reuse: bool, **changes: Any
) -> tuple[World, Meanwhile, Counting]:
    mint, store = Meanwhile(inline=inline, knows_handle=knows_handle), Counting()
    mint.traits = BrokerTraits(reuse=frozenset(ToolPath) if reuse else frozenset())
    world = World(brokers={(None, path): mint for path in ToolPath}, store=store, **changes)
    world.flow.on_unrevoked = lambda: None
    world.begin()
    return world, mint, store


@pytest.mark.promise("minted-while-ended")
@KINDS
@pytest.mark.parametrize("stored", [True, False])
def test_a_task_that_ends_during_issue_runs_nothing_also_if_its_end_could_not_be_stored(
    mode: str, inline: bool, knows_handle: bool, reuse: bool, stored: bool
) -> None:
    world, mint, store = world_meanwhile(inline, knows_handle, reuse)
    store.fails = not stored

    def end() -> None:
        with suppress(OSError):
            world.end("t1", TaskStatus.REVOKED, "signal")

    mint.happens = end
    assert world.denied(mode).code is DenialCode.TASK_ENDED
    assert world.ran == []
    if stored:
        assert mint.revoked[-1] == (mint.issued[0].id if knows_handle else f"h-{mint.issued[0].id}")
        assert store.live() == ()


class EndsAtPermit(Log):
    """An audit log during whose record of a permit something happens."""

    happens: Callable[[], None] | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        super().append(record)
        if self.happens is not None and record["event"] == "decision":
            happens, self.happens = self.happens, None
            happens()


@pytest.mark.promise("minted-while-ended")
def test_a_task_that_ends_after_its_call_began_runs_nothing_with_a_kept_credential(mode: str) -> None:
    log = EndsAtPermit()
    world, mint, _ = world_meanwhile(inline=True, knows_handle=True, reuse=True, audit=log)
    assert world.call(mode) == "done"
    log.happens = lambda: world.end("t1", TaskStatus.REVOKED, "signal")
    assert world.denied(mode, call_id="c2").code is DenialCode.TASK_ENDED
    assert (len(mint.issued), len(world.ran)) == (1, 1)


@pytest.mark.promise("minted-while-ended")
@KINDS
def test_an_end_of_the_parent_during_issue_counts_for_its_child(
    mode: str, inline: bool, knows_handle: bool, reuse: bool
) -> None:
    world, mint, store = world_meanwhile(inline, knows_handle, reuse)
    world.begin(id="c", lineage=("t1",))
    mint.happens = lambda: world.end("t1", TaskStatus.REVOKED, "signal")
    assert world.denied(mode, named_task="c").code is DenialCode.TASK_ENDED
    assert (world.ran, store.live()) == ([], ())


@pytest.mark.promise("grant-ends-before-tool")
@KINDS
def test_a_grant_that_ends_during_issue_runs_nothing(
    mode: str, inline: bool, knows_handle: bool, reuse: bool
) -> None:
    world, mint, _ = world_meanwhile(inline, knows_handle, reuse)
    world.policy.answer = replace(
        PERMIT, obligations=(Obligation(kind="shorten_lifetime", parameters={"seconds": 5}),)
    )
    mint.happens = lambda: setattr(world, "now", world.now + 5)
    assert world.denied(mode).code is DenialCode.NO_CREDENTIAL
    assert (len(mint.issued), world.ran) == (1, [])


@pytest.mark.promise("grant-ends-before-tool")
def test_a_deadline_that_passes_during_issue_ends_the_task(mode: str) -> None:
    world, mint, _ = world_meanwhile(inline=True, knows_handle=True, reuse=False)
    mint.happens = lambda: setattr(world, "now", world.now + 600)
    assert world.denied(mode).code is DenialCode.TASK_ENDED
    assert (world.ran, len(mint.revoked)) == ([], 1)


@pytest.mark.promise("minted-while-ended")
def test_a_broker_that_answers_at_once_costs_no_question_to_the_store_that_nothing_makes_needed(
    mode: str,
) -> None:
    world, mint, store = world_meanwhile(inline=True, knows_handle=True, reuse=False)
    world.call(mode)
    assert store.asked == ["task"], "when the call was judged"
    world.begin(id="t2")
    mint.happens = lambda: world.end("t2", TaskStatus.COMPLETED, "another task ends meanwhile")
    store.asked.clear()
    assert world.call(mode, call_id="c2") == "done"
    assert "track" in store.asked
