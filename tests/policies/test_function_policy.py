"""A plain function is a policy, and nothing but a clear yes in time is a permit."""

from __future__ import annotations

import asyncio
import operator
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

from agentguard.concurrency import abandonable
from agentguard.concurrency.drive import drive, operation_pair
from agentguard.model import (
    AccessRequest,
    Arguments,
    Decision,
    Effect,
    Identity,
    Mandate,
    Obligation,
    TaskState,
    ToolPath,
    ToolSpec,
)
from agentguard.policies.function import FunctionPolicy
from agentguard.ports import Policy
from tests.conftest import Mode

IDENTITY = Identity(subject="user:ada", actor="agent://support")
REQUEST = AccessRequest(
    identity=IDENTITY,
    tool=ToolSpec(name="refund", path=ToolPath.WRITE),
    arguments=Arguments.of({"amount": 5}),
    task=TaskState(
        id="t", purpose="Refund", identity=IDENTITY, mandate=Mandate(tools=frozenset("*")), deadline=2e9
    ),
)


async def both(policy: FunctionPolicy) -> tuple[Decision, Decision]:
    """Ask on the synchronous path and on the asynchronous one."""
    return await asyncio.to_thread(policy.decide, REQUEST), await policy.adecide(REQUEST)


def small(request: AccessRequest) -> bool:
    return bool(request.arguments.values["amount"] <= 5)


async def asmall(request: AccessRequest) -> bool:
    await asyncio.sleep(0)
    return small(request)


class Callable_:
    def __call__(self, request: AccessRequest) -> bool:
        return small(request)


class AsyncCallable:
    async def __call__(self, request: AccessRequest) -> bool:
        return small(request)


@pytest.mark.parametrize("function", [small, asmall, Callable_(), AsyncCallable()])
async def test_a_yes_is_a_permit_on_both_paths(function: Callable[..., Any]) -> None:
    policy = FunctionPolicy(function)
    assert isinstance(policy, Policy)
    one, two = await both(policy)
    assert one == two
    assert one.permitted
    assert one.policy_version == policy.version


async def test_a_no_is_a_deny_that_names_the_function() -> None:
    for decision in await both(FunctionPolicy(lambda _request: False)):
        assert decision.effect is Effect.DENY
        assert "lambda" in decision.reason


async def test_a_decision_is_passed_on_with_the_version() -> None:
    answer = Decision(
        effect=Effect.PERMIT, policy_ids=("mine",), obligations=(Obligation(kind="approve"),), reason="r"
    )
    policy = FunctionPolicy(lambda _request: answer, version="7")
    for decision in await both(policy):
        assert decision.obliges("approve")
        assert (decision.policy_ids, decision.policy_version) == (("mine",), "7")


@pytest.mark.promise("policy-failure-denies")
@pytest.mark.parametrize(
    "answer",
    [
        None,
        "yes",
        1,
        [True],
        Effect.PERMIT,
        Decision(effect="permit"),  # type: ignore[arg-type]  # what a careless author writes
        Decision(effect=True),  # type: ignore[arg-type]  # the same
    ],
)
async def test_nonsense_is_a_deny(answer: Any) -> None:
    async def later(_request: AccessRequest) -> Any:
        return answer

    for function in (lambda _request: answer, later):
        for decision in await both(FunctionPolicy(function)):
            assert decision.effect is Effect.DENY
            assert decision.reason.startswith("policy_error: ")


async def test_a_coroutine_that_nobody_awaited_is_a_deny_without_a_warning() -> None:
    for decision in await both(FunctionPolicy(lambda request: asmall(request))):
        assert decision.effect is Effect.DENY
        assert "coroutine" in decision.reason


async def test_an_async_generator_is_a_deny() -> None:
    async def stream(_request: AccessRequest) -> AsyncIterator[bool]:
        yield True

    for decision in await both(FunctionPolicy(stream)):  # type: ignore[arg-type]  # what is tested
        assert decision.effect is Effect.DENY


@pytest.mark.promise("policy-failure-denies")
@pytest.mark.parametrize(
    "error", [ValueError("s3cret"), KeyError("s3cret"), TimeoutError(), RecursionError()]
)
async def test_a_function_that_raises_is_a_deny_without_its_words(error: Exception) -> None:
    def fails(_request: AccessRequest) -> bool:
        raise error

    async def afails(_request: AccessRequest) -> bool:
        raise error

    for function in (fails, afails):
        for decision in await both(FunctionPolicy(function)):
            assert decision.effect is Effect.DENY
            assert decision.reason.startswith("policy_error: ")
            assert "s3cret" not in decision.reason


def test_an_exit_in_a_function_is_a_deny_and_ends_nothing() -> None:
    assert FunctionPolicy(lambda _request: sys.exit(0)).decide(REQUEST).effect is Effect.DENY


@pytest.mark.promise("policy-failure-denies")
async def test_a_late_answer_is_a_deny_in_time() -> None:
    release = threading.Event()

    async def alate(_request: AccessRequest) -> bool:
        await asyncio.sleep(5)
        return True

    def stubborn(_request: AccessRequest) -> bool:
        release.wait(5)
        return True

    started = time.monotonic()
    for function in (stubborn, alate):
        for decision in await both(FunctionPolicy(function, timeout=0.05)):
            assert decision.effect is Effect.DENY
            assert "0.05 s" in decision.reason
    assert time.monotonic() - started < 2
    release.set()


async def test_a_late_yes_is_a_deny_even_if_it_swallows_its_cancellation() -> None:
    async def swallows(_request: AccessRequest) -> bool:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        return True

    async def blocks(_request: AccessRequest) -> bool:
        time.sleep(0.1)  # noqa: ASYNC251  blocking the loop is what is tested
        return True

    for function in (swallows, blocks):
        for decision in await both(FunctionPolicy(function, timeout=0.05)):
            assert decision.effect is Effect.DENY


async def test_the_event_loop_runs_on_while_a_sync_function_thinks() -> None:
    release = threading.Event()
    policy = FunctionPolicy(lambda _request: release.wait(5))
    decision = asyncio.create_task(policy.adecide(REQUEST))
    await asyncio.sleep(0.02)
    release.set()
    assert (await decision).permitted


async def test_cancelling_the_caller_is_not_a_decision() -> None:
    async def waits(_request: AccessRequest) -> bool:
        await asyncio.sleep(5)
        return True

    decision = asyncio.create_task(FunctionPolicy(waits, timeout=5).adecide(REQUEST))
    await asyncio.sleep(0)
    decision.cancel()
    with pytest.raises(asyncio.CancelledError):
        await decision


def asked_by(subject: str) -> AccessRequest:
    return replace(REQUEST, identity=Identity(subject=subject, actor="agent://support"))


@pytest.mark.promise("hung-policy-blocks-nobody")
def test_hung_calls_of_one_user_are_replaced_then_bounded_and_block_nobody_else(
    mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def rule(request: AccessRequest) -> bool:
        return request.identity.subject != "user:eve" or request.tool.name == "quick" or release.wait(10)

    policy = FunctionPolicy(rule, timeout=0.01)
    slow, quick = (
        asked_by("user:eve"),
        replace(asked_by("user:eve"), tool=replace(REQUEST.tool, name="quick")),
    )

    async def ask(request: AccessRequest) -> Decision:
        return await policy.adecide(request) if mode.asynchronous else policy.decide(request)

    async def run() -> None:
        for _ in range(70):
            assert "no answer within" in (await ask(slow)).reason
        assert (await ask(quick)).permitted, "64 hung calls deny their own user for ever"
        assert (await ask(asked_by("user:ada"))).permitted
        reasons = [(await ask(slow)).reason for _ in range(70)]
        assert "too many calls of it hang" in reasons[-1]
        assert (await ask(asked_by("user:ada"))).permitted
        assert not (await ask(quick)).permitted, "the hung calls of one user have a bound"

    asyncio.run(run())
    assert "a call was given up, and its thread still runs (70 of at most 1024)" in caplog.text
    release.set()
    deadline = time.monotonic() + 5
    while not policy.decide(slow).permitted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert policy.decide(slow).permitted


@pytest.mark.promise("hung-policy-blocks-nobody")
async def test_an_async_function_that_swallows_its_cancellation_holds_no_call_and_no_other_user() -> None:
    release = asyncio.Event()

    async def stubborn(request: AccessRequest) -> bool:
        while request.identity.subject == "user:eve" and not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()
        return True

    policy = FunctionPolicy(stubborn, timeout=0.02)
    started = time.monotonic()
    assert "no answer within" in (await policy.adecide(asked_by("user:eve"))).reason
    assert time.monotonic() - started < 1
    questions = [policy.adecide(asked_by("user:eve")) for _ in range(abandonable.HUNG)]
    assert not any(decision.permitted for decision in await asyncio.gather(*questions))
    assert "swallow" in (await policy.adecide(asked_by("user:eve"))).reason
    assert (await policy.adecide(asked_by("user:ada"))).permitted
    release.set()
    await asyncio.sleep(0.01)
    assert (await policy.adecide(asked_by("user:eve"))).permitted


@pytest.mark.promise("hung-policy-blocks-nobody")
def test_a_sync_call_of_an_async_function_that_swallows_its_cancellation_is_late() -> None:
    release = threading.Event()

    async def stubborn(_request: AccessRequest) -> bool:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return True

    started = time.monotonic()
    assert "no answer within" in FunctionPolicy(stubborn, timeout=0.02).decide(REQUEST).reason
    assert time.monotonic() - started < 1
    release.set()


@pytest.mark.promise("hung-policy-blocks-nobody")
def test_the_hung_calls_of_all_users_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandonable, "HUNG_OF_ALL", 5)
    release = threading.Event()
    policy = FunctionPolicy(lambda _request: release.wait(10), timeout=0.001)
    reasons = [policy.decide(asked_by(f"user:{number}")).reason for number in range(6)]
    assert [("hang" in reason) for reason in reasons] == [False] * 5 + [True]
    release.set()


def test_a_system_without_more_threads_is_a_deny(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    policy = FunctionPolicy(small)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        assert "no more threads" in policy.decide(REQUEST).reason
    assert policy.decide(REQUEST).permitted


async def test_a_caller_that_is_cancelled_gives_its_place_back() -> None:
    release = threading.Event()
    policy = FunctionPolicy(lambda _request: release.wait(10), timeout=5)
    for _ in range(70):
        decision = asyncio.create_task(policy.adecide(REQUEST))
        await asyncio.sleep(0)
        decision.cancel()
        with pytest.raises(asyncio.CancelledError):
            await decision
    release.set()
    assert (await policy.adecide(REQUEST)).permitted


async def test_the_callers_context_reaches_the_function() -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="none")
    tenant.set("acme")

    async def asees(_request: AccessRequest) -> bool:
        return tenant.get() == "acme"

    for function in (lambda _request: tenant.get() == "acme", asees):
        for decision in await both(FunctionPolicy(function)):
            assert decision.permitted


async def test_it_works_through_the_drive() -> None:
    pair = operation_pair(FunctionPolicy(asmall), "decide", timeout=5)
    decision = await pair.async_(REQUEST)
    assert decision.permitted

    async def ask() -> Decision:
        answer: Decision = await pair.sync(REQUEST)
        return answer

    assert drive(ask()).permitted


def test_the_version_follows_the_code() -> None:
    def one(_request: AccessRequest) -> bool:
        return 1 in {1, 2, 3}

    first = FunctionPolicy(one).version
    assert first == FunctionPolicy(one).version

    def one(_request: AccessRequest) -> bool:  # type: ignore[no-redef]  # the same name, other code
        return 1 in {1, 2, 4}

    assert FunctionPolicy(one).version != first
    assert FunctionPolicy(one, version="v1").version == "v1"
    with pytest.raises(TypeError, match="version="):
        FunctionPolicy(operator.attrgetter("approval"))


@pytest.mark.promise("decisions-deterministic")
def test_the_version_does_not_follow_the_order_of_a_set() -> None:
    def one(_request: AccessRequest) -> bool:
        return _request in {8, 0}  # type: ignore[comparison-overlap]  # only its constants matter

    constants = [frozenset([0, 8]), frozenset([8, 0])]  # of equal hash: they iterate as they were made
    assert len({repr(constant) for constant in constants}) == 2
    versions = set()
    for constant in constants:
        one.__code__ = one.__code__.replace(co_consts=(None, constant))
        versions.add(FunctionPolicy(one).version)
    assert len(versions) == 1
