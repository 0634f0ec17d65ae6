"""A READ tool of the catalog as the source of a fact, called through the guard itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from agentguard.concurrency.drive import drive
from agentguard.errors import FactError
from agentguard.model import AccessRequest, Json

__all__ = ["ToolCalls", "ToolFact"]

Call = Callable[[AccessRequest, str, Mapping[str, Json]], Awaitable[Any]]


class ToolCalls(NamedTuple):
    """How a guard calls its tools for a fact, on either path."""

    sync: Call
    async_: Call


class ToolFact:
    """Reads a record by calling *tool* with the key as its *arguments*, in order.

    The call is one of the task: it is judged, recorded, counted in the budget and the history, and gets a
    credential of its own. What it returns is seen by rules alone, so the task has not read it. Nothing is
    read before a guard has the fact (`calls` is then set), and has seen the tool.
    """

    def __init__(self, tool: str, arguments: tuple[str, ...]) -> None:
        self.tool, self._arguments = tool, arguments
        self.calls: ToolCalls | None = None

    def read(self, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        """Return the record in the tool's result.

        Raises:
            Denied: The call of the tool is denied.
            FactError: The guard has not seen the tool.
        """
        return drive(self._call(request, key, asynchronous=False))

    async def aread(self, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        """Do as `read`, on an event loop."""
        return await self._call(request, key, asynchronous=True)

    async def _call(self, request: AccessRequest, key: tuple[Json, ...], *, asynchronous: bool) -> Any:
        if self.calls is None:
            raise FactError(f"no guard calls {self.tool} for it")
        call = self.calls.async_ if asynchronous else self.calls.sync
        return await call(request, self.tool, dict(zip(self._arguments, key, strict=True)))
