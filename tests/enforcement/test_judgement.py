"""A call is judged by what is remembered of its task, and begins only where the store says that it is so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool

from agentguard import Denied
from agentguard.enforcement import judgement, recollection
from agentguard.enforcement.recollection import Recollection
from agentguard.errors import CountersChanged
from agentguard.model import (
    AccessRequest,
    Basis,
    Decision,
    Effect,
    Label,
    Mandate,
    Outcome,
    ReadEffects,
    Sensitivity,
    TaskState,
    TaskStatus,
)
from agentguard.provenance.leaves import digest
from agentguard.stores import MemoryStore
from agentguard.testing import sample_task
from agentguard.testing.scenes import call, pending_approval
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call
from tests.doubles.conditional_store import DistantStore

ANY: dict[str, Any] = {"subject": "alice", "mandate": {"tools": "*"}}
DENY = Decision(effect=Effect.DENY, policy_ids=("no",))
PERMIT = Decision(effect=Effect.PERMIT, policy_ids=("yes",))
TWO = ["begin_if_unchanged", "end_call"]


class Desk:
    """A guard on a distant store with a tool that reads and one that writes; `ran` are the calls that ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.store = DistantStore()
        self.kit = Kit(store=self.store)

        @tool
        def look(order: str) -> str:
            """Look at an order."""
            self.ran.append(f"look {order}")
            return f"{order} ships-{order}"

        @tool
        def refund(order: str) -> str:
            """Refund an order."""
            self.ran.append(f"refund {order}")
            return "done"

        facts: dict[str, Any] = {"path": "read", "untrusted": True, "sensitivity": "internal"}
        tools: list[BaseTool] = [classified(look, **facts), classified(refund, path="write")]
        self.look, self.refund = self.kit.guard.wrap(tools, on_deny="raise")

    def begin_elsewhere(self, task: str, name: str = "other", **effects: Any) -> None:
        """Have a call of another process begin and end."""
        MemoryStore.begin_call(self.store, call(name, task=task), None)
        MemoryStore.end_call(self.store, name, Outcome.DONE, effects=ReadEffects(**effects))

    def before(self, trip: str, act: Callable[[], object], times: int = 1) -> None:
        """Have others do something right before the next trips of this name."""
        left = [act] * times

        def others(name: str) -> None:
            if name == trip and left:
                left.pop()()

        self.store.others = others

    def trips(self) -> list[str]:
        trips, self.store.trips = self.store.trips, []
        return trips


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- how many round trips


async def test_each_call_of_a_task_that_began_here_costs_two_round_trips(desk: Desk, mode: Mode) -> None:
    with desk.kit.guard.task("t", **ANY):
        desk.trips()
        for number in range(3):
            await mode.run(desk.look, {"order": f"{number}"})
            await mode.run(desk.refund, {"order": f"{number}"})
            await mode.run(desk.refund, {"order": f"ships-{number}"})
        assert desk.trips() == TWO * 9
    assert desk.ran.count("refund ships-2") == 1


async def test_calls_of_a_child_and_of_its_parent_cost_two_round_trips_once_the_store_was_asked(
    desk: Desk, mode: Mode
) -> None:
    with desk.kit.guard.task("t", **ANY) as task:
        await mode.run(desk.look, {"order": "1"})
        with task.narrow().active():
            desk.trips()
            for number in range(3):
                await mode.run(desk.look, {"order": f"c{number}"})
            assert desk.trips() == TWO * 3
        for number in range(2):
            await mode.run(desk.look, {"order": f"p{number}"})
        assert desk.trips() == TWO * 2


async def test_the_calls_of_an_agent_cost_two_round_trips_each(desk: Desk, mode: Mode) -> None:
    names = ["look", "refund"] * 4
    steps = [tool_call(name, f"{n}", order=f"ships-{n // 2}") for n, name in enumerate(names)]
    guard = desk.kit.guard
    tools = [getattr(desk, name) for name in ("look", "refund")]
    agent = create_agent(scripted(*steps), tools, middleware=[guard.middleware()])
    with guard.task("t", **ANY):
        desk.trips()
        await mode.invoke(agent, GO)
        assert desk.trips() == TWO * 8
    assert len(desk.ran) == 8


async def test_a_task_of_another_process_is_read_once_and_compared_from_then_on(
    desk: Desk, mode: Mode
) -> None:
    task = desk.kit.another().task("t", **ANY).begin()
    here = desk.kit.guard.find(task.id)
    with here.active():
        desk.trips()
        await mode.run(desk.look, {"order": "1"})
        assert desk.trips() == ["task", *TWO]
        await mode.run(desk.look, {"order": "2"})
        assert desk.trips() == TWO


async def test_a_call_that_was_changed_under_costs_one_trip_more_and_the_next_one_none(
    desk: Desk, mode: Mode
) -> None:
    with desk.kit.guard.task("t", **ANY) as task:
        await mode.run(desk.refund, {"order": "1"})
        desk.begin_elsewhere(task.id)
        desk.trips()
        await mode.run(desk.refund, {"order": "2"})
        assert desk.trips() == ["begin_if_unchanged", *TWO]
        await mode.run(desk.refund, {"order": "3"})
        assert desk.trips() == TWO
        state = MemoryStore.task(desk.store, task.id)
    assert state is not None
    assert state.calls == 4


# --- nothing is decided by what is over


@pytest.mark.promise("no-stale-basis")
@pytest.mark.parametrize("status", [TaskStatus.REVOKED, TaskStatus.COMPLETED])
async def test_a_task_that_another_process_has_ended_carries_no_call(
    desk: Desk, mode: Mode, status: TaskStatus
) -> None:
    with desk.kit.guard.task("t", **ANY) as task:
        await mode.run(desk.look, {"order": "1"})
        desk.store.end_task(task.id, status)
        with pytest.raises(Denied) as denied:
            await mode.run(desk.look, {"order": "2"})
    assert (denied.value.code, desk.ran) == ("task_ended", ["look 1"])
    assert status in denied.value.reason


def untrusted(request: AccessRequest) -> bool:
    return request.task.untrusted


def sensitive(request: AccessRequest) -> bool:
    return request.task.sensitivity >= Sensitivity.CONFIDENTIAL


def called_before(request: AccessRequest) -> bool:
    return "get_order" in request.task.history


def called_often(request: AccessRequest) -> bool:
    return request.task.calls > 1


def asked_before(request: AccessRequest) -> bool:
    return request.task.questions > 0


def read_on_a_page(request: AccessRequest) -> bool:
    return any("page" in source for one in request.provenance.values() for source in one.sources)


def label_of(task: str, value: str) -> Label:
    return Label(digest(task, value), "page", trusted=False)


OTHERS: dict[str, tuple[Callable[[AccessRequest], bool], Callable[[Desk, str], object]]] = {
    "untrusted": (untrusted, lambda desk, task: desk.begin_elsewhere(task, untrusted=True)),
    "sensitive": (
        sensitive,
        lambda desk, task: desk.begin_elsewhere(task, sensitivity=Sensitivity.CONFIDENTIAL),
    ),
    "history": (called_before, lambda desk, task: desk.begin_elsewhere(task)),
    "calls": (called_often, lambda desk, task: desk.begin_elsewhere(task)),
    "questions": (
        asked_before,
        lambda desk, task: desk.store.save_approval(pending_approval(task_id=task)),
    ),
    "labels": (
        read_on_a_page,
        lambda desk, task: desk.begin_elsewhere(task, labels=(label_of(task, "2"),)),
    ),
}
"""What a rule looks at, and what others do that changes it."""


@pytest.mark.promise("no-stale-basis")
@pytest.mark.parametrize("moment", ["between two calls", "while the call is judged"])
@pytest.mark.parametrize("change", OTHERS)
async def test_what_others_have_changed_is_judged_before_the_call_begins(
    desk: Desk, mode: Mode, change: str, moment: str
) -> None:
    forbids, act = OTHERS[change]
    desk.kit.rule.answer = lambda request: DENY if forbids(request) else PERMIT
    with desk.kit.guard.task("t", **ANY) as task:
        await mode.run(desk.refund, {"order": "1"})
        if moment == "between two calls":
            act(desk, task.id)
        else:
            desk.before("begin_if_unchanged", lambda: act(desk, task.id))
        with pytest.raises(Denied) as denied:
            await mode.run(desk.refund, {"order": "2"})
        state = MemoryStore.task(desk.store, task.id)
    assert denied.value.code == "policy"
    assert desk.ran == ["refund 1"]
    assert state is not None
    assert state.calls == 1 + (change != "questions"), "the call that was denied used up nothing"
    assert desk.store.live() == ()


@pytest.mark.promise("no-stale-basis")
async def test_what_the_oldest_task_of_the_family_has_read_is_judged_before_a_call_of_a_child_begins(
    desk: Desk, mode: Mode
) -> None:
    desk.kit.rule.answer = lambda request: DENY if untrusted(request) else PERMIT
    with desk.kit.guard.task("t", **ANY) as root, root.narrow().active():
        await mode.run(desk.refund, {"order": "1"})
        desk.begin_elsewhere(root.id, untrusted=True)
        with pytest.raises(Denied):
            await mode.run(desk.refund, {"order": "2"})
    assert desk.ran == ["refund 1"]


@pytest.mark.promise("no-stale-basis")
async def test_no_denial_comes_of_what_is_remembered_alone(desk: Desk, mode: Mode) -> None:
    desk.kit.rule.answer = lambda request: PERMIT if called_before(request) else DENY
    with desk.kit.guard.task("t", **ANY) as task:
        with pytest.raises(Denied):
            await mode.run(desk.refund, {"order": "1"})
        assert len(desk.kit.rule.asked) == 1, "nothing had changed, so the rules were asked once"
        desk.begin_elsewhere(task.id)
        await mode.run(desk.refund, {"order": "2"})
    assert desk.ran == ["refund 2"]
    assert desk.kit.decisions() == ["policy", "permit"]


@pytest.mark.promise("no-stale-basis")
async def test_a_call_that_a_person_has_rejected_elsewhere_does_not_begin(desk: Desk, mode: Mode) -> None:
    requests = desk.kit.rule.asked
    with desk.kit.guard.task("t", **ANY) as task:
        await mode.run(desk.refund, {"order": "1"})
        question = pending_approval(
            task_id=task.id, tool="refund", shown_digest=requests[0].arguments.shown_digest
        )
        MemoryStore.save_approval(desk.store, question)
        MemoryStore.answer_approval(desk.store, question.answered(approved=False, approver="user:eve"))
        with pytest.raises(Denied) as denied:
            await mode.run(desk.refund, {"order": "1"})
    assert (denied.value.code, desk.ran) == ("approval_refused", ["refund 1"])


@pytest.mark.promise("no-stale-basis")
async def test_words_that_another_process_has_heard_and_a_mandate_that_it_renewed_are_judged(
    desk: Desk, mode: Mode
) -> None:
    with desk.kit.guard.task("t", **ANY) as root, root.narrow().active():
        await mode.run(desk.refund, {"order": "1"})
        desk.store.revise_task(root.id, lambda state: replace(state, words="refund the order 2"))
        await mode.run(desk.refund, {"order": "2"})
        assert desk.kit.rule.asked[-1].provenance["order"].user
        only_look = Mandate(tools=frozenset({"look"}))
        desk.store.revise_task(root.id, lambda state: replace(state, mandate=only_look))
        with pytest.raises(Denied) as denied:
            await mode.run(desk.refund, {"order": "3"})
    assert (denied.value.code, desk.ran) == ("mandate", ["refund 1", "refund 2"])


async def test_after_words_and_a_mandate_of_this_process_a_call_costs_two_round_trips(
    desk: Desk, mode: Mode
) -> None:
    with desk.kit.guard.task("t", **ANY) as task:
        task.heard("refund the order 1")
        task.renew({"tools": ["refund"]})
        desk.trips()
        await mode.run(desk.refund, {"order": "1"})
        assert desk.trips() == TWO
    assert desk.kit.rule.asked[-1].provenance["order"].user


# --- others who never stop


async def test_a_call_beside_which_others_never_stop_is_judged_by_a_bounded_number_of_answers(
    desk: Desk, mode: Mode
) -> None:
    numbers = iter(range(1000))
    with desk.kit.guard.task("t", **ANY) as task:

        def call_elsewhere() -> None:
            desk.begin_elsewhere(task.id, f"other-{next(numbers)}")

        desk.before("begin_if_unchanged", call_elsewhere, times=100)
        desk.trips()
        await mode.run(desk.refund, {"order": "1"})
        assert desk.trips() == ["begin_if_unchanged"] * judgement.COMPARISONS + ["begin_call", "end_call"]
    judged = [request.task.calls for request in desk.kit.rule.asked]
    assert judged == list(range(judgement.COMPARISONS + 1)), "each time by the newest answer"
    assert desk.ran == ["refund 1"]


@pytest.mark.promise("no-stale-basis")
async def test_a_call_that_is_compared_no_more_is_not_judged_by_what_is_remembered(
    desk: Desk, mode: Mode
) -> None:
    trips = list[str]()

    def others(trip: str) -> None:
        trips.append(trip)
        if trips.count("begin_if_unchanged") == 2 and trip == "begin_if_unchanged":
            raise CountersChanged("a parallel call has used up what values of pages may do")

    def rule(request: AccessRequest) -> Decision:
        used_up = trips.count("begin_if_unchanged") >= 2
        return DENY if used_up and read_on_a_page(request) else PERMIT

    with desk.kit.guard.task("t", **ANY) as task:
        await mode.run(desk.refund, {"order": "1"})
        desk.begin_elsewhere(task.id, labels=(label_of(task.id, "2"),))
        desk.kit.rule.answer, desk.store.others = rule, others
        with pytest.raises(Denied):
            await mode.run(desk.refund, {"order": "2"})
    assert desk.ran == ["refund 1"]


async def test_parallel_calls_of_one_task_all_run_and_count_once(desk: Desk) -> None:
    async with desk.kit.guard.task("t", **ANY) as task:
        await asyncio.gather(*(desk.look.ainvoke({"order": f"{n}"}) for n in range(30)))
        state = MemoryStore.task(desk.store, task.id)
        assert state is not None
        assert state.calls == len(desk.ran) == 30
        desk.trips()
        await desk.look.ainvoke({"order": "last"})
        assert desk.trips() in (TWO, ["begin_if_unchanged", *TWO])


class ReadStore(MemoryStore):
    """One that does not compare. `reads` are the tasks that were read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def task(self, task_id: str) -> TaskState | None:
        self.reads.append(task_id)
        return super().task(task_id)


async def test_a_store_that_does_not_compare_is_read_before_each_call(mode: Mode) -> None:
    store = ReadStore()
    kit = Kit(store=store)

    @tool
    def look(order: str) -> str:
        """Look at an order."""
        return order

    guarded = kit.wrap(look)
    with kit.guard.task("t", **ANY) as task:
        store.reads.clear()
        for number in range(3):
            await mode.run(guarded, {"order": f"{number}"})
        assert store.reads == [task.id] * 3


@pytest.mark.promise("no-stale-basis")
def test_a_call_that_was_resumed_hides_no_tool_that_another_process_has_used_since() -> None:
    store, memory = MemoryStore(), Recollection()
    store.create_task(sample_task("t", deadline=1e12))
    resumed = call("1", key="k", task="t")
    store.begin_call(resumed, None)
    store.end_call("1", Outcome.SUSPENDED)
    store.begin_call(resumed := replace(resumed, id="2"), None)
    before = store.task("t")
    assert before is not None
    memory.see(before)
    memory.begin(Basis(tasks=(before,)), resumed)
    store.begin_call(call("3", task="t", tool="read_secret"), None)
    after = store.task("t")
    assert after is not None
    remembered = memory._tasks["t"]
    assert remembered.calls == after.calls, "the resumed call counted nothing there"
    assert Basis(tasks=(remembered,)).counts() != Basis(tasks=(after,)).counts()


# --- what is remembered is bounded


def test_what_is_remembered_is_bounded_and_forgotten_with_its_task(desk: Desk) -> None:
    with desk.kit.guard.task("t", **ANY) as task:
        desk.look.invoke({"order": "1"})
        remembered: Any = desk.kit.guard.enforcement.recollection
        assert task.id in remembered._tasks
        assert remembered._count == len(remembered._labels[task.id]) > 0
    assert (remembered._tasks, remembered._labels, remembered._count) == ({}, {}, 0)


def test_no_more_tasks_and_labels_are_remembered_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recollection, "TASKS", 3)
    monkeypatch.setattr(recollection, "LABELS", 5)
    memory = Recollection()
    for number in range(20):
        state = sample_task(f"{number}")
        memory.see(state)
        memory.begin(Basis(tasks=(state,)), call("c", task=state.id))
        memory.read(state, ReadEffects(labels=(Label(f"{number}", "a", True), Label("b", "a", True))))
        assert len(memory._tasks) <= 3
        assert sum(map(len, memory._labels.values())) <= 5
        assert [label.digest for label in memory.labels(state.id, {"b"})] == ["b"]
