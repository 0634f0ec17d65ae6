"""Threads that run one function after the other, of which one that hangs holds nobody up."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from agentguard.concurrency import threads
from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.concurrency.threads import ReusedThreads

user: ContextVar[str] = ContextVar("user", default="nobody")


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def idle(reused: AbandonableThreads) -> int:
    return len(reused._threads._idle)


def run(reused: AbandonableThreads, function: Callable[..., Any], *args: Any) -> Any:
    """Run a function, and wait until its thread may be used again."""
    before = idle(reused)
    answer = reused.run(5.0, function, *args)
    until(lambda: idle(reused) >= max(1, before))
    return answer


def test_calls_one_after_the_other_use_one_thread() -> None:
    reused = AbandonableThreads("a port")
    assert len({run(reused, threading.current_thread) for _ in range(5)}) == 1


def test_a_call_that_hangs_holds_its_own_thread_alone_until_it_returns() -> None:
    reused, release = AbandonableThreads("a port"), threading.Event()
    first = run(reused, threading.current_thread)
    with pytest.raises(TimeoutError):
        reused.run(0.05, release.wait, 20)
    second = run(reused, threading.current_thread)
    assert second is not first
    assert [run(reused, threading.current_thread) for _ in range(3)] == [second] * 3
    release.set()
    until(lambda: idle(reused) == 2)
    assert reused.run(5.0, threading.current_thread) in {first, second}


def test_a_thread_brings_nothing_from_one_caller_to_the_next() -> None:
    reused = AbandonableThreads("a port")

    def act(name: str) -> tuple[str, int]:
        before = user.get()
        user.set(name)
        return before, threading.get_ident()

    token = user.set("alice")
    alice = run(reused, act, "root")
    user.reset(token)
    nobody = run(reused, act, "root")
    assert (alice[0], nobody[0]) == ("alice", "nobody")
    assert alice[1] == nobody[1], "it was not the same thread"


def test_an_idle_thread_keeps_nothing_of_what_it_has_run() -> None:
    class Content:
        pass

    reused, content = AbandonableThreads("a port"), Content()
    reference = weakref.ref(content)
    gc.disable()  # a cycle would keep it until the next collection
    try:
        run(reused, id, content)
        del content
        until(lambda: reference() is None)
    finally:
        gc.enable()


def test_a_thread_that_is_idle_for_long_ends_and_a_new_call_gets_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "IDLE", 0.02)
    reused = AbandonableThreads("a port")
    first = reused.run(5.0, threading.current_thread)
    first.join(5)
    assert not first.is_alive()
    assert idle(reused) == 0
    assert reused.run(5.0, threading.current_thread) is not first


def test_no_call_is_lost_while_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE", 0.001)
    reused, answers = AbandonableThreads("a port"), list[int]()
    for number in range(200):
        answers.append(reused.run(5.0, lambda: number))  # noqa: B023  it is called before the next one
        time.sleep(0.0009)
    assert answers == list(range(200))


def test_at_most_a_few_threads_stay_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MOST_IDLE", 2)
    reused, release, begun = ReusedThreads("test-reused"), threading.Event(), list[object]()

    def wait() -> None:
        begun.append(threading.current_thread())
        release.wait(20)

    for _ in range(6):
        reused.start(wait)
    until(lambda: len(begun) == 6)
    release.set()
    until(lambda: sum(thread.is_alive() for thread in threading.enumerate() if thread in begun) <= 2)
    assert len(reused._idle) <= 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # which is what this is about
def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    reused = AbandonableThreads("a port")
    run(reused, int)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if reused.run(5.0, lambda: 7) == 7 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
