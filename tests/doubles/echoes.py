"""Tools that give their credential away, in every way that a tool can.

Each echo is written beside a canary, which nobody redacts: a sink that holds it would have held the
credential too.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

import httpx
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, ToolException, tool
from langgraph.config import get_stream_writer
from langgraph.prebuilt import ToolRuntime
from langgraph.types import Command

import agentguard
from agentguard.langchain.seal import running_call

__all__ = ["CANARY", "calling", "log", "returning", "telling"]

CANARY = "canary-beside-the-credential"
log = logging.getLogger("an.application")


def echo() -> str:
    return f"{CANARY} {agentguard.credential('orders').reveal()} {CANARY}"


def returning(references: list[Any]) -> list[BaseTool]:
    """Make the tools that give it away in a result; *references* gets what a tool can get hold of."""

    @tool
    def value() -> dict[str, Any]:
        """Echo it in what is returned."""
        references.extend([agentguard.credential(), running_call.get()])
        return {"text": echo(), "list": [echo(), {echo(): 1}], "bytes": repr(echo().encode())}

    @tool(response_format="content_and_artifact")
    def artifact() -> tuple[str, Any]:
        """Echo it in an artifact."""
        return echo(), {"raw": [echo()], "bytes": echo().encode()}

    @tool
    def command(call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Echo it in an update of the state."""
        message = ToolMessage(echo(), tool_call_id=call_id, artifact={"raw": echo()})
        return Command(update={"messages": [message], "note": echo()})

    return [value, artifact, command]


def telling() -> list[BaseTool]:
    """Make the tools that give it away in an exception or in the log."""

    @tool
    def handled() -> str:
        """Echo it in an exception that langchain tells the model."""
        raise failure(ToolException)

    @tool
    def logged() -> str:
        """Echo it in the log."""
        log.info("sent %s", echo())
        log.debug(echo())
        log.warning("sent %(it)s", {"it": echo()})
        try:
            raise failure(ValueError)
        except ValueError as error:
            log.exception("failed: %s", error, stack_info=True)
        return CANARY

    @tool
    def fails() -> str:
        """Echo it in an exception that ends the run."""
        raise failure(RuntimeError)

    @tool
    def streamed(runtime: ToolRuntime, config: RunnableConfig) -> str:
        """Echo it into the streams of the graph."""
        runtime.stream_writer({"by the runtime": echo()})
        runtime.emit_output_delta(f"by a delta {echo()}")
        get_stream_writer()({"by the config": [echo()]})
        for name, runnable_config in (("its config", runtime.config), ("a parameter", config)):
            configured: Any = runnable_config["configurable"]
            configured["__pregel_runtime"].stream_writer(f"by {name} {echo()}")
        return CANARY

    @tool
    def worded() -> Any:
        """Echo it in an object that shows it by its text alone."""
        return Worded(echo())

    handled.handle_tool_error = True
    return [handled, logged, streamed, worded, fails]


class Worded:
    """Holds its text where nobody can look."""

    def __init__(self, text: str) -> None:
        def told() -> str:
            return text

        self._told = told

    def __str__(self) -> str:
        return self._told()


def calling(origin: str) -> BaseTool:
    """Make the tool whose server gives it away."""
    url, headers = f"{origin}/orders", {"X-Canary": CANARY}

    def called() -> str:
        """Send it where it belongs; the server sends it back in a header and in its body."""
        with httpx.Client(auth=agentguard.auth("orders")) as client:
            return f"{CANARY} {client.get(url, headers=headers).text}"

    async def acalled() -> str:
        async with httpx.AsyncClient(auth=agentguard.auth("orders")) as client:
            return f"{CANARY} {(await client.get(url, headers=headers)).text}"

    return StructuredTool.from_function(called, acalled)


def failure(kind: type[Exception]) -> Exception:
    """Make an exception that holds it in its text, attributes, notes, cause and context."""
    try:
        try:
            raise KeyError(echo())
        except KeyError:
            raise ValueError(echo()) from OSError(5, echo())
    except ValueError as error:
        exception = kind(echo())
        exception.__cause__, exception.__context__ = error, LookupError(echo())
        exception.extra = {"raw": echo()}  # type: ignore[attr-defined]  # as exceptions of clients have
        exception.add_note(echo())
        return exception
