"""Guarded tools: `guard.wrap(tools)`.

A guarded tool is a BaseTool of our own class around the original. It gates `invoke`, `ainvoke`,
`run` and `arun`, so that agents, ToolNode, executors and chains all pass, and looks like the original
in name, schema, injection, response format and error settings. What is lost is `isinstance` of the
original's class. `func` and `coroutine` show the original's annotations, which frameworks read to
inject, and refuse to be called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, NoReturn, get_type_hints

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import BaseModel, ValidationError

from agentguard.concurrency.drive import drive
from agentguard.errors import DenialCode, Denied
from agentguard.langchain.gate import PROOF, Entrance, Gate, SealedPath
from agentguard.langchain.injection import described, takes_runtime
from agentguard.langchain.messages import is_tool_call, refusal
from agentguard.langchain.results import ToolDenied
from agentguard.langchain.seal import set_private

__all__ = ["GuardedTool", "OnDeny", "guarded"]

OnDeny = Literal["message", "raise"]


class GuardedTool(BaseTool):
    """A tool that runs nothing without a decision; made by `guard.wrap`.

    A denied model call (a ToolCall) is answered with an error ToolMessage, a denied `run` of an
    executor with its text, and a denied `invoke` of an application's raises Denied. `on_deny` sets
    one of them for all.
    """

    _gate: Gate
    _on_deny: OnDeny | None
    _function: Callable[..., Any]
    _input_schema: Callable[[RunnableConfig | None], Any]

    @property
    def gate(self) -> Gate:
        """The gate that this tool passes."""
        return self._gate

    @property
    def func(self) -> Callable[..., Any]:
        """The original's annotations, for injection; calling it raises PermissionError."""
        return self._function

    coroutine = func

    @property
    def _injected_args_keys(self) -> frozenset[str]:
        return self._gate.schema.injected

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """Return the original's input schema."""
        schema: type[BaseModel] = self._input_schema(config)
        return schema

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Judge the call, and run the original if it is permitted."""
        return drive(self._invoke(self._gate.sync, input, config, kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Do as `invoke`, on an event loop."""
        return await self._invoke(self._gate.async_, input, config, kwargs)

    async def _invoke(
        self, path: SealedPath, input: Any, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> Any:
        called = is_tool_call(input)
        call_id = input.get("id") if called else None
        tool_input = self._gate.part(input.get("args") if called else input, call_id, config)
        if called and call_id is None:
            problem = Denied.of(DenialCode.NO_CALL_ID, "a model's call without id")
            tool_input = tool_input._replace(problem=problem)
        entrance = self._gate.entrance(path.flow, tool_input)
        try:
            async with entrance as values:
                return await path.invoke({**input, "args": values} if called else values, config, **kwargs)
        except (Denied, ToolDenied) as error:
            return self._answer(error, entrance, call_id, "message" if called else "raise")

    def run(self, tool_input: Any, *args: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Judge the call, and run the original if it is permitted; executors call this."""
        return drive(self._run_guarded(self._gate.sync, tool_input, config, args, kwargs))

    async def arun(
        self, tool_input: Any, *args: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Do as `run`, on an event loop."""
        return await self._run_guarded(self._gate.async_, tool_input, config, args, kwargs)

    async def _run_guarded(
        self,
        path: SealedPath,
        tool_input: Any,
        config: RunnableConfig | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        call_id = kwargs.get("tool_call_id")
        entrance = self._gate.entrance(path.flow, self._gate.part(tool_input, call_id, config))
        try:
            async with entrance as values:
                return await path.run(values, *args, config=config, **kwargs)
        except (Denied, ToolDenied) as error:
            return self._answer(error, entrance, call_id, "message")

    def _answer(
        self, error: Denied | ToolDenied, entrance: Entrance, call_id: str | None, otherwise: OnDeny
    ) -> Any:
        """Answer a call that was denied, or in which a call that the tool made was denied."""
        if entrance.prejudged is not None and (
            isinstance(error, ToolDenied) or not entrance.prejudged.permit.entered
        ):
            raise error  # the middleware, whose permit it was, answers and records
        denied = error.denied if isinstance(error, ToolDenied) else error
        on_deny = self._on_deny or otherwise
        if isinstance(cause := denied.__cause__, ValidationError):
            if flag := self.handle_validation_error:
                text = flag if isinstance(flag, str) else flag(cause) if callable(flag) else str(denied)
                denied = Denied(denied.code, denied.reason, advice=text)
                return text if call_id is None else refusal(denied, self.name, call_id)
            if on_deny == "raise":
                raise cause
        if on_deny == "raise":
            raise denied from None
        message = refusal(denied, self.name, call_id)
        return message.content if call_id is None else message

    def _run(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise PermissionError(f"{self.name} is guarded: use invoke, ainvoke, run or arun")

    async def _arun(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise PermissionError(f"{self.name} is guarded: use invoke, ainvoke, run or arun")


def guarded(gate: Gate, tool: BaseTool, on_deny: OnDeny | None = None) -> GuardedTool:
    """Put *gate* around *tool*, which stays as it was."""
    fields = {name: getattr(tool, name) for name in BaseTool.model_fields if name != "callbacks"}
    if gate.schema.single:
        fields["args_schema"] = dict(gate.schema.schema)
    elif fields["args_schema"] is None:
        fields["args_schema"] = tool.get_input_schema()
    guard = GuardedTool.model_construct(**fields)
    set_private(
        guard,
        _gate=gate,
        _on_deny=on_deny,
        _function=_annotations_only(tool, gate),
        # a bound method would be copied with the tool
        _input_schema=lambda config: tool.get_input_schema(config),
    )
    return guard


def _annotations_only(tool: BaseTool, gate: Gate) -> Callable[..., Any]:
    original, name = getattr(tool, "func", None) or getattr(tool, "coroutine", None), tool.name

    def refused(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise PermissionError(f"{name} is guarded: use invoke, ainvoke, run or arun")

    refused.__name__ = name
    if original is not None:
        refused.__annotations__ = get_type_hints(described(original), include_extras=True)
        refused.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]  # what inspect reads
    else:
        refused.__annotations__ = {}
    asks = gate.schema.injected or gate.state_arguments
    if asks and not any(map(takes_runtime, refused.__annotations__.values())):
        refused.__annotations__ |= _proof_of_injection()
    return refused


def _proof_of_injection() -> dict[str, Any]:
    """Ask the injector for its runtime object too: no model can forge one."""
    try:
        from langgraph.prebuilt import ToolRuntime  # only where langgraph is there
    except ImportError:
        return {}
    return {PROOF: ToolRuntime}
