"""What a tool begins is a part of the task of its call, also where only the run's config names that task."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool

from agentguard import bind
from agentguard.errors import TaskNotActive
from agentguard.model import TaskState
from agentguard.tasks.task import Task
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call

Body = Callable[[], object]


def function_tool(name: str, body: Body, **facts: Any) -> BaseTool:
    return classified(StructuredTool.from_function(lambda: str(body()), name=name, description="d"), **facts)


def wrapped(kit: Kit, tool: BaseTool) -> tuple[Any, Any]:
    return kit.guard.wrap([tool])[0], tool_call(tool.name)


def by_middleware(kit: Kit, tool: BaseTool) -> tuple[Any, Any]:
    model = scripted(tool_call(tool.name))
    return create_agent(model, [tool], middleware=[kit.guard.middleware()]), GO


WAYS = pytest.mark.parametrize("way", [wrapped, by_middleware])


def whole(kit: Kit, **mandate: Any) -> Task:
    return kit.guard.task("Look", subject="alice", mandate={"tools": ["ask"], **mandate})


async def in_a_named_run(mode: Mode, way: Any, kit: Kit, task: Task, body: Body, **facts: Any) -> Any:
    """Run *body* in a tool of a run that only its config names."""
    target, question = way(kit, function_tool("ask", body, **facts))
    return await mode.invoke(target, question, task.config)


@pytest.mark.promise("begun-in-a-call")
@WAYS
@pytest.mark.parametrize("facts", [{}, {"path": "read"}], ids=["a credential", "no credential"])
async def test_what_a_tool_begins_is_a_child_of_the_task_that_the_config_names(
    facts: dict[str, Any], way: Any, mode: Mode, kit: Kit
) -> None:
    task, begun = whole(kit).begin(), list[TaskState]()

    def body() -> None:
        wide = kit.guard.task("Pay all", subject="alice", mandate={"tools": "*"}, ttl=1e6)
        begun.append(wide.begin().state())

    await in_a_named_run(mode, way, kit, task, body, **facts)
    (child,) = begun
    assert child.lineage == (task.id,)
    assert child.purpose == "Look"
    assert child.deadline == task.state().deadline
    assert child.mandate.tools == frozenset({"ask"})


@pytest.mark.promise("begun-in-a-call")
@WAYS
async def test_a_tool_of_such_a_run_begins_nothing_for_somebody_else(way: Any, mode: Mode, kit: Kit) -> None:
    task, errors = whole(kit).begin(), list[Exception]()

    def body() -> None:
        try:
            kit.guard.task("Pay", subject="mallory", mandate={"tools": "*"}).begin()
        except ValueError as error:
            errors.append(error)

    await in_a_named_run(mode, way, kit, task, body)
    assert len(errors) == 1
    assert kit.store.active("mallory") == ()


@pytest.mark.promise("begun-in-a-call")
@pytest.mark.parametrize("elsewhere", [lambda run: run(), lambda run: copy_context().run(run)])
async def test_the_mandate_budget_and_reads_of_the_call_bind_what_its_tool_begins(
    elsewhere: Any, mode: Mode, kit: Kit
) -> None:
    pay = kit.guard.wrap([function_tool("pay", lambda: "paid")])[0]
    page = kit.guard.wrap([function_tool("page", lambda: "read", path="read", untrusted=True)])[0]
    task = kit.guard.task("Look", subject="alice", mandate={"tools": ["ask", "page"]}, calls=2)
    results = list[str]()

    def body() -> None:
        with kit.guard.task("Pay", subject="alice", mandate={"tools": "*"}) as child:
            config: Any = child.config
            results.append(pay.invoke(tool_call("pay"), config).text)
            results.append(page.invoke(tool_call("page"), config).text)
            results.append(page.invoke(tool_call("page", "c2"), config).text)

    await in_a_named_run(mode, wrapped, kit, task.begin(), lambda: elsewhere(body))
    assert kit.decisions() == ["permit", "mandate", "permit", "budget"]
    assert task.state().untrusted
    assert "paid" not in results


@pytest.mark.promise("begun-in-a-call")
async def test_a_call_that_is_over_and_a_thread_of_the_tool_begin_nothing_of_their_own(
    mode: Mode, kit: Kit
) -> None:
    task, kept = whole(kit).begin(), list[Any]()

    def begin() -> TaskState:
        return kit.guard.task("Late", subject="alice", mandate={"tools": "*"}).begin().state()

    def body() -> None:
        kept.extend([copy_context(), bind(begin)])

    await in_a_named_run(mode, wrapped, kit, task, body)
    context, bound = kept
    assert context.run(begin).lineage == (task.id,)
    assert Context().run(bound).lineage == (task.id,)
    task.complete()
    with pytest.raises(TaskNotActive):
        context.run(begin)
    with pytest.raises(TaskNotActive):
        Context().run(bound)


@pytest.mark.promise("begun-in-a-call")
async def test_inside_a_part_of_the_calls_task_a_task_begins_in_that_part(mode: Mode, kit: Kit) -> None:
    task, other = whole(kit).begin(), kit.guard.task("x", subject="alice", mandate={"tools": "*"}).begin()
    lineages = list[tuple[str, ...]]()

    def begin() -> None:
        inner = kit.guard.task("In it", subject="alice", mandate={"tools": "*"})
        lineages.append(inner.begin().state().lineage)

    def body() -> None:
        with kit.guard.task("Part", subject="alice", mandate={"tools": "*"}) as part:
            begin()
            lineages.append((part.id, task.id))
        with other.active():  # no part of the call's task
            begin()

    await in_a_named_run(mode, wrapped, kit, task, body)
    assert lineages[0] == lineages[1]
    assert lineages[2] == (task.id,)


@pytest.mark.promise("begun-in-a-call", "streamed-answers")
def test_a_sub_agent_with_a_task_of_its_own_works_in_a_streamed_answer_of_a_named_run(kit: Kit) -> None:
    look = function_tool("look", lambda: "seen")
    inner: Any = create_agent(scripted(tool_call("look")), [look], middleware=[kit.guard.middleware()])

    def ask() -> str:
        with kit.guard.task("Closer", subject="alice", mandate={"tools": ["look"]}):
            return str(inner.invoke(GO)["messages"][-2].content)

    outer: Any = create_agent(
        scripted(tool_call("ask")), [function_tool("ask", ask)], middleware=[kit.guard.middleware()]
    )

    def answer() -> Any:
        with kit.guard.task("Look", subject="alice", mandate={"tools": "*"}) as task:
            yield "begin"
            yield from outer.stream(GO, task.config, stream_mode="updates")

    request, stream = Context(), answer()
    steps = list(iter(lambda: request.copy().run(next, stream, None), None))
    assert "seen" in str(steps)
    assert kit.decisions() == ["permit", "permit"]
