"""The gate before a tool: one for each tool, used by guarded tools and by the middleware alike."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from langchain_core.tools import BaseTool

from agentguard.concurrency.drive import Operation, lift
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.guarded_call import GuardedCall
from agentguard.errors import DenialCode, Denied
from agentguard.langchain.argument_errors import schema_error
from agentguard.langchain.definition import definition_of
from agentguard.langchain.delivery import remote_tool, require_carrier
from agentguard.langchain.identification import facts_of, mcp_target
from agentguard.langchain.injection import Injected, fields_of_state
from agentguard.langchain.made_defaults import model_of, repeated
from agentguard.langchain.original import original_of
from agentguard.langchain.reach import Reach
from agentguard.langchain.run_state import state_values
from agentguard.langchain.runs import run_of
from agentguard.langchain.schema import NONE, ArgumentSchema
from agentguard.langchain.seal import RunningCall, running_call, seal
from agentguard.langchain.streams import is_runtime
from agentguard.model.quick import is_flat

__all__ = ["Gate", "Injected", "PrejudgedCall", "SealedPath", "ToolInput", "prejudged_call"]

PROOF = "agentguard_runtime"


class ToolInput(NamedTuple):
    """The input of a call, parted into what a model may give (`raw`) and what was injected.

    `state` is that of the graph, where it is known beside what was injected.
    """

    raw: str | Mapping[str, Any]
    injected: dict[str, Any]
    call_id: str | None
    config: Any
    problem: Denied | None = None
    state: object = None


class PrejudgedCall(NamedTuple):
    """A permit that the middleware has obtained for the tool behind this gate; `raw` is a copy."""

    gate: Gate
    permit: Permit
    raw: str | Mapping[str, Any]


prejudged_call: ContextVar[PrejudgedCall | None] = ContextVar("agentguard_pending", default=None)


class SealedPath(NamedTuple):
    """The flow on one path, and the sealed tool's methods for it, which await like coroutines."""

    flow: Flow
    invoke: Operation
    run: Operation


class Gate:
    """Judges each call of one tool, and opens for it once.

    The original is reachable through no public name: not in a field, a repr or a dump. In-process
    Python is no security boundary all the same; a copy of the original obtains no credential.
    """

    __slots__ = (
        "__sealed",
        "__weakref__",
        "_injector_fills",
        "_model",
        "async_",
        "definition",
        "enforcement",
        "name",
        "original",
        "remote",
        "schema",
        "spec",
        "state_arguments",
        "sync",
        "target",
        "unpinned",
    )

    def __init__(self, enforcement: Enforcement, tool: BaseTool) -> None:
        self.enforcement, self.name = enforcement, tool.name
        self.schema = ArgumentSchema(tool, enforcement.options.limits)
        self._model = model_of(tool)
        self.state_arguments = fields_of_state(tool, self.schema.names)
        self._injector_fills = self.schema.stripped | {PROOF}
        catalog, facts = enforcement.ports.catalog, facts_of(tool)
        bound = catalog.names_server(tool.name, facts)
        reach = Reach(tool, bound=bound)
        self.target, self.remote = mcp_target(tool), remote_tool(tool, reach)
        self.original = original_of(tool, self.schema.schema, reach, bound=bound)
        self.spec = catalog.attach(tool.name, self.original, facts, self.schema.schema, tool.description)
        self.schema.require(catalog.declared_schema(tool.name))
        self.definition = definition_of(tool, self.schema.schema)
        self.unpinned = catalog.unpinned(tool.name, self.definition)
        sealed = self.__sealed = seal(tool, self.schema)
        self.sync = SealedPath(enforcement.sync, lift(sealed.invoke), lift(sealed.run))
        self.async_ = SealedPath(enforcement.async_, sealed.ainvoke, sealed.arun)

    @property
    def sealed(self) -> BaseTool:
        """The executable form, which does nothing without a permit."""
        return self.__sealed

    def part(self, arguments: Mapping[str, Any] | str, call_id: str | None, config: Any) -> ToolInput:
        """Part the model's arguments from injected ones.

        An injected value counts only where a framework's injector is proved to have put it there
        (it hands over its runtime object, which no JSON of a model can be), or where the
        application marked it as `Injected`. Any other stays among the model's, and is refused. Arguments
        that cannot be read are a `problem`, which the flow tells and records.
        """
        try:
            return self._part(arguments, call_id, config)
        except Exception as error:  # noqa: BLE001  a caller's arguments may be any object
            reason = f"the arguments cannot be read: {type(error).__name__}"
            problem = Denied.of(DenialCode.INVALID_ARGUMENTS, reason)
            return ToolInput({}, {}, call_id, config, problem)

    def _part(self, arguments: Mapping[str, Any] | str, call_id: str | None, config: Any) -> ToolInput:
        if isinstance(arguments, str):
            return ToolInput(arguments, {}, call_id, config, self._missing({}, call_id))
        fillable = self._injector_fills & arguments.keys()
        if not fillable and type(arguments) is dict and is_flat(arguments) and not self.schema.overlap:
            return ToolInput(arguments.copy(), {}, call_id, config, self._missing({}, call_id))
        proved = self.prejudged(call_id) is not None or (
            bool(fillable) and any(is_runtime(arguments[name]) for name in fillable)
        )
        raw, injected, state = {}, {}, None
        hidden, fills = self.schema.injected, self.schema.stripped if proved else NONE
        for name, value in arguments.items():
            if name == PROOF and proved:
                state = getattr(value, "state", None)
                continue
            if isinstance(value, Injected):
                injected[name] = value.value
            elif name in fills or (name in hidden and is_runtime(value)):
                injected[name] = value
            elif value is not None or not self.schema.says_nothing(name, value):
                raw[name] = value
        return ToolInput(raw, injected, call_id, config, self._missing(injected, call_id), state)

    def _missing(self, injected: Mapping[str, Any], call_id: str | None) -> Denied | None:
        if not self.schema.required:
            return None
        present = injected.keys() if call_id is None else {*injected, self.schema.takes_call_id}
        if missing := sorted(self.schema.required - present):
            reason = f"nothing was injected for {', '.join(missing)}"
            return Denied.of(DenialCode.INVALID_ARGUMENTS, reason)
        return None

    def invocation(self, tool_input: ToolInput) -> Invocation:
        """Validate the arguments; the flow tells what is wrong with them, and records it.

        The `__cause__` of the `problem` is the tool's own validation error, if there is one.
        """
        run = run_of(tool_input.config)
        problem = run.problem or tool_input.problem
        validated, spec = None, self.spec
        arguments, injected = self.state_arguments, tool_input.injected
        try:
            if self.unpinned:
                reason = f"{self.name} was not reviewed as it is: {'; '.join(self.unpinned)}"
                raise Denied.of(DenialCode.DEFINITION_CHANGED, reason)
            if spec is None:  # a guard may classify a tool after it was wrapped
                catalog = self.enforcement.ports.catalog
                spec = catalog.tool(self.name)
                self.schema.require(catalog.declared_schema(self.name))
            elif spec.facts is not (current := self.enforcement.ports.catalog.current(spec)).facts:
                spec = self.spec = current  # a fact was declared after the tool was wrapped
            validated = self.schema.validate(tool_input.raw)
            if self.remote is not None and spec is not None:
                resource = self.enforcement.ports.catalog.resource(spec.resource)
                require_carrier(self.name, self.remote, resource)
        except Denied as denied:
            problem = denied
        except Exception as error:  # noqa: BLE001  validators are the application's code
            problem = schema_error(error, self.schema.schema)
        return Invocation(
            tool=self.name,
            spec=spec,
            arguments=None if validated is None else validated.arguments,
            values={} if validated is None else validated.values,
            validate_again=partial(repeated, self.schema, self._model, tool_input.raw),
            problem=problem,
            call_id=tool_input.call_id,
            thread_id=run.step.thread,
            place=run.step.place,
            named_task=run.task,
            state=partial(state_values, arguments, injected, tool_input.state) if arguments else None,
        )

    def entrance(self, flow: Flow, tool_input: ToolInput) -> Entrance:
        """Return the way into the sealed tool for one call, as an asynchronous context manager."""
        return Entrance(self, flow, tool_input)

    def prejudged(self, call_id: str | None) -> PrejudgedCall | None:
        """Return the permit that the middleware has obtained for this call, while it is unused."""
        call = prejudged_call.get()
        if call is None or call.gate is not self or call.permit.entered:
            return None
        return call if call.permit.invocation.call_id == call_id else None

    def without_tool(self) -> Gate:
        """Return a gate that reads calls as this one, and opens for none. It keeps no tool alive."""
        gate = object.__new__(Gate)
        for name in ("enforcement", "name", "schema", "spec", "unpinned", "_model", "state_arguments"):
            setattr(gate, name, getattr(self, name))
        gate.remote = None
        return gate

    def __deepcopy__(self, _memo: object) -> Gate:
        return self

    def __copy__(self) -> Gate:
        return self

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a guarded tool cannot be pickled")

    def __repr__(self) -> str:
        return f"<Gate of {self.name}>"


class Entrance:
    """The way into one sealed tool, for one call: by the middleware's permit, or by one of its own.

    Entering returns what the sealed tool is to be called with. It raises Denied if the call is not permitted.
    `prejudged` says that the permit is the middleware's, who then answers and records what goes wrong.
    """

    __slots__ = ("_call", "_gate", "_input", "_token", "prejudged")
    _token: Token[RunningCall | None]

    def __init__(self, gate: Gate, flow: Flow, tool_input: ToolInput) -> None:
        self._gate, self._input = gate, tool_input
        self.prejudged = gate.prejudged(tool_input.call_id)
        self._call: GuardedCall | None = None
        if self.prejudged is None:
            self._call = GuardedCall(flow, gate.invocation(tool_input))

    async def __aenter__(self) -> Any:
        permit = self._prejudged_permit() if self._call is None else await self._call.__aenter__()
        gate = self._gate
        threads = gate.enforcement.results
        call = RunningCall(permit, gate.schema, threads, gate.target, gate.remote is not None)
        self._token = running_call.set(call)
        return self._arguments(permit.invocation.values)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        running_call.reset(self._token)
        if self._call is not None:
            await self._call.__aexit__(kind, error, traceback)

    def _prejudged_permit(self) -> Permit:
        assert self.prejudged is not None  # noqa: S101  there is one of the two
        if self._input.problem is not None:
            raise self._input.problem
        if not _equal(self._input.raw, self.prejudged.raw):
            raise Denied.of(DenialCode.ARGUMENTS_CHANGED, "the arguments are not those that were judged")
        permit, tool_input = self.prejudged.permit, self._input
        # an inner middleware can have replaced it
        permit.require_state(state_values(self._gate.state_arguments, tool_input.injected, tool_input.state))
        return permit

    def _arguments(self, values: Mapping[str, Any]) -> Any:
        injected, takes_call_id = self._input.injected, self._gate.schema.takes_call_id
        if takes_call_id is not None and self._input.call_id is not None:
            injected = {**injected, takes_call_id: self._input.call_id}
        if isinstance(self._input.raw, str) and not injected and len(values) == 1:
            return next(iter(values.values()))
        return {**values, **injected}


def _equal(arguments: Any, judged: Any) -> bool:
    try:
        return bool(arguments == judged)
    except Exception:  # noqa: BLE001  a value that refuses to be compared, or is nested too deep, is another one
        return False
