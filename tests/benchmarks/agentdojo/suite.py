"""The types of a suite, and its tools as LangChain tools that work on one environment at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

__all__ = ["Benchmark", "Call", "Function", "Injected", "InjectionTask", "Suite", "UserTask", "World"]


class Call(Protocol):
    """A call as AgentDojo's tasks write it. An argument may be another call, which stands for its result."""

    function: str
    args: MutableMapping[str, Any]


class Function(Protocol):
    """A tool of a suite. `dependencies` are the parts of the environment that it works on."""

    name: str
    description: str
    parameters: type[BaseModel]
    dependencies: Mapping[str, Any]

    def __call__(self, **arguments: Any) -> Any: ...


class UserTask(Protocol):
    """A task of a user: the prompt, the calls that do the task, and the tests that say whether it is done."""

    ID: str
    PROMPT: str
    GROUND_TRUTH_OUTPUT: str

    def init_environment(self, environment: Any) -> Any: ...
    def ground_truth(self, pre_environment: Any) -> Sequence[Call]: ...
    def utility(self, model_output: str, pre_environment: Any, post_environment: Any) -> bool: ...
    def utility_from_traces(
        self, model_output: str, pre_environment: Any, post_environment: Any, traces: Sequence[Call]
    ) -> bool | None: ...


class InjectionTask(Protocol):
    """A task of an attacker: the goal, the calls that reach it, and the tests that say whether they did."""

    ID: str
    GOAL: str

    def ground_truth(self, pre_environment: Any) -> Sequence[Call]: ...
    def security(self, model_output: str, pre_environment: Any, post_environment: Any) -> bool: ...
    def security_from_traces(
        self, model_output: str, pre_environment: Any, post_environment: Any, traces: Sequence[Call]
    ) -> bool | None: ...


class Suite(Protocol):
    """A set of user tasks and injection tasks, with the tools for them."""

    name: str
    tools: Sequence[Function]

    @property
    def user_tasks(self) -> Mapping[str, UserTask]: ...
    @property
    def injection_tasks(self) -> Mapping[str, InjectionTask]: ...


@dataclass(frozen=True)
class Injected:
    """A factory of environments: `make` puts a text at each place (one of `vectors`) that it gets."""

    make: Callable[[Mapping[str, str]], Any]
    vectors: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A suite, the factory of its environments, and the type of its calls."""

    suite: Suite
    environments: Injected
    call: Callable[..., Call]


class World:
    """The tools of a suite. They work on `environment`, which is a new one for each case.

    The tools are made once: a guard identifies a tool by its function, and denies another tool of the same
    name. `executed` holds the calls that ran since `enter`; an attempt that was denied is not among them.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        self._call = benchmark.call
        self.functions = {function.name: function for function in benchmark.suite.tools}
        self.tools = [self._tool(function) for function in benchmark.suite.tools]
        self.environment: Any = None
        self.executed: list[Call] = []

    def enter(self, environment: Any) -> None:
        """Work on this environment from now on."""
        self.environment, self.executed = environment, []

    def run(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Run a function, and return its result as a tool returns it: a text, or JSON.

        If the function raises, the result is the text of the error, as AgentDojo shows it to a model.
        """
        function = self.functions[name]
        try:
            return as_text(perform(function, arguments, self.environment))
        except Exception as error:  # noqa: BLE001  the suite's functions may raise any exception
            return f"{type(error).__name__}: {error}"

    def judged_arguments(self, call: Call) -> dict[str, Any]:
        """Return the arguments of a call as a guard sees them: with defaults, as JSON values."""
        values = self.functions[call.function].parameters.model_validate(dict(call.args))
        plain: dict[str, Any] = to_jsonable_python(values.model_dump())
        return plain

    def _tool(self, function: Function) -> BaseTool:
        def run(**arguments: Any) -> str:
            self.executed.append(self._call(function=function.name, args=to_jsonable_python(arguments)))
            return self.run(function.name, arguments)

        return StructuredTool(
            name=function.name,
            description=function.description,
            args_schema=function.parameters,
            func=run,
        )


def perform(function: Function, arguments: Mapping[str, Any], environment: Any) -> Any:
    """Run a function of a suite on an environment."""
    values = function.parameters.model_validate(to_jsonable_python(dict(arguments))).model_dump()
    parts = {name: part.extract_dep_from_env(environment) for name, part in function.dependencies.items()}
    return function(**values, **parts)


def as_text(result: Any) -> str:
    """Return a function's result as a tool returns it: a text unchanged, any other value as JSON."""
    return result if isinstance(result, str) else json.dumps(to_jsonable_python(result), ensure_ascii=False)
