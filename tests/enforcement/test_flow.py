"""The one flow, attacked at each of its ports."""

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agentguard import lease
from agentguard.concurrency.drive import drive, lift
from agentguard.enforcement.activation import activate, deactivate
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.guarded_call import GuardedCall
from agentguard.errors import (
    ApprovalError,
    AuditError,
    BudgetExhausted,
    ConfigurationError,
    CredentialUnavailable,
    DenialCode,
    Denied,
    StoreError,
    TaskNotActive,
)
from agentguard.identity.local import LocalIdentity
from agentguard.lease import Lease, secrets_of
from agentguard.model import (
    AccessRequest,
    Arguments,
    Budget,
    Credential,
    Decision,
    Effect,
    Grant,
    Mandate,
    Obligation,
    Outcome,
    Sensitivity,
    TaskStatus,
    ToolPath,
)
from agentguard.ports import BrokerTraits
from agentguard.stores.memory import MemoryStore
from tests.doubles.flow import ARGUMENTS, LOOKUP, PERMIT, REFUND, Log, Mint, Rule, World, carry_out


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.promise("credential-as-granted", "recorded-before-minted")
def test_a_permitted_call_runs_with_its_credential_and_leaves_nothing(mode: str) -> None:
    world = World()
    world.begin()

    def body(permit: Permit) -> str:
        token = permit.lease.open()
        try:
            return permit.lease.reveal()
        finally:
            permit.lease.release(token)

    assert world.call(mode, body) == "s3cret"
    assert [grant.scopes for grant in world.mint.issued] == [frozenset({"a", "b"})]
    assert world.mint.revoked == [f"h-{world.mint.issued[0].id}"]
    assert world.store.live() == ()
    decision, outcome = world.log.written
    assert (decision["effect"], decision["policies"], decision["digest"]) == (
        "permit",
        ["p"],
        ARGUMENTS.digest,
    )
    assert (outcome["outcome"], outcome["revoked"], outcome["credential"]) == (
        "done",
        True,
        decision["credential"],
    )
    assert "s3cret" not in repr(world.log.written)


class Late:
    """A policy that waits for somebody, longer than the guard does."""

    version = "1"

    def decide(self, request: AccessRequest) -> Decision:
        time.sleep(0.2)
        return PERMIT


def refuses(_request: AccessRequest) -> Decision:
    raise NotImplementedError("swallowed by langchain's callbacks, and not by us")


@pytest.mark.promise("policy-failure-denies")
@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(Rule(refuses), id="raises"),
        pytest.param(Rule(None), id="returns None"),
        pytest.param(Rule("permit"), id="returns text"),
        pytest.param(Rule(True), id="returns True"),
        pytest.param(Rule(Decision(effect="permit")), id="answers with an effect that is none"),  # type: ignore[arg-type]  # nonsense is the test
        pytest.param(Late(), id="answers too late"),
    ],
)
def test_a_policy_that_errs_is_a_deny(mode: str, policy: Any) -> None:
    world = World(policy=policy, timeout=0.05)
    world.begin()
    denied = world.denied(mode)
    assert denied.code is DenialCode.POLICY_ERROR
    assert not world.ran
    assert not world.mint.issued
    assert world.log.written[-1]["code"] == "policy_error"


@pytest.mark.promise("denial-reveals-nothing")
def test_a_deny_tells_the_operator_why_and_the_model_only_what_to_do(mode: str) -> None:
    world = World(
        policy=Rule(Decision(effect=Effect.DENY, policy_ids=("secret-rule",), reason="secret reason"))
    )
    world.begin()
    denied = world.denied(mode)
    assert world.log.written[-1]["reason"] == "secret reason"
    assert world.log.written[-1]["policies"] == ["secret-rule"]
    assert "secret" not in str(denied)


@pytest.mark.promise("no-task-no-call")
def test_without_a_task_a_call_is_denied(mode: str) -> None:
    assert World().denied(mode, named_task=None).code is DenialCode.NO_TASK
    assert World().denied(mode).code is DenialCode.TASK_ENDED


def test_a_task_of_the_context_and_another_of_the_config_are_a_denial(mode: str) -> None:
    world = World()
    world.begin()
    activation = activate("t1")
    try:
        assert world.denied(mode, named_task="somebody else's").code is DenialCode.TASK_MISMATCH
        assert world.ran == []
    finally:
        deactivate(activation)


@pytest.mark.promise("no-task-no-call")
@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.REVOKED])
def test_a_task_that_has_ended_carries_no_call(mode: str, status: TaskStatus) -> None:
    world = World()
    world.begin()
    world.end("t1", status, "test")
    assert world.denied(mode).code is DenialCode.TASK_ENDED


@pytest.mark.promise("no-task-no-call")
def test_a_task_past_its_deadline_carries_no_call(mode: str) -> None:
    world = World()
    world.begin()
    world.now += 601
    assert world.denied(mode).code is DenialCode.TASK_ENDED


@pytest.mark.promise("no-task-no-call")
def test_a_task_that_ends_between_decision_and_begin_carries_no_call(mode: str) -> None:
    world = World()
    world.begin()

    def end(_request: AccessRequest) -> Decision:
        world.store.end_task("t1", TaskStatus.REVOKED)
        return PERMIT

    world.policy.answer = end
    assert world.denied(mode).code is DenialCode.TASK_ENDED
    assert not world.mint.issued


@pytest.mark.promise("task-end-revokes")
def test_ending_a_task_revokes_what_a_running_call_holds(mode: str) -> None:
    world = World()
    world.begin()

    def body(permit: Permit) -> list[str]:
        world.end("t1", TaskStatus.REVOKED, "anomaly")
        return list(world.mint.revoked)

    revoked = world.call(mode, body)
    assert f"h-{world.mint.issued[0].id}" in revoked
    assert world.log.written[-2]["cause"] == "anomaly"


@pytest.mark.promise("minted-while-ended")
def test_a_task_that_ends_while_a_credential_is_minted_gets_no_use_of_it(mode: str) -> None:
    class Interrupted(Mint):
        def issue(self, grant: Grant) -> Credential:
            credential = super().issue(grant)
            world.end("t1", TaskStatus.REVOKED, "anomaly")
            return credential

    mint = Interrupted()
    world = World(brokers={(None, ToolPath.WRITE): mint})
    world.begin()
    assert world.denied(mode).code is DenialCode.TASK_ENDED
    assert not world.ran
    assert f"h-{mint.issued[0].id}" in mint.revoked
    assert world.store.live() == ()


@pytest.mark.promise("unknown-tool-denied")
def test_an_unclassified_tool_is_denied(mode: str) -> None:
    world = World()
    world.begin()
    assert world.denied(mode, spec=None).code is DenialCode.UNKNOWN_TOOL


@pytest.mark.promise("mandate-limits")
def test_the_mandate_is_asked_before_the_policy(mode: str) -> None:
    world = World()
    world.begin(mandate=Mandate.of({"tools": ["refund"], "args": {"order_id": ["4712"]}}))
    assert world.denied(mode).code is DenialCode.MANDATE
    assert not world.policy.asked


@pytest.mark.promise("no-secret-in-garbage")
def test_when_a_call_is_over_its_secret_waits_for_no_collection(mode: str) -> None:
    """A cycle of objects is freed whenever Python looks for one; until then a dump of the memory holds it."""
    world = World()
    world.begin()
    held = list[bool]()

    def body(_permit: Permit) -> str:
        held.append(any(isinstance(each, Credential) for each in gc.get_objects()))
        return "done"

    gc.collect()
    gc.disable()
    try:
        assert world.call(mode, body) == "done"
        assert held == [True]
        assert not [each for each in gc.get_objects() if isinstance(each, Credential)]
    finally:
        gc.enable()


@dataclass
class Hostile:
    """A result that fails whoever looks at it."""

    text: str = ""

    def __getattribute__(self, name: str) -> Any:
        if name == "text":
            raise OSError("not here")
        return super().__getattribute__(name)


@pytest.mark.promise("unreadable-result")
def test_a_result_that_cannot_be_looked_through_keeps_no_secret_alive_and_counts_as_the_worst(
    mode: str,
) -> None:
    world = World()
    world.begin()

    def body(permit: Permit) -> str:
        permit.result = object.__new__(Hostile)
        return "done"

    spec = replace(REFUND, trusted=frozenset({"text"}), sensitivity=Sensitivity.CONFIDENTIAL)
    assert world.call(mode, body, spec) == "done"
    assert world.mint.revoked == [f"h-{world.mint.issued[0].id}"]
    assert world.log.written[-1]["revoked"] is True
    assert world.store.live() == ()
    task = world.store.task("t1")
    assert task.untrusted
    assert task.sensitivity is Sensitivity.CONFIDENTIAL


class Noted(Mint):
    """A broker whose revocation is a note in a store."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self.store, self.traits = store, BrokerTraits(notes_in=store)

    def note(self, handle: str, expires_at: float) -> tuple[str, float]:
        return f"revoked:{handle}", expires_at

    def revoke(self, handle: str, expires_at: float) -> None:
        super().revoke(handle, expires_at)
        self.store.remember(*self.note(handle, expires_at))


def noted(store: MemoryStore, broker: Mint | None = None) -> World:
    brokers = dict.fromkeys([(None, path) for path in ToolPath], broker or Noted(store))
    world = World(store=store, brokers=brokers)
    world.mint = brokers[None, ToolPath.WRITE]
    return world


@pytest.mark.promise("revocation-note-atomic")
@pytest.mark.parametrize("error", [None, ValueError("broken"), KeyboardInterrupt()])
def test_what_is_revoked_by_a_note_is_revoked_in_one_step_with_the_end(
    mode: str, error: BaseException | None
) -> None:
    world = noted(MemoryStore(clock=lambda: 1000.0))
    world.begin()

    def body(_permit: Permit) -> str:
        assert not world.store.known(f"revoked:h-{world.mint.issued[0].id}")
        if error is not None:
            raise error
        return "done"

    with nullcontext() if error is None else pytest.raises(type(error)):
        world.call(mode, body)
    assert world.mint.revoked == []
    assert world.store.known(f"revoked:h-{world.mint.issued[0].id}")
    assert world.store.live() == ()
    assert world.log.written[-1]["revoked"] is True


@pytest.mark.promise("revocation-note-atomic")
def test_a_note_that_could_not_be_made_is_told_and_made_by_the_outbox(mode: str) -> None:
    store = Faulty("end_call")
    noted(store).begin()
    store.arm()
    world = noted(store)
    assert world.call(mode) == "done"
    handle = f"h-{world.mint.issued[0].id}"
    assert world.log.written[-1]["revoked"] is False
    assert not store.known(f"revoked:{handle}")
    drive(world.flow.sync.outbox.sweep())
    assert handle in world.mint.revoked
    assert store.known(f"revoked:{handle}")
    assert store.live() == ()


@pytest.mark.promise("revocation-note-atomic")
def test_a_broker_that_fails_to_note_is_asked_to_revoke(mode: str) -> None:
    class Failing(Noted):
        def note(self, handle: str, expires_at: float) -> tuple[str, float]:
            raise ConnectionError

        def revoke(self, handle: str, expires_at: float) -> None:
            self.revoked.append(handle)

    store = MemoryStore(clock=lambda: 1000.0)
    world = noted(store, Failing(store))
    world.begin()
    assert world.call(mode) == "done"
    assert world.mint.revoked == [f"h-{world.mint.issued[0].id}"]
    assert world.store.live() == ()


@pytest.mark.promise("revocation-note-atomic")
def test_a_note_in_another_store_than_the_guards_is_made_there(mode: str) -> None:
    other, store = MemoryStore(clock=lambda: 1000.0), MemoryStore(clock=lambda: 1000.0)
    world = noted(store, Noted(other))
    world.begin()
    assert world.call(mode) == "done"
    assert world.mint.revoked == [f"h-{world.mint.issued[0].id}"]
    assert other.known(f"revoked:h-{world.mint.issued[0].id}")


@pytest.mark.promise("revoke-beyond-the-note")
def test_a_broker_that_does_more_to_revoke_than_note_is_asked_to_revoke(mode: str) -> None:
    class Telling(Noted):
        def revoke(self, handle: str, expires_at: float) -> None:
            told.append(handle)
            super().revoke(handle, expires_at)

    class Around:
        """Looks at another broker, and lets it do all else."""

        inline = True

        def __init__(self, inner: Mint) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def revoke(self, handle: str, expires_at: float) -> None:
            told.append(handle)
            self.inner.revoke(handle, expires_at)

    for wrapped in (False, True):
        told = list[str]()
        store = MemoryStore(clock=lambda: 1000.0)
        broker: Any = Around(Noted(store)) if wrapped else Telling(store)
        world = noted(store, broker)
        world.begin()
        assert world.call(mode) == "done"
        assert told == [f"h-{broker.issued[0].id}"]


@pytest.mark.promise("unnoted-read-withheld")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("resource", [None, "payments"])
def test_what_was_read_and_could_not_be_noted_is_withheld(
    mode: str, resource: str | None, fails: bool
) -> None:
    store = Faulty("end_call")
    World(store=store).begin()
    store.arm()
    world = World(store=store)

    def read(_permit: Permit) -> str:
        if fails:
            raise ValueError("pay eve")
        return "pay eve"

    denied = world.denied(mode, body=read, spec=replace(LOOKUP, resource=resource))
    assert denied.code is DenialCode.WITHHELD
    assert "eve" not in f"{denied} {denied.reason}"
    assert len(world.mint.revoked) == (resource is not None)
    assert [r.get("outcome") or r.get("code") or r["effect"] for r in world.log.written] == [
        "permit",
        "failed" if fails else "done",
        "withheld",
    ]


def test_a_cancelled_call_that_could_not_be_noted_stays_cancelled(mode: str) -> None:
    store = Faulty("end_call")
    World(store=store).begin()
    store.arm()

    def interrupted(_permit: Permit) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        World(store=store).call(mode, interrupted, spec=LOOKUP)


class Faulty(MemoryStore):
    """A store of which one operation fails."""

    def __init__(self, operation: str) -> None:
        super().__init__(clock=lambda: 1000.0)

        self._operation = operation

    def arm(self) -> None:
        def fail(*_args: Any, **_kwargs: Any) -> Any:
            raise StoreError("down")

        setattr(self, self._operation, fail)


def faulty(operation: str) -> World:
    """Arm the fault before the flow looks the operation up, but after the task was begun."""
    store = Faulty(operation)
    world = World(store=store)
    world.begin(questions=1)  # a person was asked in this task, so answers are looked for
    store.arm()
    rebuilt = World(store=store)
    return rebuilt


@pytest.mark.promise("store-failure-denies")
@pytest.mark.parametrize("operation", ["task", "begin_call", "track", "approval_for"])
def test_a_store_that_fails_before_the_call_is_a_deny_with_nothing_left_alive(
    mode: str, operation: str
) -> None:
    world = faulty(operation)
    denied = world.denied(mode, thread_id="thread")
    assert denied.code is DenialCode.STORE_ERROR
    assert not world.ran
    assert {f"h-{grant.id}" for grant in world.mint.issued} <= set(world.mint.revoked)


@pytest.mark.promise("store-failure-denies")
@pytest.mark.parametrize("operation", ["end_call", "forget"])
def test_a_store_that_fails_after_the_call_does_not_keep_a_credential_alive(
    mode: str, operation: str
) -> None:
    world = faulty(operation)
    assert world.call(mode) == "done"
    assert world.mint.revoked == [f"h-{world.mint.issued[0].id}"]


@pytest.mark.promise("no-tool-without-credential")
@pytest.mark.parametrize(
    "mint",
    [
        pytest.param(Mint(fail="issue"), id="raises"),
        pytest.param(Mint(returns=lambda: "token"), id="returns text"),
        pytest.param(Mint(returns=dict), id="returns a dict"),
    ],
)
def test_no_tool_runs_without_the_credential_that_it_needs(mode: str, mint: Mint) -> None:
    world = World(brokers={(None, ToolPath.WRITE): mint})
    world.begin()
    denied = world.denied(mode)
    assert denied.code is DenialCode.NO_CREDENTIAL
    assert not world.ran
    assert mint.revoked, "what may have been minted is revoked"
    assert "s3cret" not in repr(world.log.written)


@pytest.mark.promise("no-tool-without-credential")
def test_a_path_without_a_broker_is_a_deny(mode: str) -> None:
    world = World(brokers={(None, ToolPath.READ): Mint(ToolPath.READ)})
    world.begin()
    assert world.denied(mode).code is DenialCode.NO_CREDENTIAL


@pytest.mark.promise("paths-apart")
def test_a_broker_of_one_path_cannot_be_given_to_another() -> None:
    with pytest.raises(ConfigurationError, match="mints only for"):
        World(brokers={(None, ToolPath.WRITE): Mint(ToolPath.READ)})


@pytest.mark.promise("failed-tool-leaves-nothing")
def test_a_revocation_that_fails_is_tried_again_when_the_task_ends(mode: str) -> None:
    world = World()
    world.begin()
    world.mint.fail = "revoke"
    assert world.call(mode) == "done"
    assert world.log.written[-1]["revoked"] is False
    assert world.store.live()
    world.mint.fail = ""
    world.end("t1", TaskStatus.COMPLETED, "done")
    assert f"h-{world.mint.issued[0].id}" in world.mint.revoked
    assert world.store.live() == ()


@pytest.mark.promise("failed-tool-leaves-nothing")
def test_a_call_is_forgotten_only_when_all_that_was_minted_for_it_is_revoked(mode: str) -> None:
    class Stubborn(Mint):
        def revoke(self, handle: str, expires_at: float) -> None:
            if self.fail == "revoke" and handle.startswith("h-"):
                raise ConnectionError
            self.revoked.append(handle)

    mint = Stubborn(fail="revoke")
    world = World(brokers={(None, ToolPath.WRITE): mint})
    world.begin()
    assert world.call(mode) == "done"
    world.end("t1", TaskStatus.REVOKED, "test")
    assert f"h-{mint.issued[0].id}" in {credential.handle for credential in world.store.live()}
    assert world.log.written[-1]["unrevoked"] == 1
    mint.fail = ""
    world.end("t1", TaskStatus.REVOKED, "again")
    assert world.store.live() == ()


@pytest.mark.promise("recorded-before-minted")
def test_what_cannot_be_recorded_does_not_happen(mode: str) -> None:
    world = World()
    world.begin()
    world.log.fail = True
    assert world.denied(mode).code is DenialCode.AUDIT_ERROR
    assert not world.ran
    assert not world.mint.issued


@pytest.mark.promise("failed-tool-leaves-nothing")
def test_a_tool_that_fails_leaves_nothing_alive(mode: str) -> None:
    world = World()
    world.begin()

    def body(_permit: Permit) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        world.call(mode, body)
    assert world.log.written[-1]["outcome"] == "failed"
    assert world.store.live() == ()
    assert world.mint.revoked


class Slow:
    """Gives another object async methods that suspend before and after each operation."""

    def __init__(self, inner: Any, *names: str) -> None:
        self._inner = inner
        for name in names:
            setattr(self, name, getattr(inner, name))
            setattr(self, f"a{name}", self._slow(name))
        for fact in ("paths", "version"):
            if hasattr(inner, fact):
                setattr(self, fact, getattr(inner, fact))

    def _slow(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def slow(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            result = getattr(self._inner, name)(*args, **kwargs)
            await asyncio.sleep(0)
            return result

        return slow


STORE = (
    "create_task",
    "task",
    "active",
    "active_in",
    "begin_call",
    "track",
    "end_call",
    "counted",
    "labels",
    "forget",
    "live",
    "end_task",
    "revise_task",
    "remember",
    "known",
    "save_approval",
    "answer_approval",
    "approval",
    "approval_for",
    "rejection",
)


@pytest.mark.promise("cancellation-leaves-nothing")
def test_cancellation_at_every_await_leaves_nothing_alive() -> None:
    finished, steps = False, 0
    while not finished:
        memory, mint, log = MemoryStore(clock=lambda: 1000.0), Mint(), Log()
        world = World(
            store=Slow(memory, *STORE),
            policy=Slow(Rule(), "decide"),
            audit=Slow(log, "append", "records"),
            brokers={(None, ToolPath.WRITE): Slow(mint, "issue", "revoke")},
        )
        world.begin()
        finished = asyncio.run(cancelled_after(steps, world))
        assert memory.live() == (), f"alive after a cancellation at step {steps}"
        assert {f"h-{g.id}" for g in mint.issued} <= set(mint.revoked), f"not revoked at step {steps}"
        calls = {
            event: [record["call"] for record in log.written if record["event"] == event]
            for event in ("decision", "outcome")
        }
        assert calls["decision"] == calls["outcome"], f"a half of the record at step {steps}"
        steps += 1
    assert steps > 15, "the call had fewer awaits than it has stages"


async def cancelled_after(steps: int, world: World) -> bool:
    async def body(permit: Permit) -> str:
        await asyncio.sleep(0)
        return "done"

    invocation = Invocation(tool="refund", spec=REFUND, arguments=ARGUMENTS, named_task="t1", call_id="c1")
    running = asyncio.ensure_future(carry_out(world.flow.async_, invocation, body))
    for _ in range(steps):
        await asyncio.sleep(0)
        if running.done():
            break
    running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        return False
    return True


@pytest.mark.promise("parallel-budget")
def test_of_three_parallel_calls_against_a_limit_of_one_one_runs() -> None:
    world = World()
    world.begin(budget=Budget(writes=1))
    gate, results = threading.Barrier(3), list[str]()

    def call(number: int) -> None:
        gate.wait()
        try:
            results.append(world.call("sync", call_id=f"c{number}"))
        except Denied as denied:
            results.append(denied.code)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [DenialCode.BUDGET, DenialCode.BUDGET, "done"]
    assert len(world.ran) == 1


@pytest.mark.promise("parallel-budget")
async def test_of_three_gathered_calls_against_a_limit_of_one_one_runs() -> None:
    world = World()
    world.begin(budget=Budget(calls=1))

    async def call(number: int) -> str:
        invocation = Invocation(
            tool="refund", spec=REFUND, arguments=ARGUMENTS, named_task="t1", call_id=f"c{number}"
        )
        try:
            return str(await carry_out(world.flow.async_, invocation, lift(world.body)))
        except Denied as denied:
            return denied.code

    results = await asyncio.gather(*(call(number) for number in range(3)))
    assert sorted(results) == [DenialCode.BUDGET, DenialCode.BUDGET, "done"]


@pytest.mark.promise("unknown-obligation-denies")
def test_obligations_narrow_what_is_issued(mode: str) -> None:
    obligations = (
        Obligation(kind="narrow_scopes", parameters={"scopes": ["b", "c"]}),
        Obligation(kind="shorten_lifetime", parameters={"seconds": 7}),
    )
    world = World(policy=Rule(Decision(effect=Effect.PERMIT, obligations=obligations)))
    world.begin()
    world.call(mode)
    assert world.mint.issued[0].scopes == frozenset({"b"})
    assert world.mint.issued[0].lifetime == 7


@pytest.mark.promise("unknown-obligation-denies")
@pytest.mark.parametrize("kind", ["sing", ""])
def test_an_obligation_that_is_not_understood_is_a_deny(mode: str, kind: str) -> None:
    world = World(policy=Rule(Decision(effect=Effect.PERMIT, obligations=(Obligation(kind=kind),))))
    world.begin()
    assert world.denied(mode).code is DenialCode.OBLIGATION


@pytest.mark.promise("credential-as-granted")
def test_no_credential_outlives_its_task(mode: str) -> None:
    world = World()
    world.begin(deadline=world.now + 3)
    world.call(mode)
    assert world.mint.issued[0].lifetime == 3


@pytest.mark.promise("actor-chain-kept")
def test_an_agent_that_is_not_the_tasks_acts_in_its_own_name(mode: str) -> None:
    world = World(identity=LocalIdentity("agent://b"))
    world.begin()
    world.call(mode)
    identity = world.mint.issued[0].identity
    assert identity.act() == {"sub": "agent://b", "act": {"sub": "agent://a"}}
    assert identity.subject == "alice"


def test_an_untrusted_result_taints_the_task(mode: str) -> None:
    world = World()
    world.begin()
    world.call(mode, spec=LOOKUP)
    world.call(mode)
    assert [request.task.untrusted for request in world.policy.asked] == [False, True]
    assert world.policy.asked[1].task.history == ("lookup",)


@pytest.mark.promise("interrupting-tool")
def test_a_suspended_call_is_neither_failed_nor_done_and_counts_once(mode: str) -> None:
    class Wait(Exception):
        pass

    def outcome_of(error: BaseException) -> Outcome:
        return Outcome.SUSPENDED if isinstance(error, Wait) else Outcome.FAILED

    world = World(outcome_of=outcome_of)
    world.begin(budget=Budget(calls=1))

    def body(permit: Permit) -> str:
        if len(world.mint.issued) == 1:
            raise Wait
        return "done"

    with pytest.raises(Wait):
        world.call(mode, body, thread_id="thread")
    assert world.log.written[-1]["outcome"] == Outcome.SUSPENDED
    assert world.store.live() == ()
    assert world.call(mode, body, thread_id="thread") == "done"
    assert world.store.task("t1").calls == 1


@pytest.mark.promise("lease-dead-after-call")
def test_a_lease_outside_of_its_call_is_dead(mode: str) -> None:
    world = World()
    world.begin()
    kept = list[Lease]()

    def body(permit: Permit) -> str:
        token = permit.lease.open()
        kept.append(permit.lease)
        try:
            return permit.lease.reveal()
        finally:
            lease._current.reset(token)  # as a context that ends does: the lease itself stays open

    assert world.call(mode, body) == "s3cret"
    with pytest.raises(CredentialUnavailable):
        kept[0].reveal()


@pytest.mark.promise("judged-is-what-runs")
def test_a_permit_is_for_the_judged_arguments_and_once() -> None:
    world = World()
    world.begin()

    async def body() -> tuple[DenialCode, DenialCode]:
        invocation = Invocation(
            tool="refund", spec=REFUND, arguments=ARGUMENTS, call_id="c1", named_task="t1"
        )
        async with GuardedCall(world.flow.sync, invocation) as permit:
            with pytest.raises(Denied) as changed:
                permit.enter(Arguments.of({"order_id": "4712"}).digest)
            permit.enter(ARGUMENTS.digest)
            with pytest.raises(Denied) as again:
                permit.enter(ARGUMENTS.digest)
            return changed.value.code, again.value.code

    assert drive(body()) == (DenialCode.ARGUMENTS_CHANGED, DenialCode.GRANT_USED)


@pytest.mark.promise("no-credential-carried-over")
def test_no_credential_is_kept_for_the_next_call_or_task(mode: str) -> None:
    world = World()
    seen = list[str]()

    def body(permit: Permit) -> None:
        seen.append("".join(secrets_of(permit.lease)))

    for task_id in ("t1", "t2"):
        world.begin(id=task_id)
        for call_id in ("c1", "c2"):
            world.call(mode, body, named_task=task_id, call_id=call_id)
    assert len(world.mint.issued) == len(seen) == 4
    assert [grant.task_id for grant in world.mint.issued] == ["t1", "t1", "t2", "t2"]
    assert len({grant.id for grant in world.mint.issued}) == 4


@pytest.mark.promise("fault-told")
def test_what_failed_below_a_denied_call_is_told_to_the_operator_and_not_to_the_model(mode: str) -> None:
    class Full(Log):
        def append(self, record: Any) -> None:
            raise AuditError("audit.jsonl: No space left on device")

    class Locked(MemoryStore):
        def begin_call(self, *_: Any, **__: Any) -> None:
            raise StoreError("state.db: database is locked")

    for ports, words in (({"audit": Full()}, "No space left"), ({"store": Locked()}, "is locked")):
        world = World(**ports)
        world.now = time.time()
        world.begin(deadline=world.now + 600)
        denied = world.denied(mode)
        assert words in denied.reason
        assert words not in str(denied)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (TaskNotActive, DenialCode.TASK_ENDED),
        (BudgetExhausted, DenialCode.BUDGET),
        (ApprovalError, DenialCode.APPROVAL_REFUSED),
    ],
)
def test_a_store_may_refuse_a_call_by_an_error_of_its_own_kind(
    mode: str, kind: type[Exception], code: DenialCode
) -> None:
    class Refusal(kind):  # type: ignore[valid-type, misc]  # one of the three above
        """What a user's store raises."""

    class Refusing(MemoryStore):
        def begin_call(self, *_args: Any, **_kwargs: Any) -> None:
            raise Refusal("no")

    world = World(store=Refusing(clock=lambda: 1000.0))
    world.begin()
    assert world.denied(mode).code is code
    assert (world.ran, world.mint.issued, world.flow.calls.running) == ([], [], {})
    assert [record["effect"] for record in world.log.written] == ["deny"]


def test_a_call_that_a_store_has_begun_though_it_failed_is_ended(mode: str) -> None:
    class Late(MemoryStore):
        def begin_call(self, *args: Any, **kwargs: Any) -> None:
            super().begin_call(*args, **kwargs)
            raise StoreError("the connection was lost after the commit")

    world = World(store=Late(clock=lambda: 1000.0))
    world.begin()
    assert world.denied(mode).code is DenialCode.STORE_ERROR
    assert (world.ran, world.mint.issued, world.flow.calls.running) == ([], [], {})
    assert world.store.live() == ()
    assert [record.get("outcome") for record in world.log.written] == ["failed", None]
