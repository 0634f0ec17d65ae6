"""A child that was forked in a task or a call acts as nobody, and ends nothing of its parent's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from agentguard import Denied, Guard
from agentguard.errors import DenialCode, TaskNotActive
from agentguard.model import TaskStatus
from agentguard.stores import MemoryStore, SqliteStore
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call, tool_messages

# from Python 3.12 on; that a child of a process with threads works is what these tests are about
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]
ALICE: dict[str, Any] = {"subject": "alice", "mandate": {"tools": "*"}}


def child(question: Callable[[], object]) -> str:
    """Return what a forked child answers, or the name of what it raises."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            answer = str(question())
        except BaseException as error:  # noqa: BLE001  the parent is told
            answer = f"{type(error).__name__} {getattr(error, 'code', '')}".strip()
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@pytest.fixture(params=["memory", "sqlite"])
def shared(request: pytest.FixtureRequest, kit: Kit, tmp_path: Any) -> Iterator[Any]:
    """Return a guard on each kind of store."""
    store: Any = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "s.db")
    yield kit.another(store=store)
    getattr(store, "close", lambda: None)()


def looking(guard: Guard, **facts: Any) -> Any:
    @tool
    def look() -> str:
        """Look."""
        return "RAN"

    return guard.wrap(classified(look, **{"path": "read"} | facts))[0]


NO_TASK = f"Denied {DenialCode.NO_TASK}"


@pytest.mark.promise("fork-acts-as-nobody")
def test_a_child_does_not_act_in_the_task_that_is_active_at_the_fork(shared: Guard) -> None:
    look = looking(shared)
    with shared.task("t", **ALICE) as task:
        config = task.config
        assert child(lambda: look.invoke({})) == NO_TASK
        assert child(lambda: look.invoke({}, config)) == NO_TASK
        assert look.invoke({}) == look.invoke({}, config) == "RAN"
        with task.active():
            assert child(lambda: look.invoke({})) == NO_TASK
    assert task.state().calls == 2


@pytest.mark.promise("fork-acts-as-nobody")
async def test_a_child_does_not_act_in_a_task_of_an_event_loop(shared: Guard) -> None:
    look = looking(shared)
    async with shared.task("t", **ALICE):
        assert child(lambda: look.invoke({})) == NO_TASK
        assert await look.ainvoke({}) == "RAN"


@pytest.mark.promise("fork-acts-as-nobody")
def test_a_child_finds_no_task_of_its_parents_memory_and_no_key_is_free_in_it(kit: Kit) -> None:
    look = looking(kit.guard)
    with kit.guard.task("t", calls=1, **ALICE) as task:
        kit.store.remember("proof", 1e12)

        def act() -> object:
            with kit.guard.find(task.id).active():
                return look.invoke({})

        assert child(act).split()[0] in {"Denied", TaskNotActive.__name__, "KeyError", "LookupError"}
        assert child(lambda: kit.store.task(task.id)) == "None"
        assert child(lambda: kit.store.live()) == "()"
        assert child(lambda: kit.store.remember("proof", 1e12)) == "False"


def test_control_a_child_has_tasks_of_its_own(shared: Guard) -> None:
    look = looking(shared)

    def work() -> object:
        with shared.task("own", **ALICE):
            return look.invoke({})

    with shared.task("t", **ALICE) as task:
        assert child(work) == "RAN"
        assert look.invoke({}) == "RAN"
    assert task.state().calls == 1


def test_control_a_child_may_act_in_a_task_that_it_finds_in_a_shared_store(kit: Kit, tmp_path: Any) -> None:
    store = SqliteStore(tmp_path / "s.db")
    guard = kit.another(store=store)
    look = looking(guard)
    with guard.task("t", **ALICE) as task:

        def act() -> object:
            with guard.find(task.id).active():
                return look.invoke({})

        assert child(act) == "RAN"
    assert child(act).startswith("Denied")
    store.close()


@pytest.mark.promise("fork-ends-nothing")
@pytest.mark.parametrize("leaving", [SystemExit, ValueError, None])
def test_a_child_that_leaves_the_block_ends_no_task(kit: Kit, tmp_path: Any, leaving: Any) -> None:
    store = SqliteStore(tmp_path / "s.db")
    guard, parent = kit.another(store=store), os.getpid()
    look = looking(guard)
    try:
        with guard.task("t", **ALICE) as task:
            if (pid := os.fork()) == 0 and leaving is not None:
                raise leaving
            if pid:
                os.waitpid(pid, 0)
                assert look.invoke({}) == "RAN"
    finally:
        if os.getpid() != parent:
            os._exit(0)
    assert task.state().status is TaskStatus.COMPLETED
    store.close()


@pytest.mark.promise("fork-ends-nothing")
async def test_a_child_that_leaves_an_asynchronous_block_ends_no_task(kit: Kit, tmp_path: Any) -> None:
    store = SqliteStore(tmp_path / "s.db")
    guard, parent = kit.another(store=store), os.getpid()
    look = looking(guard)
    try:
        async with guard.task("t", **ALICE) as task:
            if (pid := os.fork()) == 0:
                raise ValueError
            os.waitpid(pid, 0)  # noqa: ASYNC222  nothing else runs on this event loop
            assert await look.ainvoke({}) == "RAN"
    finally:
        if os.getpid() != parent:
            os._exit(0)
    assert task.state().status is TaskStatus.COMPLETED
    store.close()


@pytest.mark.promise("fork-ends-nothing")
@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
def test_a_child_that_leaves_the_tool_ends_no_call_revokes_nothing_and_records_nothing(
    kit: Kit, tmp_path: Any, how: str
) -> None:
    store = SqliteStore(tmp_path / "s.db")
    guard, parent, children = kit.another(store=store), os.getpid(), list[int]()
    reading, writing = os.pipe()

    @tool
    def look() -> str:
        """Look."""
        if pid := os.fork():
            children.append(os.waitpid(pid, 0)[0])
            assert len(store.live()) == 1
        elif how != "returns":
            raise SystemExit if how == "exits" else ValueError
        return "RAN"

    guarded = guard.wrap(classified(look, path="read", resource="orders"))[0]
    try:
        with guard.task("t", **ALICE):
            assert guarded.invoke(tool_call("look")).content == "RAN"
    finally:
        if os.getpid() != parent:
            events = [record["event"] for record in kit.audit.records()]
            os.write(writing, f"{len(kit.broker.live)} {events}".encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    assert told.startswith("1 "), "the child has revoked"
    assert "outcome" not in told
    assert "end" not in told.replace("'", "").split()
    assert kit.outcomes() == ["done"]
    assert kit.broker.live == ()
    store.close()


class Forking(AgentMiddleware[Any, Any]):
    """Forks between the decision and the tool; the child makes the call, too."""

    answers: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.answers = []

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        self.answers.append(child(lambda: handler(request).content))
        return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        async def call() -> Any:
            return (await handler(request)).content

        def step() -> str:
            """Step by hand what awaits nothing: the child has no event loop of its own."""
            try:
                call().send(None)
            except StopIteration as stop:
                return str(stop.value)
            return "it waits"

        self.answers.append(child(step))
        return await handler(request)


@pytest.mark.promise("fork-acts-as-nobody")
async def test_a_permit_carries_no_call_in_a_child(kit: Kit, mode: Mode) -> None:
    ran = list[int]()

    @tool
    async def alook() -> str:
        """Look."""
        ran.append(os.getpid())
        return "RAN"

    @tool
    def look() -> str:
        """Look."""
        ran.append(os.getpid())
        return "RAN"

    plain = classified(alook if mode.asynchronous else look, path="read")
    model, forking = scripted(tool_call(plain.name)), Forking()
    agent: Any = create_agent(
        model, [plain], middleware=[kit.guard.middleware(), forking], checkpointer=InMemorySaver()
    )
    with kit.guard.task("t", **ALICE):
        state = await mode.invoke(agent, GO, {"configurable": {"thread_id": "1"}})
    assert tool_messages(state)[0].text == "RAN"
    assert "RAN" not in forking.answers[0]
    assert ran == [os.getpid()]


def test_a_denied_call_in_a_child_is_told_as_one_without_a_task(kit: Kit) -> None:
    look = looking(kit.guard)
    with kit.guard.task("t", **ALICE):

        def reason() -> str:
            try:
                return str(look.invoke({}))
            except Denied as denied:
                return denied.reason

        assert "no task is active in this context" in child(reason)
