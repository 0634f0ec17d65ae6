"""Reuse without standing: within a task, for the same thing, and no longer than it."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from agentguard.concurrency.drive import lift
from agentguard.enforcement import task_credentials as reuse
from agentguard.enforcement.call import Invocation, Permit
from agentguard.errors import DenialCode, Denied
from agentguard.identity.local import LocalIdentity
from agentguard.model import (
    Arguments,
    Credential,
    Decision,
    Grant,
    Identity,
    Obligation,
    TaskStatus,
    ToolPath,
)
from agentguard.ports import BrokerTraits
from tests.doubles.flow import ARGUMENTS, PERMIT, REFUND, Mint, World, carry_out

READ = replace(REFUND, name="read_payment", path=ToolPath.READ)
OTHER = Arguments.of({"order_id": "4712"})


class Lasting(Mint):
    """A broker whose credentials may serve a whole task."""

    def __init__(self, *reuse_on: ToolPath, lifetime: float = 60.0, pause: float = 0.0) -> None:
        super().__init__()
        self.traits = BrokerTraits(reuse=frozenset(reuse_on or {ToolPath.READ}), binds_arguments=False)
        self.lifetime, self.pause = lifetime, pause
        self.inline = not pause

    def issue(self, grant: Grant) -> Credential:
        if self.fail == "issue":
            raise ConnectionError
        if self.pause:
            time.sleep(self.pause)
        self.issued.append(grant)
        return Credential(
            f"s3cret-{grant.id}", id=grant.id, expires_at=1000.0 + self.lifetime, handle=f"h-{grant.id}"
        )


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def world_of(mint: Lasting) -> World:
    world = World(brokers={(None, path): mint for path in ToolPath})
    world.mint = mint
    world.begin()
    return world


def read(world: World, mode: str, **changes: Any) -> Any:
    return world.call(mode, **{"spec": READ, "tool": READ.name, **changes})


def end(world: World, task: str = "t1") -> None:
    world.end(task, TaskStatus.COMPLETED, "done")


@pytest.mark.promise("reuse-within-task")
def test_two_calls_of_a_task_share_a_credential_that_dies_with_it(mode: str) -> None:
    world = world_of(Lasting())
    read(world, mode)
    read(world, mode, arguments=OTHER, call_id="c2")
    assert len(world.mint.issued) == 1
    assert world.mint.revoked == []
    assert [held.handle for held in world.store.live()][-1] == f"h-{world.mint.issued[0].id}"
    outcomes = [record for record in world.log.written if record["event"] == "outcome"]
    assert [(o["kept"], o["revoked"]) for o in outcomes] == [(True, False)] * 2
    assert {o["credential"] for o in outcomes} == {world.mint.issued[0].id}
    end(world)
    assert f"h-{world.mint.issued[0].id}" in world.mint.revoked
    assert world.store.live() == ()


@pytest.mark.promise("reuse-within-task")
def test_what_was_kept_is_of_no_use_after_the_task(mode: str) -> None:
    world = world_of(Lasting())
    read(world, mode)
    end(world)
    denied = world.denied(mode, spec=READ, tool=READ.name, call_id="c2")
    assert denied.code is DenialCode.TASK_ENDED
    assert len(world.flow.reuse._kept) == 0


@pytest.mark.promise("no-reuse-of-writes")
def test_writing_has_a_credential_for_each_call_unless_configured(mode: str) -> None:
    world = world_of(Lasting())
    world.call(mode)
    world.call(mode, call_id="c2")
    assert len(world.mint.issued) == len(world.mint.revoked) == 2
    configured = world_of(Lasting(ToolPath.WRITE))
    configured.call(mode)
    configured.call(mode, call_id="c2")
    assert len(configured.mint.issued) == 1


@pytest.mark.promise("no-reuse-of-writes")
def test_a_broker_that_says_nothing_has_its_credentials_used_once(mode: str) -> None:
    world = World()
    world.begin()
    read(world, mode)
    read(world, mode, call_id="c2")
    assert len(world.mint.issued) == len(world.mint.revoked) == 2


@pytest.mark.promise("reuse-within-task")
def test_a_credential_for_some_arguments_is_not_used_for_others(mode: str) -> None:
    mint = Lasting()
    mint.traits = replace(mint.traits, binds_arguments=True)
    world = world_of(mint)
    read(world, mode)
    read(world, mode, arguments=OTHER, call_id="c2")
    read(world, mode, arguments=ARGUMENTS, call_id="c3")
    assert [grant.digest for grant in mint.issued] == [ARGUMENTS.digest, OTHER.digest]


@pytest.mark.promise("reuse-within-task")
@pytest.mark.parametrize(
    "other",
    [
        {"task": {"id": "t2"}},
        {"task": {"id": "t2", "identity": Identity(subject="bob", actor="agent://a")}},
        {"spec": replace(READ, scopes=frozenset({"a"}))},
        {"spec": replace(READ, path=ToolPath.ESCALATION)},
        {"spec": replace(READ, name="read_salary")},
    ],
)
def test_another_task_user_scope_path_or_tool_has_another_credential(
    mode: str, other: dict[str, Any]
) -> None:
    world = world_of(Lasting(*ToolPath))
    read(world, mode)
    if "task" in other:
        world.begin(**other["task"])
        read(world, mode, named_task="t2", call_id="c2")
    else:
        read(world, mode, spec=other["spec"], tool=other["spec"].name, call_id="c2")
    assert len(world.mint.issued) == 2


@pytest.mark.promise("reuse-within-task")
def test_an_agent_that_acts_in_the_task_of_another_has_its_own(mode: str) -> None:
    world = world_of(Lasting())
    read(world, mode)
    # the same task, store and kept credentials; another workload
    other = World(
        identity=LocalIdentity("agent://b"),
        store=world.store,
        brokers=dict.fromkeys(((None, path) for path in ToolPath), world.mint),
    )
    other.flow.reuse = world.flow.reuse
    other.call(mode, spec=READ, tool=READ.name, call_id="c2")
    assert [grant.identity.actor for grant in world.mint.issued] == ["agent://a", "agent://b"]


def shortened(seconds: float) -> Decision:
    obligation = Obligation(kind="shorten_lifetime", parameters={"seconds": seconds})
    return replace(PERMIT, obligations=(obligation,))


@pytest.mark.promise("reuse-within-task")
def test_a_call_with_a_shorter_lifetime_is_not_served_by_a_credential_with_a_longer_one(mode: str) -> None:
    world = world_of(Lasting())
    read(world, mode)
    world.policy.answer = shortened(10)
    read(world, mode, call_id="c2")
    assert [grant.lifetime for grant in world.mint.issued] == [60.0, 10.0]
    world.policy.answer = PERMIT
    read(world, mode, call_id="c3")
    assert len(world.mint.issued) == 2, "what lives shorter serves a call that may have a longer one"
    end(world)
    assert {f"h-{grant.id}" for grant in world.mint.issued} <= set(world.mint.revoked)


@pytest.mark.promise("reuse-within-task")
@pytest.mark.parametrize("after", [10 - reuse.MARGIN + 0.1, 30])
def test_a_kept_credential_whose_issuer_gave_more_than_the_grant_serves_no_call_after_the_grant(
    mode: str, after: float
) -> None:
    world = world_of(Lasting(lifetime=3600.0))
    world.policy.answer = shortened(10)
    read(world, mode)
    world.policy.answer = PERMIT
    world.now += after
    read(world, mode, call_id="c2")
    assert len(world.mint.issued) == 2
    read(world, mode, call_id="c3")
    assert len(world.mint.issued) == 2, "the second one's grant lasts"


@pytest.mark.promise("reuse-within-task")
def test_parallel_calls_of_unlike_lifetimes_share_no_credential_that_lives_too_long() -> None:
    world = world_of(Lasting(pause=0.05))
    world.policy.answer = lambda request: (
        shortened(10) if request.arguments.values == OTHER.values else PERMIT
    )
    with ThreadPoolExecutor(2) as pool:
        longer = pool.submit(read, world, "sync", call_id="c1")
        time.sleep(0.01)
        shorter = pool.submit(read, world, "sync", arguments=OTHER, call_id="c2")
        longer.result(), shorter.result()
    assert sorted(grant.lifetime for grant in world.mint.issued) == [10.0, 60.0]


def test_one_that_is_about_to_expire_is_not_used_again(mode: str) -> None:
    world = world_of(Lasting(lifetime=60.0))
    read(world, mode)
    world.now = 1000.0 + 60.0 - reuse.MARGIN + 0.1
    read(world, mode, call_id="c2")
    assert len(world.mint.issued) == 2


@pytest.mark.promise("no-reuse-of-writes")
def test_after_a_failed_call_it_is_not_used_again_and_still_dies_with_the_task(mode: str) -> None:
    world = world_of(Lasting())

    def fails(_permit: Permit) -> str:
        raise OSError("the resource refused it")

    with pytest.raises(OSError, match="refused"):
        read(world, mode, body=fails)
    read(world, mode, call_id="c2")
    assert len(world.mint.issued) == 2
    end(world)
    assert {f"h-{grant.id}" for grant in world.mint.issued} <= set(world.mint.revoked)
    assert world.store.live() == ()


def test_a_failure_to_mint_keeps_nothing(mode: str) -> None:
    world = world_of(Lasting())
    world.mint.fail = "issue"
    assert world.denied(mode, spec=READ, tool=READ.name).code is DenialCode.NO_CREDENTIAL
    assert world.store.live() == ()
    world.mint.fail = ""
    read(world, mode, call_id="c2")
    assert len(world.mint.issued) == 1


@pytest.mark.promise("single-flight")
def test_parallel_threads_mint_one_between_them() -> None:
    world = world_of(Lasting(pause=0.05))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: read(world, "sync", call_id=f"c{n}"), range(8)))
    assert len(world.mint.issued) == 1
    end(world)
    assert world.store.live() == ()
    assert f"h-{world.mint.issued[0].id}" in world.mint.revoked


def arun(world: World, call_id: str) -> Any:
    invocation = Invocation(tool=READ.name, spec=READ, arguments=ARGUMENTS, named_task="t1", call_id=call_id)
    return carry_out(world.flow.async_, invocation, lift(world.body))


@pytest.mark.promise("single-flight")
async def test_parallel_coroutines_mint_one_and_a_cancelled_one_takes_nobody_along() -> None:
    world = world_of(Lasting(pause=0.05))
    first = asyncio.create_task(arun(world, "c0"))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(arun(world, f"c{n}")) for n in range(1, 4)]
    await asyncio.sleep(0.01)
    first.cancel()
    assert await asyncio.gather(*rest) == ["done"] * 3
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(world.mint.issued) <= 2
    await world.endings.async_.end("t1", TaskStatus.COMPLETED, "done")
    assert world.store.live() == ()
    assert {f"h-{grant.id}" for grant in world.mint.issued} <= set(world.mint.revoked)


@pytest.mark.promise("reuse-within-task")
def test_no_more_are_kept_than_the_bound_and_the_rest_still_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reuse, "MOST", 2)
    mint = Lasting()
    mint.traits = replace(mint.traits, binds_arguments=True)
    world = world_of(mint)
    for number in range(5):
        read(world, "sync", arguments=Arguments.of({"order_id": str(number)}), call_id=f"c{number}")
    assert len(world.flow.reuse._kept) == 2
    end(world)
    assert len(set(mint.revoked) & {f"h-{grant.id}" for grant in mint.issued}) == 5


def test_a_task_that_ends_while_it_is_minted_leaves_nothing() -> None:
    mint = Lasting(pause=0.1)
    world = world_of(mint)
    ending = threading.Timer(0.03, end, [world])
    ending.start()
    with pytest.raises(Denied) as caught:
        read(world, "sync")
    ending.join()
    assert caught.value.code is DenialCode.TASK_ENDED
    assert f"h-{mint.issued[0].id}" in mint.revoked
    assert world.store.live() == ()
