"""What `Guard.middleware` does beside judging calls, if the application asks for it.

Each option is a class of its own, with the one hook that it needs: langchain makes a node of the graph for
each hook that a middleware has, and a node has its cost in each step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from itertools import compress
from operator import attrgetter
from typing import Any, NamedTuple

from langchain.agents.middleware.types import ModelRequest, ModelResponse, hook_config
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool

from agentguard.concurrency.drive import drive, lift
from agentguard.enforcement.activation import active_task
from agentguard.enforcement.failures import best_effort
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.errors import Denied
from agentguard.langchain.messages import is_refusal
from agentguard.langchain.middleware import GuardMiddleware
from agentguard.langchain.registry import GateRegistry
from agentguard.langchain.runs import run_of
from agentguard.langchain.user_messages import has_mark, is_user_message
from agentguard.model import TaskState, TaskStatus
from agentguard.tasks.conversation import hear

__all__ = ["MiddlewareOptions", "middleware_of"]

SYNC, ASYNC = attrgetter("sync"), attrgetter("async_")
KEYS = 4096
"""How many messages that were heard are known without asking the store."""
STOPPED = "I have stopped: {} of my actions in a row were not allowed. Nothing more is done in this task."


class MiddlewareOptions(NamedTuple):
    """The arguments of `Guard.middleware`."""

    hears_user: bool = False
    offers_allowed: bool = False
    most_denials: int | None = None


def middleware_of(
    enforcement: Enforcement, gates: GateRegistry, options: MiddlewareOptions
) -> GuardMiddleware:
    """Return the middleware with these options.

    Raises:
        ValueError: A task would end after less than one denial.
    """
    most = options.most_denials
    if most is not None and most < 1:
        raise ValueError("a task ends after at least one denial")
    choices = (options.hears_user, options.offers_allowed, most is not None)
    parts = compress((UserWords, OfferedTools, DenialStreak), choices)
    middleware = _class(tuple(parts))(enforcement, gates)
    if isinstance(middleware, DenialStreak) and most is not None:
        middleware.most_denials = most
    return middleware


@lru_cache
def _class(parts: tuple[type[GuardMiddleware], ...]) -> type[GuardMiddleware]:
    return type("GuardMiddleware", parts, {}) if parts else GuardMiddleware


def _task_here() -> str | None:
    """Return the id of the task in which this step of the graph runs.

    Raises:
        Denied: The run's config names no task by a handle, but has something else in its place.
    """
    run = run_of(None)
    if run.problem is not None:
        raise run.problem
    return active_task() or run.task


class UserWords(GuardMiddleware):
    """Adds the marked messages of a run to the words of its task, before the agent begins."""

    def __init__(self, enforcement: Enforcement, gates: GateRegistry) -> None:
        super().__init__(enforcement, gates)
        self._keys: dict[str, None] = {}

    def before_agent(self, state: Any, runtime: Any) -> None:
        """Hear what the user has said."""
        drive(self._hear(SYNC, state))

    async def abefore_agent(self, state: Any, runtime: Any) -> None:
        """Do as `before_agent`, on an event loop."""
        await self._hear(ASYNC, state)

    async def _hear(self, flow_of: Callable[[Enforcement], Flow], state: Any) -> None:
        keys = self._keys
        messages = [message for message in state["messages"] if has_mark(message)]
        task_id = _task_here() if messages else None
        if task_id is None:
            return
        flow = flow_of(self._enforcement)
        task = await flow.operations.task(task_id)
        if task is None:
            return
        for message in messages:
            key = f"heard {task.root_id} {message.id}"
            if key in keys or not is_user_message(message, (task.id, *task.lineage)):
                continue
            if await flow.operations.remember(key, task.deadline):  # else another process has heard it
                await hear(flow, task.root_id, message.content)
            if len(keys) >= KEYS:
                keys.clear()
            keys[key] = None


class OfferedTools(GuardMiddleware):
    """Leaves out of a request to the model the tools whose calls would be denied whatever their arguments."""

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Ask the model with the tools that the task may use."""
        return drive(self._ask(SYNC, request, lift(handler)))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Do as `wrap_model_call`, on an event loop."""
        return await self._ask(ASYNC, request, handler)

    async def _ask(
        self,
        flow_of: Callable[[Enforcement], Flow],
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        flow = flow_of(self._enforcement)
        try:
            task_id = _task_here()
            task = None if task_id is None else await flow.authorization.requests.family_state(task_id)
        except Denied:  # each call is denied then, and recorded
            task = None
        if task is not None:
            # what tools say of themselves is known once they were looked at
            self._gates.look_at([tool for tool in request.tools if isinstance(tool, BaseTool)])
            offered = [tool for tool in request.tools if not self._is_ruled_out(flow, tool, task)]
            if len(offered) < len(request.tools):
                request = request.override(tools=offered)
        return await handler(request)

    def _is_ruled_out(self, flow: Flow, tool: BaseTool | dict[str, Any], task: TaskState) -> bool:
        """Return whether no call of a tool would be permitted; a provider's own tool is not judged here."""
        if not isinstance(tool, BaseTool):
            return False
        return flow.authorization.rules_out(self._enforcement.ports.catalog.tool(tool.name), task)


class DenialStreak(GuardMiddleware):
    """Ends the task of a run whose calls are denied one after the other, and answers the user."""

    most_denials = 1

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """End the task if so many calls in a row were denied."""
        return drive(self._look(SYNC, state))

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Do as `before_model`, on an event loop."""
        return await self._look(ASYNC, state)

    async def _look(self, flow_of: Callable[[Enforcement], Flow], state: Any) -> dict[str, Any] | None:
        count = sum(1 for _ in _last_denials(state["messages"]))
        if count < self.most_denials:
            return None
        try:
            task_id = _task_here()
        except Denied:
            task_id = None
        end = flow_of(self._enforcement).outbox.end_task
        if task_id is not None and end is not None:
            cause = f"{count} calls in a row were denied"
            await best_effort("the end of a task", end, task_id, TaskStatus.REVOKED, cause)
        return {"messages": [AIMessage(STOPPED.format(count))], "jump_to": "end"}


def _last_denials(messages: list[BaseMessage]) -> Iterator[ToolMessage]:
    """Yield the answers to denied calls since the last call that ran, or since somebody else has spoken."""
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            if not is_refusal(message):
                return
            yield message
        elif not isinstance(message, AIMessage):
            return
