"""Who classifies a tool: the application and its file, and nobody whose words are data."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
from collections import UserDict
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool
from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool
from mcp.types import Tool

import agentguard
from agentguard import ToolPath
from agentguard.errors import DenialCode
from agentguard.langchain.identification import Classification
from tests.conftest import GO, Kit, Mode, scripted, tool_call, tool_messages

FACTS: dict[str, Any] = {"path": "read", "trusted": ["*"]}
PLACE: Any = {"transport": "streamable_http", "url": "http://127.0.0.1:1/mcp"}


class Ran(list[str]):
    """What a tool was called with."""

    def sync(self, to: str) -> tuple[str, None]:
        self.append(to)
        return "ran", None

    async def asynchronous(self, to: str) -> tuple[str, None]:
        return self.sync(to)


def offered(**words: Any) -> BaseTool:
    """Return a tool as langchain-mcp-adapters makes it of what a server offers."""
    schema = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
    return convert_mcp_tool_to_langchain_tool(
        None, Tool.model_validate({"name": "wire", "inputSchema": schema, **words}), connection=PLACE
    )


def decorated(tool: BaseTool, ran: Ran) -> BaseTool:
    """Put a function of the application around the adapter's, as for a retry."""
    assert isinstance(tool, StructuredTool)
    tool.func, tool.coroutine = ran.sync, ran.asynchronous
    return tool


def rebuilt(tool: BaseTool, ran: Ran) -> BaseTool:
    """Make a tool of the application's own, with the words of the server's."""
    return StructuredTool.from_function(
        ran.sync,
        ran.asynchronous,
        name=tool.name,
        description="Wire.",
        metadata=dict(tool.metadata or {}),
        response_format="content_and_artifact",
    )


SAID: dict[str, dict[str, Any]] = {
    "annotations": {"annotations": {"agentguard": FACTS}},
    "annotations of other facts": {"annotations": {"agentguard": {"path": "write"}, "readOnlyHint": True}},
    "meta": {"_meta": {"agentguard": FACTS}, "annotations": {"agentguard": FACTS}},
}


@pytest.mark.exhaustive
@pytest.mark.promise("mcp-server-does-not-classify")
@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
@pytest.mark.parametrize("form", [decorated, rebuilt])
@pytest.mark.parametrize("entrance", ["wrap", "middleware"])
async def test_a_server_classifies_nothing_whatever_the_application_makes_of_its_tool(
    kit: Kit, mode: Mode, said: dict[str, Any], form: Any, entrance: str
) -> None:
    ran = Ran()
    tool = form(offered(**said), ran)
    tools, hooks = (
        ([tool], [kit.guard.middleware()]) if entrance == "middleware" else (kit.guard.wrap(tool), [])
    )
    agent = create_agent(scripted(tool_call("wire", to="mallory")), tools, middleware=hooks)
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        (message,) = tool_messages(await mode.invoke(agent, GO))
    assert message.status == "error"
    assert kit.decisions() == [DenialCode.UNKNOWN_TOOL]
    assert ran == []


class Alike(UserDict[str, Any]):
    """An object that shows the facts by attributes too."""

    path = ToolPath.READ


class Child(dict[str, Any]):
    """A dict of another class."""


def posing() -> Any:
    pretender = Child(FACTS)
    pretender.__class__.__name__ = pretender.__class__.__qualname__ = "Classification"
    return pretender


@pytest.mark.promise("mcp-server-does-not-classify")
@pytest.mark.parametrize(
    "value",
    [
        FACTS,
        json.loads(json.dumps(agentguard.classified(**FACTS))),
        {"agentguard": agentguard.classified(**FACTS)},
        [agentguard.classified(**FACTS)],
        Alike(FACTS),
        posing(),
        Classification,
        "read",
        1,
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_an_object_of_our_own_class_classifies(
    kit: Kit, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tool = rebuilt(offered(), Ran())
    tool.metadata = {"agentguard": value}
    assert kit.guard.wrap(tool)[0].gate.spec is None
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.getMessage().startswith("tool wire: its metadata classifies it and is ignored")


def test_a_classification_has_no_subclass() -> None:
    with pytest.raises(TypeError, match="no subclass"):
        type("Forged", (Classification,), {})


# --- and what the application says holds


@pytest.mark.parametrize(
    "form", [lambda tool: tool, copy.copy, copy.deepcopy, lambda tool: tool.model_copy()]
)
async def test_what_the_application_says_holds_for_a_copy_and_against_the_server(
    kit: Kit, mode: Mode, form: Any
) -> None:
    tool = rebuilt(offered(**SAID["annotations"]), Ran())
    tool.metadata = {**(tool.metadata or {}), "agentguard": agentguard.classified(path="escalation")}
    (guarded,) = kit.guard.wrap(form(tool))
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        await mode.invoke(guarded, {"to": "bob"})
    (asked,) = kit.rule.asked
    assert (asked.tool.path, asked.tool.trusted) == (ToolPath.ESCALATION, frozenset())
    assert kit.outcomes() == ["done"]


def test_a_guard_classifies_what_a_server_offers(kit: Kit) -> None:
    guarded = kit.guard.tool(path="write")(offered(**SAID["annotations"]))
    assert guarded.gate.spec is not None
    assert guarded.gate.spec.path is ToolPath.WRITE


async def test_the_middleware_takes_a_classification_of_the_application(kit: Kit, task: Any) -> None:
    ran = Ran()
    tool = rebuilt(offered(), ran)
    tool.metadata = {"agentguard": agentguard.classified(path="read")}
    agent = create_agent(scripted(tool_call("wire", to="bob")), [tool], middleware=[kit.guard.middleware()])
    await agent.ainvoke(GO)
    assert ran == ["bob"]


def test_a_classification_is_written_as_json_by_who_traces_a_run(kit: Kit) -> None:
    guarded = kit.guard.tool(path="read")(rebuilt(offered(), Ran()))
    assert json.loads(json.dumps(guarded.metadata)) == {"agentguard": {"path": "read"}}
    with kit.guard.task("test", subject="alice", mandate={"tools": "*"}):
        events = asyncio.run(_events(guarded))
    assert any(event["metadata"].get("agentguard") == {"path": "read"} for event in events)


async def _events(tool: BaseTool) -> list[Any]:
    return [event async for event in tool.astream_events({"to": "bob"}, version="v2")]
