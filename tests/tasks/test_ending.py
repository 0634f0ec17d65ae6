"""An end is immediate, and revocation follows, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from agentguard.errors import DenialCode, StoreError
from agentguard.model import LiveCredential, TaskStatus, ToolPath
from agentguard.signals import IssuedId, SessionRevoked
from agentguard.stores.memory import MemoryStore
from tests.conftest import Mode
from tests.doubles.flow import Mint, World

STALL = 0.25


class Stalling(Mint):
    """A broker whose revocation takes its time, and that looks at the tasks meanwhile."""

    inline = False
    world: World
    attack: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.active, self.attack = list[int](), lambda: None

    def revoke(self, handle: str, expires_at: float) -> None:
        self.active.append(len(self.world.store.active("alice")))
        self.attack()
        time.sleep(STALL)
        super().revoke(handle, expires_at)


GUARD = "https://guard.example"
ALICE = SessionRevoked(at=0.0, user=IssuedId(GUARD, "alice"), authority=frozenset({GUARD}))


class FailsAtTwo(MemoryStore):
    """A store that cannot end one of the tasks."""

    def end_task(
        self, task_id: str, status: TaskStatus, owed: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        if task_id == "t2":
            raise StoreError("t2 cannot be ended")
        return super().end_task(task_id, status, owed)


def world_of(store: MemoryStore | None = None) -> tuple[World, Stalling]:
    mint = Stalling()
    changes: dict[str, Any] = {} if store is None else {"store": store, "clock": time.time}
    world = mint.world = World(brokers={(None, path): mint for path in ToolPath}, **changes)
    for number in range(1, 5):
        world.begin(id=f"t{number}", **({} if store is None else {"deadline": time.time() + 600}))
        world.store.track(
            LiveCredential(
                call_id=f"c{number}",
                task_id=f"t{number}",
                broker="*/write",
                handle=f"h{number}",
                expires_at=1e12,
                owner="",
            )
        )
    return world, mint


@pytest.mark.promise("end-is-immediate")
async def test_all_tasks_of_a_user_are_over_before_the_first_credential_is_revoked(mode: Mode) -> None:
    world, mint = world_of()
    started = time.monotonic()
    ending = world.endings.async_ if mode.asynchronous else world.endings.sync
    await ending.end_by_signal(ALICE, GUARD)
    seconds = time.monotonic() - started
    assert mint.active == [0, 0, 0, 0]
    assert sorted(mint.revoked) == ["h1", "h2", "h3", "h4"]
    assert seconds < 3 * STALL, "side by side: one after the other takes four times as long as one"
    ends = [record for record in world.log.written if record["event"] == "task"]
    assert {(record["task"], record["unrevoked"]) for record in ends} == {(f"t{n}", 0) for n in range(1, 5)}


@pytest.mark.promise("end-is-immediate")
async def test_a_task_that_cannot_be_ended_keeps_no_other_alive(mode: Mode) -> None:
    world, mint = world_of(FailsAtTwo())
    ending = world.endings.async_ if mode.asynchronous else world.endings.sync
    with pytest.raises(StoreError, match="t2"):
        await ending.end_by_signal(ALICE, GUARD)
    assert world.store.active("alice") == ("t2",)
    assert sorted(mint.revoked) == ["h1", "h3", "h4"]


@pytest.mark.promise("end-is-immediate")
async def test_while_an_issuer_stalls_no_call_of_the_ended_task_begins(mode: Mode) -> None:
    world, mint = world_of()
    codes = list[DenialCode]()

    def write() -> None:
        codes.append(world.denied("sync", named_task="t4", call_id="late").code)

    mint.attack = write
    ending = world.endings.async_ if mode.asynchronous else world.endings.sync
    await ending.end_by_signal(ALICE, GUARD)
    assert codes == [DenialCode.TASK_ENDED] * 4
    assert world.ran == []
