"""A large result of an asynchronous tool is looked at while the event loop goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel

from agentguard import credential
from tests.conftest import Kit, Mode, classified, tool_call


@dataclass
class Row:
    id: int
    name: str
    tags: list[str]


def rows(number: int) -> list[Row]:
    return [Row(n, f"name {n}", ["a", "b"]) for n in range(number)]


async def called(kit: Kit, number: int, *, fails: bool = False, handler: Any = None) -> tuple[Any, float]:
    """Return a tool's artifact, and the seconds of CPU that the loop's thread has taken for the call."""
    token = list[str]()

    async def read() -> tuple[str, Any]:
        """Read."""
        token.append(
            credential("orders").headers("GET", "https://orders.example")["Authorization"].split()[-1]
        )
        result = [*rows(number), Row(-1, f"the token is {token[0]}", [])]
        began.append(time.thread_time())
        if fails:
            raise ToolException(result)
        return "rows", result

    began = list[float]()
    tool = StructuredTool.from_function(
        coroutine=read,
        name="read",
        response_format="content_and_artifact",
        handle_tool_error=handler or False,
    )
    guarded = kit.wrap(tool)
    with kit.guard.task("t", subject="alice", mandate={"tools": "*"}):
        answer = await guarded.ainvoke(tool_call("read"))
    seconds = time.thread_time() - began[0]
    assert token[0] not in str(answer.artifact)
    return answer.artifact, seconds


@pytest.mark.promise("large-results-hold-no-loop")
async def test_thousands_of_objects_are_cleared_in_a_thread(kit: Kit) -> None:
    before = threading.active_count()
    artifact, seconds = await called(kit, 8_000)
    assert len(artifact) == 8_001
    assert "the token is" in artifact[-1].name
    assert seconds < 0.2, "in one go they take a multiple of it"
    assert threading.active_count() <= before + 3


@pytest.mark.promise("large-results-hold-no-loop")
async def test_the_error_of_a_tool_is_cleared_in_a_thread_too(kit: Kit) -> None:
    texts = list[str]()

    def handled(error: ToolException) -> str:
        texts.append(str(error.args[0][-1]))
        return "failed"

    _, seconds = await called(kit, 8_000, fails=True, handler=handled)
    assert len(texts) == 1
    assert "the token is [" in texts[0]
    assert seconds < 0.2


async def test_a_small_result_needs_no_thread(kit: Kit) -> None:
    before = threading.active_count()
    artifact, _ = await called(kit, 3)
    assert len(artifact) == 4
    assert threading.active_count() == before


class Order(BaseModel):
    """A row of a class whose objects have much inside."""

    id: int
    name: str
    tags: list[str]


SHAPES: dict[str, Any] = {
    "dicts": lambda row: asdict(row),
    "objects": lambda row: row,
    "models": lambda row: Order(**asdict(row)),
    "tuples": lambda row: (row.id, row.name, tuple(row.tags)),
}


@pytest.mark.exhaustive
@pytest.mark.promise("results-in-bounded-time")
@pytest.mark.parametrize("shape", SHAPES)
async def test_39_000_rows_take_bounded_time_of_the_processor_in_all_threads_together(
    kit: Kit, mode: Mode, shape: str
) -> None:
    table = [SHAPES[shape](row) for row in rows(39_000)]
    tool = StructuredTool.from_function(
        lambda: ("rows", table), name="read", description="Read.", response_format="content_and_artifact"
    )
    guarded = kit.wrap(classified(tool))
    with kit.guard.task("t", subject="alice", mandate={"tools": "*"}):
        began = time.process_time()
        answer = await mode.invoke(guarded, tool_call("read"))
        seconds = time.process_time() - began
    assert answer.artifact is table
    assert seconds < 4  # measured: 0.1 s for dicts, and 1.0 s for models
