"""The inside of a guarded tool: the original, executable only with a permit.

Here, below everything of langchain that a callback, tracer or checkpoint sees, the lease is opened,
the arguments are compared with those that were judged, and what the tool gives back is cleared of
the secret. A plain function tool is sealed in a tool of ours in which all that langchain would
inspect on each call is known in advance; of any other tool a private twin of a class of its own is
made, which shares its state and whose body runs on the original object.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, Tool, ToolException
from langchain_core.tools.base import _get_runnable_config_param

from agentguard.concurrency.abandonable import AbandonableThreads, NoThread
from agentguard.concurrency.drive import drive, lift
from agentguard.enforcement.call import Permit
from agentguard.errors import DenialCode, Denied
from agentguard.langchain.delivery import delivery_problem
from agentguard.langchain.identification import McpTarget
from agentguard.langchain.mcp_calls import watch
from agentguard.langchain.results import is_small, note_failure, note_result, revoke_before
from agentguard.langchain.schema import ArgumentSchema
from agentguard.langchain.streams import Clearing, cleared
from agentguard.lease import secrets_of
from agentguard.model.quick import is_quick

__all__ = ["RunningCall", "enter", "running_call", "seal", "set_private", "with_signature"]

T = TypeVar("T")
Body = Callable[..., Awaitable[Any]]
_OF_CONFIG = {"config": RunnableConfig}


class RunningCall(NamedTuple):
    """A permitted call on its way to the one tool that has this schema.

    `threads` are those in which a large result of an asynchronous tool is looked at. `target` is where that
    tool sends its calls if it is an MCP tool. It was read when the tool was sealed. `delivers` says that the
    call's credential has to arrive at a server: that of an MCP tool, whichever adapter made it.
    """

    permit: Permit
    schema: ArgumentSchema
    threads: AbandonableThreads
    target: McpTarget | None = None
    delivers: bool = False


running_call: ContextVar[RunningCall | None] = ContextVar("agentguard_permit", default=None)


async def enter(
    schema: ArgumentSchema,
    tool: str,
    body: Body,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    extra: dict[str, Any],
    *,
    blocks: bool = False,
) -> Any:
    """Open the lease, run the tool's own code, and let nothing of the secret out.

    What the tool gives back is looked at when the lease is closed, and within its limits. Unless it is small
    plain data, the credential is revoked before. With *blocks*, nothing here may suspend. Without it, what is
    large is looked at in a thread, so that the event loop goes on.

    Raises:
        Denied: There is no permit for this tool here, it was used, or the arguments are other ones.
    """
    call = running_call.get()
    if call is None or call.schema is not schema:
        raise Denied.of(DenialCode.UNGUARDED, f"{tool} was reached without a permit")
    permit = call.permit
    lease = permit.enter(_digest(permit, schema, args, kwargs))
    limits = schema.limits.result
    error: BaseException | None = None
    if lease.is_unused:
        watch()
    token = lease.open()
    try:
        # as in langchain, its own argument wins over one of that name
        with Clearing(lease, limits):
            result = await body(*args, **cleared({**kwargs, **extra}, lease, limits))
    except BaseException as raised:  # noqa: BLE001  the cancellation of a run as well: it is raised below
        error = raised
    finally:
        permit.leave()
        lease.release(token)
    problem = delivery_problem(lease, delivers=call.delivers, failed=error is not None)
    # the secrets are in no variable: a traceback may show those of this frame
    if error is None:
        return await _noted(call, note_result, result, problem, blocks)
    try:
        # outside of the block above, where Python would make the original its context
        raise await _noted(call, note_failure, error, problem, blocks)
    finally:
        del error  # its traceback holds this frame, and the frame would hold it


async def _noted(
    call: RunningCall, note: Callable[..., Any], value: object, problem: Denied | None, blocks: bool
) -> Any:
    """Return what may be seen of what the tool gave back, large values looked at in a thread."""
    permit, limits = call.permit, call.schema.limits.result
    if not (quick := is_quick(value)):
        await revoke_before(permit, blocks)

    def look() -> Any:
        return note(permit, value, limits, secrets_of(permit.lease), problem)

    if quick or blocks or is_small(value):
        return look()
    try:
        return await call.threads.arun(None, look, party=permit.request.identity.subject)
    except NoThread:  # too many others are looked at
        return look()


def _digest(permit: Permit, schema: ArgumentSchema, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the digest of the arguments with which the tool is entered."""
    injected = schema.injected
    values = {n: value for n, value in kwargs.items() if n not in injected} if injected else dict(kwargs)
    for position, value in enumerate(args):
        values[schema.names[position] if position < len(schema.names) else f"*{position}"] = value
    judged = permit.invocation
    if judged.arguments is not None and schema.unchanged(judged.values, values):
        return judged.arguments.digest
    return schema.canonicalize(values, "" if judged.arguments is None else judged.arguments.raw).digest


class _SealedFunction(BaseTool):
    """A plain function tool, with nothing left to inspect when it is called."""

    _schema: ArgumentSchema
    _func: Callable[..., Any] | None
    _lifted: Body | None
    _coroutine: Callable[..., Awaitable[Any]] | None
    _original: str
    _takes: tuple[bool, str | None]
    _atakes: tuple[bool, str | None]
    _injected: frozenset[str]

    @property
    def _injected_args_keys(self) -> frozenset[str]:
        return self._injected

    def _to_args_and_kwargs(
        self, tool_input: str | dict[str, Any], tool_call_id: str | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(tool_input, str):
            return (tool_input,), {}
        if self._schema.positional:
            if len(tool_input) != 1:  # as `Tool` itself
                raise ToolException(f"{self.name} takes one argument, and got {len(tool_input)}")
            return tuple(tool_input.values()), {}
        return (), tool_input

    def _run(
        self,
        *args: Any,
        config: RunnableConfig,
        run_manager: CallbackManagerForToolRun | None = None,
        **kwargs: Any,
    ) -> Any:
        if self._lifted is None:
            raise NotImplementedError(f"{self._original} does not support sync invocation.")
        extra = _wanted(self._takes, config, run_manager)
        return drive(enter(self._schema, self.name, self._lifted, args, kwargs, extra, blocks=True))

    async def _arun(
        self,
        *args: Any,
        config: RunnableConfig,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        **kwargs: Any,
    ) -> Any:
        if self._coroutine is None:
            return await super()._arun(*args, config=config, run_manager=run_manager, **kwargs)
        extra = _wanted(self._atakes, config, run_manager)
        return await enter(self._schema, self.name, self._coroutine, args, kwargs, extra)


def with_signature(
    body: Callable[..., T], signature: inspect.Signature, annotations: Mapping[str, Any]
) -> Callable[..., T]:
    """Return a method as a function that says at once what langchain and langsmith read of it on each call.

    Of annotations as text, and of what is bound, that takes a third of a bare tool's time. *signature* is its
    own without what is bound, which no tool changes.
    """

    def call(*args: Any, **kwargs: Any) -> T:
        return body(*args, **kwargs)

    call.__signature__ = signature  # type: ignore[attr-defined]  # what inspect reads
    call.__annotations__ = dict(annotations)
    return call


_ANY = _SealedFunction.model_construct(args_schema=None, name="any", description="")
_RUN, _ARUN = inspect.signature(_ANY._run), inspect.signature(_ANY._arun)


def _wanted(takes: tuple[bool, str | None], config: RunnableConfig, run_manager: Any) -> dict[str, Any]:
    callbacks, config_name = takes
    extra: dict[str, Any] = {}
    if callbacks and run_manager:
        extra["callbacks"] = run_manager.get_child()
    if config_name is not None:
        extra[config_name] = config
    return extra


def _takes(function: Callable[..., Any] | None) -> tuple[bool, str | None]:
    if function is None:
        return False, None
    return "callbacks" in inspect.signature(function).parameters, _get_runnable_config_param(function)


def seal(tool: BaseTool, schema: ArgumentSchema) -> BaseTool:
    """Return the private, executable form of *tool*, which leaves *tool* itself unchanged."""
    if type(tool) in (StructuredTool, Tool):
        return _sealed_function(tool, schema)
    return _sealed_twin(tool, schema)


def _sealed_function(tool: BaseTool, schema: ArgumentSchema) -> BaseTool:
    assert isinstance(tool, StructuredTool | Tool)  # noqa: S101  the caller has looked
    attributes = {name: getattr(tool, name) for name in BaseTool.model_fields if name != "args_schema"}
    sealed = _SealedFunction.model_construct(args_schema=None, **attributes)
    set_private(
        sealed,
        _schema=schema,
        _injected=schema.injected,
        _func=tool.func,  # `coverage` looks at what it holds
        _lifted=None if tool.func is None else lift(tool.func),
        _coroutine=tool.coroutine,
        _original=type(tool).__name__,
        _run=with_signature(sealed._run, _RUN, _OF_CONFIG),
        _arun=with_signature(sealed._arun, _ARUN, _OF_CONFIG),
        _takes=_takes(tool.func),
        _atakes=_takes(tool.coroutine),
    )
    return sealed


def set_private(tool: BaseTool, **attributes: Any) -> None:
    """Set private attributes where Python finds them at once: pydantic's own are a search each time."""
    for name, value in attributes.items():
        object.__setattr__(tool, name, value)


def _sealed_twin(tool: BaseTool, schema: ArgumentSchema) -> BaseTool:
    kind = type(tool)
    framework = {"run_manager", "callbacks", _get_runnable_config_param(kind._run)}
    aframework = framework | {_get_runnable_config_param(kind._arun)}

    @functools.wraps(kind._run)
    def _run(_self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        arguments, extra = _parted(kwargs, framework)
        return drive(enter(schema, tool.name, lift(tool._run), args, arguments, extra, blocks=True))

    @functools.wraps(kind._arun)
    async def _arun(_self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        return await enter(schema, tool.name, tool._arun, args, *_parted(kwargs, aframework))

    members: dict[str, Any] = {"_run": _run, "__module__": kind.__module__}
    if kind._arun is not BaseTool._arun:  # the default goes to _run, and so to the seal already
        members["_arun"] = _arun
    sealed_kind = types.new_class(f"Sealed{kind.__name__}", (kind,), {}, lambda space: space.update(members))
    # validated already, and with values that a second validation might change
    for name, value in (("args_schema", None), ("_injected_args_keys", schema.injected)):
        setattr(sealed_kind, name, property(functools.partial(_always, value)))
    sealed: BaseTool = object.__new__(sealed_kind)
    for state in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"):
        object.__setattr__(sealed, state, getattr(tool, state))  # one state with the original, not a copy
    return sealed


def _always(value: Any, _self: object) -> Any:
    return value


def _parted(kwargs: dict[str, Any], framework: set[str | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part the tool's own arguments from what langchain adds to them."""
    extra = {n: v for n, v in kwargs.items() if n in framework}
    return {n: v for n, v in kwargs.items() if n not in extra}, extra
