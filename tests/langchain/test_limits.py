"""What a call and its result hold has limits: beyond them a call is denied, and a result is withheld."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.tools import StructuredTool, ToolException
from langgraph.config import get_stream_writer
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.types import Command, Interrupt
from pydantic import BaseModel

from agentguard import Guard
from agentguard.config import load
from agentguard.errors import Denied
from agentguard.model import CallLimits, Limits
from agentguard.testing import ScriptedChatModel
from tests.conftest import Kit

SMALL = Limits(bytes=1000, parts=100, depth=10)
SECONDS = 3.0  # for what takes a few hundredths of a second


def nested(leaf: Any, depth: int, width: int = 10) -> Any:
    """Return a small value that stands for *width* to the power of *depth* leaves, as aliases of YAML do."""
    for _ in range(depth):
        leaf = [leaf] * width
    return leaf


@dataclass
class Data:
    inner: Any


class Model(BaseModel):
    inner: Any


class Written:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __str__(self) -> str:
        return f"<{self.inner}>"


class ApiFailure(ToolException):
    """An exception of an SDK, whose text shows an attribute."""

    def __init__(self, *, body: Any) -> None:
        super().__init__()
        self.body = body

    def __str__(self) -> str:
        return f"the API said {self.body}"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


WRAPPINGS: list[Callable[[Any], Any]] = [
    lambda inner: inner,
    lambda inner: {"a": inner},
    lambda inner: (inner,),
    lambda inner: deque([inner]),
    Data,
    lambda inner: Model(inner=inner),
    Written,
    ValueError,
    lambda inner: caused(ValueError("x"), ValueError(inner)),
    lambda inner: [ExceptionGroup("x", [ValueError(inner)])],
    lambda inner: ApiFailure(body=inner),
    lambda inner: [Document(page_content="x", metadata={"a": inner})],
    lambda inner: [{"type": "text", "text": "x", "more": inner}],
]


@pytest.mark.promise("limits-hold")
@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize(
    ("value", "limit"),
    [
        (nested("x", 9), "parts"),
        ("x" * 1001, "bytes"),
        (b"x" * 1001, "bytes"),
        ("ä" * 501, "bytes"),
        (10**4000, "bytes"),
        (nested("x" * 100, 1, 11), "bytes"),
        (nested("x", 11, 1), "levels"),
        (nested(None, 1, 101), "parts"),
        (dict.fromkeys(range(60), 1), "parts"),
    ],
)
def test_each_limit_is_found_in_whatever_holds_the_value(
    wrapping: Callable[[Any], Any], value: Any, limit: str
) -> None:
    began = perf_counter()
    assert limit in SMALL.excess(wrapping(value))
    assert perf_counter() - began < SECONDS


def test_what_is_within_the_limits_or_within_itself_is_passed() -> None:
    endless: list[Any] = ["x"]
    endless.append(endless)
    for value in (
        endless,
        nested("x", 9, 1),
        ["x" * 900],
        {"a": {1, 2}, "b": None},
        object(),
        Model(inner=1),
    ):
        assert SMALL.excess(value) == ""


def made(function: Callable[..., Any], **options: Any) -> StructuredTool:
    return StructuredTool.from_function(function, name="fetch", description="Fetch.", **options)


BOMB = nested("x", 9)


def plain(url: str) -> Any:
    return BOMB


def artifact(url: str) -> Any:
    return "a summary", {"front matter": BOMB}


def blocks(url: str) -> Any:
    return [{"type": "text", "text": "x", "more": BOMB}]


def failing(url: str) -> Any:
    raise ToolException(BOMB)


def failing_by_an_attribute(url: str) -> Any:
    raise ApiFailure(body=BOMB)


def failing_by_a_cause(url: str) -> Any:
    raise ToolException("x") from ApiFailure(body=BOMB)


def interrupting(url: str) -> Any:
    raise GraphInterrupt((Interrupt(value=BOMB),))


def handing_over(url: str) -> Any:
    raise ParentCommand(Command(graph="parent", update={"x": BOMB}))


def in_a_view(url: str) -> Any:
    return {"front matter": BOMB}.values()


def in_an_exception(url: str) -> Any:
    return [ValueError("the document is wrong", ExceptionGroup("x", [ValueError(BOMB)]))]


def in_many_places(url: str) -> Any:
    return ["x" * 100_000] * 12_000  # 148 KB of YAML


CASES = [
    (interrupting, {}),
    (handing_over, {}),
    (in_a_view, {}),
    (in_an_exception, {}),
    (in_many_places, {}),
    (failing_by_an_attribute, {"handle_tool_error": True}),
    (failing_by_a_cause, {"handle_tool_error": True}),
    (plain, {}),
    (artifact, {"response_format": "content_and_artifact"}),
    (blocks, {}),
    (failing, {"handle_tool_error": True}),
]


@pytest.mark.exhaustive(6)
@pytest.mark.promise("limits-hold", "results-in-bounded-time")
@pytest.mark.parametrize(("function", "options"), CASES)
@pytest.mark.parametrize("way", ["wrap", "middleware"])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_result_beyond_the_limits_is_withheld_after_the_revocation(
    function: Any, options: Any, way: str, mode: str
) -> None:
    kit, began = Kit(), perf_counter()
    tool = made(function, **options)
    guarded = kit.wrap(tool)
    call = {"name": "fetch", "args": {"url": "x"}, "id": "c1", "type": "tool_call"}
    with kit.guard.task("Read", subject="user:ada", mandate={"tools": "*"}):
        if way == "wrap":
            answer = guarded.invoke(call) if mode == "sync" else await guarded.ainvoke(call)
        else:
            script: Any = [[("fetch", {"url": "x"})], "done"]
            agent: Any = create_agent(
                ScriptedChatModel(script=script), [tool], middleware=[kit.guard.middleware()]
            )
            question = {"messages": [("user", "go")]}
            result = agent.invoke(question) if mode == "sync" else await agent.ainvoke(question)
            answer = next(m for m in result["messages"] if m.type == "tool")
    assert perf_counter() - began < SECONDS
    assert answer.text.startswith("Denied: The call was made, but its result is withheld"), answer.text
    assert answer.artifact is None
    assert not kit.broker.live
    withheld = [record for record in kit.audit.records() if record.get("code") == "withheld"]
    assert len(withheld) == 1
    assert ("bytes" if function is in_many_places else "parts") in withheld[0]["reason"]


ARGUMENTS = [
    ({"url": "x" * 1001}, "1000 bytes"),
    ({"url": ["x"] * 101}, "100 parts"),
    ({f"a{n}": 1 for n in range(60)}, "100 parts"),
    ({"url": nested("x", 11, 1)}, "10 levels"),
    ({"url": BOMB}, "100 parts"),
]


@pytest.mark.promise("limits-hold", "calls-in-bounded-time")
@pytest.mark.parametrize(("arguments", "limit"), ARGUMENTS)
@pytest.mark.parametrize("way", ["wrap", "middleware"])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_arguments_beyond_the_limits_are_a_recorded_denial_that_says_which(
    arguments: dict[str, Any], limit: str, way: str, mode: str
) -> None:
    if way == "middleware" and limit == "100 parts":
        arguments = {"url": ["x"] * 200}  # langchain itself writes down what a model's message holds
    kit, ran = Kit(), list[str]()

    def fetch(url: Any) -> str:
        ran.append("ran")
        return "seen"

    kit.guard = kit.another(limits=CallLimits(arguments=SMALL))
    tool = made(fetch)
    guarded = kit.wrap(tool)
    call = {"name": "fetch", "args": arguments, "id": "c1", "type": "tool_call"}
    with kit.guard.task("Read", subject="user:ada", mandate={"tools": "*"}):
        if way == "wrap":
            text = (guarded.invoke(call) if mode == "sync" else await guarded.ainvoke(call)).text
        else:
            script: Any = [[("fetch", arguments)], "done"]
            agent: Any = create_agent(
                ScriptedChatModel(script=script), [tool], middleware=[kit.guard.middleware()]
            )
            question = {"messages": [("user", "go")]}
            result = agent.invoke(question) if mode == "sync" else await agent.ainvoke(question)
            text = next(m for m in result["messages"] if m.type == "tool").text
    assert f"more than {limit}" in text
    assert ran == []
    assert [record.get("code") for record in kit.audit.records() if record["event"] == "decision"] == [
        "invalid_arguments"
    ]


@pytest.mark.promise("limits-hold")
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_chunk_of_a_stream_beyond_the_limits_is_withheld(mode: str) -> None:
    def fetch(url: str) -> str:
        get_stream_writer()(BOMB)
        get_stream_writer()({"a": 1})
        return "x"

    kit = Kit()
    tool = made(fetch)
    kit.wrap(tool)
    agent: Any = create_agent(
        ScriptedChatModel(script=[[("fetch", {"url": "x"})], "done"]),
        [tool],
        middleware=[kit.guard.middleware()],
    )
    question = {"messages": [("user", "go")]}
    with kit.guard.task("Read", subject="user:ada", mandate={"tools": "*"}):
        if mode == "sync":
            chunks = list(agent.stream(question, stream_mode="custom"))
        else:
            chunks = [chunk async for chunk in agent.astream(question, stream_mode="custom")]
    first, second = chunks
    assert type(first) is str
    assert first == "[withheld]"
    assert second == {"a": 1}


@pytest.mark.promise("limits-hold")
def test_without_a_word_the_limits_are_those_of_an_ordinary_call() -> None:
    kit = Kit()
    guarded = kit.wrap(made(lambda url: f"{len(url)} characters"))
    with kit.guard.task("Read", subject="user:ada", mandate={"tools": "*"}):
        assert guarded.invoke({"url": "x" * 500_000}) == "500000 characters"
        with pytest.raises(Denied, match="1048576 bytes"):
            guarded.invoke({"url": "x" * 1_100_000})


def test_the_limits_stand_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agentguard.toml"
    file.write_text("[limits]\nargument_bytes = 10\nresult_depth = 7\n")
    limits = load(file).limits.limits()
    assert (limits.arguments.bytes, limits.result.depth) == (10, 7)
    assert limits.arguments.parts == CallLimits().arguments.parts
    guard = Guard.from_file(file)
    assert guard.enforcement.options.limits == limits
    guard.close()
