"""A template's limit for any tool, derived before a middleware has met the tools and knows what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool

from agentguard import Guard
from agentguard.catalog import Catalog
from agentguard.intent import Intent, Template
from agentguard.model import Arguments, Mandate, ToolPath, ToolSpec
from agentguard.testing import ScriptedChatModel

SETTINGS = r"""
policy.cedar = ["policy.cedar"]
store = {{ kind = "memory" }}
[tools]
get_order = {{ path = "read" }}
get_user = {{ path = "read" }}
cancel = {{ path = "read" }}
[tasks.service]
when = ['\border\b']
tools = ["get_order", "get_user", "cancel"]
args = {{ {limits} }}
params = {{ order = {{ pattern = 'order (\d+)' }} }}
"""
WORDS = "What about order 4711?"


@tool
def get_order(order_id: str) -> str:
    """Read an order."""
    return f"order {order_id}"


@tool
def get_user(user_id: str) -> str:
    """Read a user."""
    return f"user {user_id}"


@tool
def cancel(order_id: str | None = None, note: str = "") -> str:
    """Cancel an order, or all of them."""
    return f"cancelled {order_id or 'all'}"


TOOLS: list[BaseTool] = [get_order, get_user, cancel]
OWN, OTHER = ("get_order", {"order_id": "4711"}), ("get_order", {"order_id": "4712"})
USER, ALL = ("get_user", {"user_id": "ann"}), ("cancel", {"note": "x"})


def guard_of(folder: Path, limits: str) -> Guard:
    (folder / "agentguard.toml").write_text(SETTINGS.format(limits=limits))
    (folder / "policy.cedar").write_text(
        '@id("reads") permit (principal, action in Action::"read", resource);'
    )
    return Guard.from_file(folder / "agentguard.toml")


async def answers(guard: Guard, mode: str, calls: list[tuple[str, dict[str, Any]]]) -> list[str]:
    script: Any = [*([call] for call in calls), "done"]
    agent: Any = create_agent(ScriptedChatModel(script=script), TOOLS, middleware=[guard.middleware()])
    question = {"messages": [("user", WORDS)]}
    with guard.task("Ask", subject="user:ann", mandate=guard.derive(WORDS), words=WORDS):
        state = agent.invoke(question) if mode == "sync" else await agent.ainvoke(question)
    return [m.text for m in state["messages"] if m.type == "tool"]


@pytest.mark.promise("limits-of-others", "template-limits")
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("first", [OWN, OTHER, USER, ALL], ids=["own", "other", "user", "all"])
async def test_a_limit_holds_for_the_tools_that_take_its_argument_whichever_is_called_first(
    first: Any, mode: str, tmp_path: Path
) -> None:
    guard = guard_of(tmp_path, 'order_id = ["{order}"]')
    for _ in range(2):  # in the second run the arguments of all tools are known from the start
        texts = await answers(guard, mode, [first, OWN, USER, OTHER, ALL])
        permitted = {"get_order 4711": "order 4711", "get_user ann": "user ann"}
        expected = permitted.get(" ".join((first[0], *first[1].values())), "Denied: ")
        assert texts[0].startswith(expected), texts
        rest = texts[1:]
        assert rest[:2] == ["order 4711", "user ann"]
        assert all("outside the current task" in text for text in rest[2:]), rest
    guard.close()


@pytest.mark.promise("template-limits")
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("limits", ['ordr_id = ["{order}"]', 'order_idx = ["{order}"]'])
async def test_a_mistyped_limit_refuses_every_call_and_does_not_fall_away(
    limits: str, mode: str, tmp_path: Path
) -> None:
    guard = guard_of(tmp_path, limits)
    for _ in range(2):
        texts = await answers(guard, mode, [OWN, USER, ALL])
        assert all("Denied" in text for text in texts), texts
    guard.close()


@pytest.mark.promise("template-limits")
async def test_a_limit_for_one_tool_is_no_limit_of_others_and_refuses_where_that_tool_lacks_it(
    tmp_path: Path,
) -> None:
    guard = guard_of(tmp_path, '"get_user.order_id" = ["{order}"]')
    assert await answers(guard, "sync", [OTHER]) == ["order 4712"]
    assert "Denied" in (await answers(guard, "sync", [USER]))[0]
    guard.close()


def spec(name: str, *arguments: str) -> ToolSpec:
    properties = {argument: {"type": "string"} for argument in arguments}
    schema = {"type": "object", "properties": properties} if arguments else None
    return ToolSpec(name=name, path=ToolPath.READ, schema=schema)


@pytest.mark.promise("template-limits")
def test_of_two_kinds_the_limits_of_one_tool_are_united_whether_its_arguments_are_known_or_not() -> None:
    bare = Template(name="a", when=("x",), tools=("read",), args={"id": ("1",)})
    own = Template(name="b", when=("x",), tools=("read",), args={"read.id": ("2",)})
    mandate = Intent([bare, own], Catalog()).derive("x").mandate
    known = spec("read", "id")
    for value, is_allowed in (("1", True), ("2", True), ("3", False)):
        objection = mandate.objection(known, Arguments.of({"id": value}), lambda _: True)
        assert (objection is None) == is_allowed
    # one of the limits is for this very tool
    assert mandate.objection(spec("read", "other"), Arguments.of({}), lambda _: True) is not None


@pytest.mark.promise("template-limits")
def test_a_tool_whose_arguments_are_still_unknown_is_refused_without_the_argument() -> None:
    template = Template(name="a", when=("x",), tools=("read", "look"), args={"id": ("1",)})
    mandate = Intent([template], Catalog()).derive("x").mandate
    unknown = spec("look")
    assert mandate.objection(unknown, Arguments.of({}), lambda _: True) is not None
    assert mandate.objection(unknown, Arguments.of({"id": "1"}), lambda _: True) is None
    assert mandate.objection(unknown, Arguments.of({"id": "2"}), lambda _: True) is not None
    assert Mandate.of(mandate.literal()) == mandate
