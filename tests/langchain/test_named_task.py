"""What a run's config holds under our key is a handle, or each call of the run is denied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool

from agentguard import Guard
from agentguard.tasks.handle import CONFIG_KEY
from agentguard.tasks.task import Task
from tests.conftest import GO, Kit, Mode, classified, scripted, tool_call
from tests.doubles.mcp_server import serving
from tests.langchain.test_mcp_permit import Shop

FORMS: list[Any] = [None, "", 0, False, [], {}, "somebody"]


def client(form: Any) -> dict[str, Any]:
    """Make the config that a client of a server sends."""
    return {"configurable": {CONFIG_KEY: form, "thread_id": "t"}}


def begin(guard: Guard, user: str) -> Task:
    return guard.task("Look", subject=user, mandate={"tools": "*"}).begin()


class Desk:
    """A tool that remembers its calls, and a context in which alice's task is active."""

    def __init__(self, kit: Kit) -> None:
        self.kit, self.ran = kit, list[str]()
        self.alice, self.bob = begin(kit.guard, "alice"), begin(kit.guard, "bob")
        look = StructuredTool.from_function(self.look, name="look", description="d")
        self.plain = classified(look)
        (self.tool,) = kit.guard.wrap([look])

    def look(self, item: str) -> str:
        self.ran.append(item)
        return "seen"

    @contextmanager
    def nothing_runs(self) -> Iterator[None]:
        with self.alice.active():
            yield
        assert self.ran == []
        assert self.kit.decisions() == ["no_task"]


@pytest.fixture
def desk(kit: Kit) -> Desk:
    return Desk(kit)


@pytest.mark.promise("null-names-nobody")
@pytest.mark.parametrize("form", FORMS)
async def test_what_a_client_writes_over_the_bound_handle_of_a_tool_is_denied(
    form: Any, mode: Mode, desk: Desk
) -> None:
    with desk.nothing_runs():
        bound = desk.tool.with_config(desk.bob.config)  # type: ignore[arg-type]  # a config is a dict
        message = await mode.invoke(bound, tool_call("look", item="x"), client(form))
    assert message.status == "error"


@pytest.mark.promise("null-names-nobody")
@pytest.mark.parametrize("form", FORMS)
async def test_what_a_client_writes_over_the_bound_handle_of_an_agent_is_denied(
    form: Any, mode: Mode, desk: Desk
) -> None:
    with desk.nothing_runs():
        model = scripted(tool_call("look", item="x"))
        agent: Any = create_agent(model, [desk.plain], middleware=[desk.kit.guard.middleware()])
        await mode.invoke(agent.with_config(desk.bob.config), GO, client(form))


@pytest.mark.promise("null-names-nobody")
@pytest.mark.parametrize("form", FORMS)
async def test_an_executors_run_with_such_a_config_is_denied(form: Any, mode: Mode, desk: Desk) -> None:
    with desk.nothing_runs():
        await mode.run(desk.tool, {"item": "x"}, config=client(form), tool_call_id="c1")


@pytest.mark.promise("null-names-nobody")
@pytest.mark.parametrize("outer_is_the_clients", [True, False])
async def test_neither_of_two_configs_makes_up_for_what_the_other_holds(
    outer_is_the_clients: bool, mode: Mode, desk: Desk
) -> None:
    configs: list[Any] = [client(None), desk.bob.config]
    outer, inner = configs if outer_is_the_clients else reversed(configs)

    def within(_input: Any) -> Any:
        return desk.tool.invoke(tool_call("look", item="x"), inner)

    async def awithin(_input: Any) -> Any:
        return await desk.tool.ainvoke(tool_call("look", item="x"), inner)

    with desk.nothing_runs():
        await mode.invoke(RunnableLambda(within, awithin), "go", outer)


@pytest.mark.promise("null-names-nobody")
async def test_no_such_key_and_no_config_at_all_name_nobody_and_the_active_task_counts(
    mode: Mode, desk: Desk
) -> None:
    with desk.alice.active():
        for config in (None, {}, {"configurable": None}, {"configurable": {"thread_id": "t"}}):
            assert (await mode.invoke(desk.tool, tool_call("look", item="x"), config)).text == "seen"
    assert len(desk.ran) == 4


@pytest.mark.promise("null-names-nobody")
@pytest.mark.parametrize("form", [None, "", "somebody"])
async def test_the_interceptor_alone_denies_it_too(form: Any, kit: Kit) -> None:
    shop = Shop(kit)
    alice, bob = begin(shop.guard, "alice"), begin(shop.guard, "bob")
    with serving(shop.tools) as server:
        tool: BaseTool = await shop.tool(server)
        agent: Any = create_agent(scripted(tool_call("pay", to="bob")), [tool])
        async with alice.aactive():
            await agent.with_config(bob.config).ainvoke(GO, client(form))
    assert (shop.ran, kit.decisions()) == ([], ["no_task"])
