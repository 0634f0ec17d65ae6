"""What one task of a family has read and done, rules see in each; and none acts for anybody else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool

from agentguard import AccessRequest, Denied, Guard
from agentguard.catalog import Catalog
from agentguard.errors import TaskNotActive
from agentguard.model import Sensitivity, ToolPath, ToolSpec
from agentguard.policies import CedarPolicy
from agentguard.ports import Store
from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore
from agentguard.tasks.task import Task
from tests.conftest import GO, Kit, Mode, scripted, tool_call, tool_messages

RULES = """
@id("all") permit (principal, action, resource);
@id("no-untrusted-writes") forbid (principal, action in Action::"write", resource)
when { context.provenance.untrusted };
@id("no-leaks") forbid (principal, action, resource)
when { context.provenance.sensitivity > context.clearance };
@id("not-after-the-files") forbid (principal, action in Action::"write", resource)
when { context.history.contains("files") };
@id("once") forbid (principal, action in Action::"write", resource) when { context.task.writes > 0 };
"""
ANY: dict[str, Any] = {"subject": "alice", "mandate": {"tools": "*"}}
SPECS = [
    ToolSpec(name="page", path=ToolPath.READ, untrusted=True),
    ToolSpec(name="files", path=ToolPath.READ),
    ToolSpec(name="salaries", path=ToolPath.READ, sensitivity=Sensitivity.RESTRICTED),
    ToolSpec(name="pay", path=ToolPath.WRITE, clearance=Sensitivity.INTERNAL),
]
BEFORE = ["page", "files", "salaries", "pay"]  # each keeps `pay` from running after it


def does(name: str) -> BaseTool:
    return StructuredTool.from_function(lambda: f"did {name}", name=name, description="d")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "state.db")


@pytest.fixture
def guard(store: Store) -> Guard:
    return Kit().another(catalog=Catalog(SPECS), policy=CedarPolicy.from_text(RULES), store=store, brokers={})


@pytest.fixture
def tools(guard: Guard) -> dict[str, BaseTool]:
    return {spec.name: guard.wrap(does(spec.name))[0] for spec in SPECS}


async def read_and_denied(
    mode: Mode, tools: dict[str, BaseTool], before: str, reader: Any, payer: Any
) -> None:
    """Let one task call a tool, after which another may not pay."""
    with reader:
        await mode.invoke(tools[before], {})
    with payer, pytest.raises(Denied):
        await mode.invoke(tools["pay"], {})


Child = Callable[[Guard, Task], Any]
CHILDREN: dict[str, Child] = {
    "the task itself": lambda _guard, _task: nullcontext(),
    "narrowed": lambda _guard, task: task.narrow("Go on"),
    "delegated": lambda _guard, task: task.delegate("agent://helper"),
    "begun in it": lambda guard, _task: guard.task("Go on", **ANY),
    "a grandchild": lambda _guard, task: task.narrow().begin().delegate("agent://helper"),
    "found": lambda guard, task: guard.find(task.id).narrow(),
}


@pytest.mark.exhaustive
@pytest.mark.promise("family-reads-seen")
@pytest.mark.parametrize("child", CHILDREN)
@pytest.mark.parametrize("before", BEFORE)
async def test_what_a_task_has_read_and_done_rules_see_in_each_of_its_children(
    child: str, before: str, mode: Mode, guard: Guard, tools: dict[str, BaseTool]
) -> None:
    with guard.task("Go", **ANY) as task:
        await mode.invoke(tools[before], {})
        with CHILDREN[child](guard, task), pytest.raises(Denied):
            await mode.invoke(tools["pay"], {})


@pytest.mark.exhaustive
@pytest.mark.promise("family-reads-seen")
@pytest.mark.parametrize("before", BEFORE)
async def test_what_a_task_reads_later_rules_see_in_a_child_that_had_begun(
    before: str, mode: Mode, guard: Guard, tools: dict[str, BaseTool]
) -> None:
    with guard.task("Go", **ANY) as task:
        child = task.delegate("agent://helper").begin()
        await read_and_denied(mode, tools, before, nullcontext(), child.active())


@pytest.mark.exhaustive
@pytest.mark.promise("family-reads-seen")
@pytest.mark.parametrize("before", BEFORE)
async def test_what_a_sibling_has_read_and_done_rules_see_too(
    before: str, mode: Mode, guard: Guard, tools: dict[str, BaseTool]
) -> None:
    with guard.task("Go", **ANY) as task:
        one, two = task.narrow().begin(), task.narrow().begin()
        await read_and_denied(mode, tools, before, one.active(), two.active())


async def test_another_task_of_the_same_user_has_read_nothing(
    mode: Mode, guard: Guard, tools: dict[str, BaseTool]
) -> None:
    with guard.task("Go", **ANY):
        await mode.invoke(tools["page"], {})
    with guard.task("Go", **ANY):
        assert await mode.invoke(tools["pay"], {}) == "did pay"


@pytest.mark.promise("family-reads-seen")
async def test_a_helper_that_is_asked_after_a_page_was_read_does_not_pay(
    mode: Mode, guard: Guard, tools: dict[str, BaseTool]
) -> None:
    helper = create_agent(scripted(tool_call("pay")), [tools["pay"]])
    leading: list[Task] = []

    def ask() -> str:
        with leading[0].delegate("agent://helper"):
            return str(tool_messages(helper.invoke(GO))[0].content)

    guard.catalog.add(ToolSpec(name="ask", path=ToolPath.READ))
    asked = guard.wrap(StructuredTool.from_function(ask, name="ask", description="d"))[0]
    lead = create_agent(scripted(tool_call("page"), tool_call("ask", "c2")), [tools["page"], asked])
    with guard.task("Go", **ANY) as task:
        leading.append(task)
        said = tool_messages(await mode.invoke(lead, GO))
    assert "Denied" in str(said[1].content)


@pytest.mark.promise("child-keeps-subject")
@pytest.mark.parametrize(
    "child", [name for name in CHILDREN if name not in ("the task itself", "a grandchild")]
)
def test_nothing_begins_in_a_task_that_is_over(child: str, guard: Guard, store: Store) -> None:
    task = guard.task("Go", **ANY).begin()
    with task.active():
        made = CHILDREN[child](guard, task)
        task.complete()
        with pytest.raises(TaskNotActive):
            made.begin()
    assert store.active("alice") == ()


@pytest.mark.promise("child-keeps-subject")
def test_a_task_for_another_subject_does_not_begin_inside(guard: Guard, store: Store) -> None:
    with guard.task("Go", **ANY):
        inner = guard.task("Go", subject="admin", mandate={"tools": "*"})
        with pytest.raises(ValueError, match="alice"):
            inner.begin()
    assert store.active("admin") == ()


@pytest.mark.promise("child-keeps-subject")
async def test_a_task_that_begins_in_a_delegated_one_acts_as_its_actor(mode: Mode, kit: Kit) -> None:
    tool = kit.wrap(does("files"))
    with kit.guard.task("Go", **ANY) as task:
        await mode.invoke(tool, {})
        with task.delegate("agent://helper"), kit.guard.task("Go", **ANY):
            await mode.invoke(tool, {})
    asked = kit.rule.asked[-1]
    # this process is the lead, on whose behalf the helper acts, and not the helper alone
    assert "agent://helper" in (asked.identity.actor, *asked.identity.chain)
    assert (asked.identity.subject, asked.task.calls) == ("alice", 1)


PURPOSEFUL: dict[str, Child] = {
    "begun in it": lambda guard, _task: guard.task("Refund all", **ANY),
    "narrowed": lambda _guard, task: task.narrow("Refund all"),
    "delegated": lambda _guard, task: task.delegate("agent://helper", "Refund all"),
}


@pytest.mark.promise("child-keeps-subject")
@pytest.mark.parametrize("child", PURPOSEFUL)
async def test_what_a_tool_begins_keeps_the_purpose_that_the_tool_runs_in(
    child: str, mode: Mode, kit: Kit
) -> None:
    running: list[Task] = []

    def ask() -> str:
        with PURPOSEFUL[child](kit.guard, running[0]) as inner:
            return str(inner.state().purpose)

    tool = kit.wrap(StructuredTool.from_function(ask, name="ask", description="d"))
    with kit.guard.task("Look", **ANY) as task:
        running.append(task)
        assert await mode.invoke(tool, {}) == "Look"
        with PURPOSEFUL[child](kit.guard, task) as inner:  # the application's own word
            assert inner.state().purpose == "Refund all"


@pytest.mark.promise("family-reads-seen")
@pytest.mark.parametrize("meanwhile", ["read", "over"])
def test_what_happens_while_a_person_thinks_counts(meanwhile: str) -> None:
    asked, answered = threading.Event(), threading.Event()

    def approver(_request: AccessRequest) -> bool:
        asked.set()
        return answered.wait(10)

    rules = RULES.replace(
        "permit (principal, action, resource)", 'permit (principal, action in Action::"read", resource)'
    )
    rules += (
        '@id("asks") permit (principal, action in Action::"write", resource) when { context has approval };'
    )
    guard = Kit().another(catalog=Catalog(SPECS), policy=CedarPolicy.from_text(rules), approver=approver)
    page, pay = guard.wrap([does("page"), does("pay")])
    said: list[str] = []
    with guard.task("Go", **ANY) as task:
        context = copy_context()
        thinking = threading.Thread(
            target=context.run, args=(lambda: said.append(pay.invoke(tool_call("pay")).status),)
        )
        thinking.start()
        assert asked.wait(10)
        if meanwhile == "read":
            page.invoke({})
        else:
            task.complete()
        answered.set()
        thinking.join(10)
    assert said == ["error"]
