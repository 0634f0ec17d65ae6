"""A call that Ctrl-C ends, at any line of it: nothing stays alive, nothing stays without an outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agentguard.concurrency.drive import drive
from agentguard.enforcement.outbox import Orphans
from agentguard.enforcement.outbox_thread import OutboxThread
from agentguard.errors import Denied, RevocationUnknown, StoreError
from agentguard.model import Credential, Decision, Grant, LiveCredential, Outcome, TaskStatus, ToolPath
from agentguard.stores.memory import MemoryStore
from tests.doubles.flow import PERMIT, Log, Mint, World
from tests.doubles.interrupts import broken_by_interrupts


class Panic(BaseException):
    """As a library raises it that is written in Rust: cryptography, cedarpy."""


class Issuer(Mint):
    """It names the handle when it mints, knows no other one, and may fail at some of its revocations."""

    def __init__(self, *failures: BaseException) -> None:
        super().__init__()
        self.alive, self.failures = set[str](), list(failures)

    def issue(self, grant: Grant) -> Credential:
        credential = super().issue(grant)
        self.alive.add(credential.handle)
        return credential

    def revoke(self, handle: str, expires_at: float) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if handle not in self.alive and handle not in self.revoked:
            raise RevocationUnknown("unknown handle")
        self.alive.discard(handle)
        super().revoke(handle, expires_at)


class FailingStore(MemoryStore):
    """A store in memory, an operation of which raises once."""

    def __init__(self, operation: str, failure: BaseException) -> None:
        super().__init__(clock=lambda: 1000.0)
        self.failures = {operation: failure}

    def _fail(self, operation: str) -> None:
        if operation in self.failures:
            raise self.failures.pop(operation)

    def track(self, credential: LiveCredential) -> None:
        self._fail("track")
        super().track(credential)

    def end_call(self, call_id: str, outcome: Outcome, **options: Any) -> None:
        self._fail("end_call")
        super().end_call(call_id, outcome, **options)


class FailingLog(Log):
    """A log that raises once, at a record of an outcome."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__()
        self.failures = [failure]

    def append(self, record: Mapping[str, Any]) -> None:
        if record["event"] == "outcome" and self.failures:
            raise self.failures.pop()
        super().append(record)


def world_of(issuer: Mint, **changes: Any) -> World:
    world = World(brokers={(None, path): issuer for path in ToolPath}, **changes)
    world.begin()
    return world


def sweep(world: World) -> None:
    for _ in range(2):
        drive(world.flow.sync.outbox.sweep())


def require_sound(world: World, issuer: Issuer) -> None:
    """Require what holds after a call, however it has ended, once the outbox has been worked off."""
    sweep(world)
    assert issuer.alive == set()
    assert world.flow.calls.running == {}
    assert world.store._running == {}, "the store knows of no call that runs"
    records = world.log.written
    permits = {one["call"] for one in records if one["event"] == "decision" and one["effect"] == "permit"}
    outcomes = [one["call"] for one in records if one["event"] == "outcome"]
    assert permits == set(outcomes), "each permit has an outcome, and each outcome its permit"
    # an interrupt between the record and the note of it may cause a second record, and never none
    assert len(outcomes) <= len(permits) + 1
    assert world.call("sync") == "done", "and the next call goes through"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what Ctrl-C has ended
@pytest.mark.exhaustive
@pytest.mark.promise("interrupted-call-ends")
@pytest.mark.parametrize("parts", [("/agentguard/enforcement/",), ("/agentguard/concurrency/",)])
def test_a_call_that_is_interrupted_at_any_line_leaves_nothing(parts: tuple[str, ...]) -> None:
    def make() -> tuple[World, Issuer]:
        issuer = Issuer()
        return world_of(issuer), issuer

    broken = broken_by_interrupts(
        make, lambda pair: pair[0].call("sync"), lambda pair: require_sound(*pair), parts
    )
    # between the issuer's answer and its delivery: what was to be minted is on record, and ends by itself
    undelivered = ("Issuance._deliver", "_delivering.<locals>.delivering", "_ForParty.__exit__")
    assert [place for place in broken if not any(name in place for name in undelivered)] == []
    assert len(broken) < 6


def interrupt(_permit: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.promise("interrupted-call-ends")
def test_a_second_interrupt_while_the_issuer_is_slow_loses_no_outcome() -> None:
    issuer = Issuer(KeyboardInterrupt())
    world, woken = world_of(issuer), list[int]()
    world.flow.on_unrevoked = lambda: woken.append(1)
    with pytest.raises(KeyboardInterrupt):
        world.call("sync", body=interrupt)
    assert woken
    require_sound(world, issuer)
    assert [one["outcome"] for one in world.log.written if one["event"] == "outcome"] == ["cancelled", "done"]


@pytest.mark.promise("interrupted-call-ends")
def test_an_interrupt_while_the_store_notes_the_end_or_the_log_the_outcome_loses_neither() -> None:
    for parts in (
        {"store": FailingStore("end_call", KeyboardInterrupt())},
        {"audit": FailingLog(KeyboardInterrupt())},
    ):
        issuer = Issuer()
        world = world_of(issuer, **parts)
        world.log = world.flow.ports.audit  # type: ignore[assignment]  # it is a Log
        with pytest.raises(KeyboardInterrupt):
            world.call("sync")
        require_sound(world, issuer)


@pytest.mark.promise("interrupted-call-ends")
def test_the_end_of_the_task_wakes_the_outbox_for_a_call_that_nobody_leaves() -> None:
    issuer = Issuer()
    world, woken = world_of(issuer), list[int]()
    world.flow.on_unrevoked = lambda: woken.append(1)

    class Gone:
        def is_running(self) -> bool:
            return False

        async def end_late(self) -> None:
            world.flow.calls.running.clear()

    world.flow.calls.running["c"] = Gone()  # type: ignore[assignment]  # only these two are asked
    world.end("t1", TaskStatus.COMPLETED, "its block ended")
    assert woken
    sweep(world)
    assert world.flow.calls.running == {}


def test_no_sweep_ends_a_call_that_runs(mode: str) -> None:
    """Also one that a sweep in another thread looks at, or that waits on its event loop."""
    issuer = Issuer()
    world = world_of(issuer)
    alive = list[int]()

    def body(_permit: object) -> str:
        sweep(world)
        alive.append(len(issuer.alive))
        return "done"

    assert world.call(mode, body=body) == "done"
    assert alive == [1]


# --- the handle


@pytest.mark.promise("minted-is-on-record")
@pytest.mark.parametrize("failure", [StoreError, Panic])
def test_a_handle_that_could_not_be_recorded_at_once_is_recorded_and_revoked_later(
    mode: str, failure: type[BaseException]
) -> None:
    issuer = Issuer(ConnectionError())
    world = world_of(issuer, store=FailingStore("track", failure("database is locked")))
    with pytest.raises((Denied, Panic)):
        world.call(mode)
    assert issuer.alive, "it was minted, and its first revocation failed"
    sweep(world)
    assert (issuer.alive, world.store.live(), world.flow.calls.untracked) == (set(), (), {})


@pytest.mark.promise("minted-is-on-record")
def test_a_handle_that_can_never_be_recorded_is_revoked_all_the_same() -> None:
    class Unwritable(MemoryStore):
        def track(self, credential: LiveCredential) -> None:
            raise StoreError("disk full")

    issuer = Issuer(ConnectionError(), ConnectionError())
    world = world_of(issuer, store=Unwritable(clock=lambda: 1000.0))
    world.denied("sync")
    sweep(world)
    sweep(world)
    assert issuer.alive == set()
    assert world.flow.calls.untracked == {}


# --- panics


@pytest.mark.promise("end-whatever-fails")
@pytest.mark.parametrize("failure", [Panic, SystemExit, KeyboardInterrupt, ValueError])
def test_the_thread_of_the_outbox_survives_what_a_sweep_raises(failure: type[BaseException]) -> None:
    class Box:
        sweeps = 0

        async def collect(self, _known: object) -> Orphans:
            self.sweeps += 1
            if self.sweeps == 1:
                raise failure
            return Orphans([], 0)

    box = Box()
    thread = OutboxThread(box)  # type: ignore[arg-type]  # it is only read
    thread.watch()
    end = time.monotonic() + 5
    while box.sweeps < 1 and time.monotonic() < end:
        time.sleep(0.01)
    thread.watch()
    while box.sweeps < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert box.sweeps >= 2
    thread.close()


@pytest.mark.promise("end-whatever-fails")
def test_a_panic_of_one_broker_in_the_outbox_keeps_no_other_credential_alive() -> None:
    good = Mint()
    world = World(brokers={(None, ToolPath.READ): Issuer(Panic(), Panic()), (None, ToolPath.WRITE): good})
    world.begin()
    for broker in ("*/read", "*/write"):
        credential = LiveCredential(
            call_id=broker, task_id="t1", broker=broker, handle=broker, expires_at=2000.0, owner="?"
        )
        world.store.track(credential)
        world.flow.calls.failed.add(broker)
    assert drive(world.flow.sync.outbox.sweep()) == 1
    assert good.revoked == ["*/write"]


@pytest.mark.promise("never-unrecorded")
def test_a_policy_or_a_broker_that_panics_denies_the_call_on_record(mode: str) -> None:
    def panic(*_: object) -> Decision:
        raise Panic

    world = world_of(Mint())
    world.policy.answer = panic
    assert world.denied(mode).code == "policy_error"
    world.policy.answer = PERMIT
    issuing: Callable[..., Any] = panic
    broken = Mint()
    broken.issue = issuing  # type: ignore[method-assign]  # the same
    world = world_of(broken)
    assert world.denied(mode).code == "no_credential"
    assert [one["effect"] for one in world.log.written if one["event"] == "decision"][-1] == "deny"
