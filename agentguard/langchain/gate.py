"""The gate before a tool: one for each tool, used by guarded tools and by the middleware alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, NoReturn

from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tools import BaseTool
from pydantic import ValidationError

from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.flow import Enforcement
from agentguard.enforcement.operations import Io
from agentguard.errors import DenialCode, Denied
from agentguard.langchain.identification import facts_of, original_of
from agentguard.langchain.messages import configurable, hands_over
from agentguard.langchain.schema import NONE, ArgumentSchema, ValidatedArguments, schema_error
from agentguard.langchain.seal import RunningCall, ToolDenied, running, seal
from agentguard.langchain.streams import is_runtime
from agentguard.tasks.task import CONFIG_KEY

__all__ = ["Gate", "Injected", "PrejudgedCall", "ToolInput", "pending"]

PROOF = "agentguard_runtime"


class ToolInput(NamedTuple):
    """A call as it was given, parted into what a model may give and what was injected."""

    raw: str | Mapping[str, Any]
    injected: dict[str, Any]
    call_id: str | None
    config: Any
    problem: Denied | None = None


class PrejudgedCall(NamedTuple):
    """A permit that the middleware has obtained for the tool behind this gate; `raw` is a copy."""

    gate: Gate
    permit: Permit
    judged: ValidatedArguments
    raw: str | Mapping[str, Any]


pending: ContextVar[PrejudgedCall | None] = ContextVar("agentguard_pending", default=None)


class Gate:
    """Judges each call of one tool, and opens for it once.

    The original is reachable through no public name: not in a field, a repr or a dump. In-process
    Python is no security boundary all the same; a copy of the original obtains no credential.
    """

    __slots__ = ("__sealed", "_injector_fills", "enforcement", "name", "shape", "spec")

    def __init__(self, enforcement: Enforcement, tool: BaseTool) -> None:
        self.enforcement, self.name = enforcement, tool.name
        self.shape = ArgumentSchema(tool)
        self._injector_fills = self.shape.stripped | {PROOF}
        self.spec = enforcement.catalog.attach(
            tool.name,
            original_of(tool),
            facts_of(tool),
            self.shape.schema,
            tool.description,
        )
        self.__sealed = seal(tool, self.shape)

    @property
    def sealed(self) -> BaseTool:
        """The executable form, which does nothing without a permit."""
        return self.__sealed

    def part(self, given: Mapping[str, Any] | str, call_id: str | None, config: Any) -> ToolInput:
        """Part the model's arguments from injected ones.

        An injected value counts only where a framework's injector is proved to have put it there
        (it hands over its runtime object, which no JSON of a model can be), or where the
        application marked it as `Injected`. Any other stays among the model's, and is refused.
        """
        if isinstance(given, str):
            return ToolInput(given, {}, call_id, config, self._missing({}, call_id))
        proved = self.waiting(call_id) is not None or any(
            is_runtime(given[name]) for name in self._injector_fills & given.keys()
        )
        raw, injected = {}, {}
        mine, fills = self.shape.injected, self.shape.stripped if proved else NONE
        for name, value in given.items():
            if name == PROOF and proved:
                continue
            if isinstance(value, Injected):
                injected[name] = value.value
            elif name in fills or (name in mine and is_runtime(value)):
                injected[name] = value
            else:
                raw[name] = value
        return ToolInput(raw, injected, call_id, config, self._missing(injected, call_id))

    def _missing(self, injected: Mapping[str, Any], call_id: str | None) -> Denied | None:
        given = injected.keys() if call_id is None else {*injected, self.shape.takes_call_id}
        if missing := sorted(self.shape.required - given):
            return Denied.of(DenialCode.INVALID_ARGUMENTS, f"nothing was injected for {', '.join(missing)}")
        return None

    def invocation(self, given: ToolInput) -> tuple[Invocation, ValidatedArguments | None, Exception | None]:
        """Validate the arguments; what is wrong with them is told by the flow, which records it."""
        # as langchain itself: what a run's config does not say, the run around it may have said
        names = {**configurable(var_child_runnable_config.get()), **configurable(given.config)}
        judged, problem, error = None, given.problem, None
        try:
            judged = self.shape.judge(given.raw)
        except Denied as denied:
            problem = denied
        except Exception as found:  # noqa: BLE001  validators are the application's code
            problem, error = schema_error(found), found
        thread, task = names.get("thread_id"), names.get(CONFIG_KEY)
        invocation = Invocation(
            tool=self.name,
            # read again: a guard may classify a tool after it was wrapped
            spec=self.spec or self.enforcement.catalog.tool(self.name),
            arguments=None if judged is None else judged.arguments,
            problem=problem,
            call_id=given.call_id,
            thread_id=None if thread is None else str(thread),
            named_task=task if isinstance(task, str) else None,
        )
        return invocation, judged, error

    async def through(self, given: ToolInput, io: Io, call: Callable[[BaseTool, Any], Awaitable[Any]]) -> Any:
        """Judge, and run *call* with the sealed tool and its input; or with a permit that waits.

        Raises:
            Denied: The call is not permitted.
            ValidationError: The arguments do not fit, as the tool itself would say it.
        """
        if (waiting := self.waiting(given.call_id)) is not None:
            if given.problem is not None:
                raise given.problem
            if given.raw != waiting.raw:
                raise Denied.of(DenialCode.ARGUMENTS_CHANGED, "the arguments are not those that were judged")
            return await self._execute(waiting.permit, waiting.judged, given, call)
        invocation, judged, error = self.invocation(given)

        async def execute(permit: Permit) -> Any:
            assert judged is not None  # noqa: S101  without it the flow had refused
            return await self._execute(permit, judged, given, call)

        try:
            return await self.judge(invocation, execute, io)
        except ToolDenied as inner:
            raise inner.denied from None
        except Denied as denied:
            if isinstance(error, ValidationError):
                denied.__cause__ = error
            raise

    async def judge(self, invocation: Invocation, execute: Callable[[Permit], Awaitable[Any]], io: Io) -> Any:
        """Take the call through the flow; a tool that hands over to a parent graph is done.

        Raises:
            Denied: The call is not permitted.
            ToolDenied: It was permitted, and one that the tool made itself was not.
        """
        handed_over: BaseException | None = None

        async def to_its_end(permit: Permit) -> Any:
            nonlocal handed_over
            try:
                return await execute(permit)
            except BaseException as error:
                if not hands_over(error):
                    raise
                handed_over = error

        result = await self.enforcement.run(invocation, to_its_end, io)
        if handed_over is not None:
            raise handed_over
        return result

    def waiting(self, call_id: str | None) -> PrejudgedCall | None:
        """Return the permit that the middleware has obtained for this call, while it is unused."""
        waiting = pending.get()
        if waiting is None or waiting.gate is not self or waiting.permit.entered:
            return None
        return waiting if waiting.permit.invocation.call_id == call_id else None

    async def _execute(
        self,
        permit: Permit,
        judged: ValidatedArguments,
        given: ToolInput,
        call: Callable[[BaseTool, Any], Awaitable[Any]],
    ) -> Any:
        extra = dict(given.injected)
        if self.shape.takes_call_id is not None and given.call_id is not None:
            extra[self.shape.takes_call_id] = given.call_id
        text = isinstance(given.raw, str) and not extra and len(judged.values) == 1
        token = running.set(RunningCall(permit, judged, self.shape))
        try:
            values = judged.values
            return await call(self.__sealed, next(iter(values.values())) if text else {**values, **extra})
        finally:
            running.reset(token)

    def __deepcopy__(self, _memo: object) -> Gate:
        return self

    def __copy__(self) -> Gate:
        return self

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a guarded tool cannot be pickled")

    def __repr__(self) -> str:
        return f"<Gate of {self.name}>"


class Injected:
    """A value that the application, and not the model, gives for an injected argument."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<Injected>"
