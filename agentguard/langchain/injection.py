"""Which arguments of a tool the framework fills from the state of its graph, and not the model.

langgraph's ToolNode reads the annotations of a tool's function and of its schema. It fills what is marked
with `InjectedState` or a `ToolRuntime`, a subclass or a parametrized form of one, and whatever is named
``runtime``. Here the same marks count, and wherever they may stand: in any type, behind a partial, an object
with `__call__`, a decorator or the name of a type. So what a ToolNode injects is always found, and an
annotation that no ToolNode reads may count too. Where nobody can say what a mark of the application, or an
annotation that cannot be resolved, asks for, it asks for the whole state.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NewType, Union, get_args, get_origin, get_type_hints

from langchain_core.tools import BaseTool
from langchain_core.tools.base import get_all_basemodel_annotations
from pydantic import BaseModel

from agentguard.langchain.identification import is_adapted

__all__ = ["Injected", "described", "fields_of_state", "filled_by_a_node", "takes_runtime"]

DEPTH = 20
_OF_LANGCHAIN = frozenset({"return", "config", "run_manager", "callbacks"})  # given by it, and no state
_BY_A_NODE = frozenset({"InjectedState", "InjectedStore", "ToolRuntime"})
_UNKNOWN: Any = object()  # an annotation that cannot be resolved
Fields = dict[str, str | None]


def fields_of_state(tool: BaseTool, visible: Iterable[str]) -> Fields:
    """Return the arguments that are filled from the state, each with its field, or None for all of it.

    *visible* names the arguments that a model gives.
    """
    fields: dict[str, set[str | None]] = {}
    injected, unresolved = (
        {*tool._injected_args_keys},
        set[str](),
    )  # not public, and the only place that knows
    for name, hint in _hints(tool):
        if hint is _UNKNOWN:
            unresolved.add(name)
            continue
        injected.discard(name)
        if parts := {None} if name == "runtime" else _parts(hint):
            fields.setdefault(name, set()).update(parts)
    for name in (unresolved | injected) - _OF_LANGCHAIN - {*visible}:
        fields[name] = {None}
    return {name: next(iter(parts)) if len(parts) == 1 else None for name, parts in fields.items()}


def filled_by_a_node(annotations: Mapping[str, Any]) -> frozenset[str]:
    """Return the arguments of a schema that a ToolNode fills, whether or not the model is shown them.

    langchain shows ``Optional[Annotated[dict, InjectedState]]`` and other unions with a mark in them, and a
    ToolNode fills them all the same. A mark is looked for exactly where a ToolNode looks: what it does not
    fill is the model's.
    """
    return frozenset(name for name, hint in annotations.items() if any(map(_is_filled, _outer(hint))))


def _is_filled(part: Any) -> bool:
    """Return whether a part of an annotation has a mark where a ToolNode looks for it."""
    if not _BY_A_NODE.isdisjoint(_class_names(part)):
        return True
    origin = get_origin(part)
    if origin is Union or origin is Annotated:
        return any(map(_is_filled, get_args(part)))
    return isinstance(origin, type) and not _BY_A_NODE.isdisjoint(_class_names(origin))


def _outer(hint: Any) -> tuple[Any, ...]:
    return (hint, *get_args(hint))


def takes_runtime(hint: Any) -> bool:
    """Whether a ToolNode fills an argument with this annotation with its runtime."""
    return any("ToolRuntime" in _class_names(mark) for mark in _marks(hint, DEPTH))


def described(body: Any) -> Any:
    """Return the function whose annotations describe a partial, or an object with `__call__`."""
    if isinstance(body, functools.partial):
        return described(body.func)
    return body if inspect.isroutine(body) else type(body).__call__


def _hints(tool: BaseTool) -> Iterator[tuple[str, Any]]:
    """Yield the name and the annotation of each argument, of each function that a call may run into."""
    methods = [m for m in (tool._run, tool._arun) if not m.__module__.startswith("langchain_core.")]
    for body in (getattr(tool, "func", None), getattr(tool, "coroutine", None), *methods):
        # that of an MCP tool hands its runtime to interceptors, and nothing of it to the server
        if body is not None and not is_adapted(body):
            for function in _layers(body):
                yield from _resolved(function).items()
    if isinstance(tool.args_schema, dict) and type(tool).get_input_schema is BaseTool.get_input_schema:
        return  # it would make a model that says nothing of the arguments
    schema = tool.get_input_schema()
    if issubclass(schema, BaseModel):
        yield from get_all_basemodel_annotations(schema).items()


def _layers(body: Any) -> Iterator[Any]:
    """Yield what describes *body*, and what the decorators around it name as wrapped."""
    for _ in range(DEPTH):
        body = described(body)
        yield body
        if (body := getattr(body, "__wrapped__", None)) is None or is_adapted(body):
            return


def _resolved(function: Any) -> dict[str, Any]:
    """Return the annotations of a function. An argument without one is among them, as of any type."""
    annotations = dict.fromkeys(_parameters(function), Any)
    annotations |= getattr(function, "__annotations__", {})
    try:
        return annotations | get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001  annotations may name anything
        scope = getattr(inspect.unwrap(function), "__globals__", {})
        return {name: _alone(name, annotation, scope) for name, annotation in annotations.items()}


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function, follow_wrapped=False).parameters)
    except (ValueError, TypeError):  # a function of an extension
        return ()


def _alone(name: str, annotation: Any, scope: dict[str, Any]) -> Any:
    """Resolve one annotation, where another one of the function cannot be resolved."""

    def stand_in() -> None: ...

    stand_in.__annotations__ = {name: annotation}
    try:
        return get_type_hints(stand_in, scope, include_extras=True)[name]
    except Exception:  # noqa: BLE001  annotations may name anything
        return _UNKNOWN


def _parts(hint: Any) -> set[str | None]:
    """Return the fields of the state that an annotation asks for; None among them is the whole state.

    A mark in a type within the annotation asks for the whole state, as a ToolNode reads it.
    """
    outer = _outer(hint)
    parts = set[str | None]()
    for mark in _marks(hint, DEPTH):
        names = _class_names(mark)
        if "InjectedState" in names:
            field = getattr(mark, "field", None)
            parts.add(field if isinstance(field, str) and field and mark in outer else None)
        elif "ToolRuntime" in names or _is_of_the_application(names):
            parts.add(None)
    return parts


def _is_of_the_application(names: list[str]) -> bool:
    """Whether this is a mark of the application. `InjectedToolArg` itself marks what it gives directly."""
    if "InjectedStore" in names or "InjectedToolCallId" in names:
        return False
    return "InjectedToolArg" in names[1:] or "_DirectlyInjectedToolArg" in names


def _marks(hint: Any, depth: int) -> Iterator[Any]:
    """Yield an annotation and all that stands in it."""
    yield hint
    parts = [get_origin(hint), *get_args(hint)]
    if isinstance(hint, NewType):
        parts.append(hint.__supertype__)
    elif type(hint).__name__ == "TypeAliasType":
        parts.append(hint.__value__)
    for part in parts:
        if part is not None and depth:
            yield from _marks(part, depth - 1)


def _class_names(mark: Any) -> list[str]:
    """Return the names of the class that a mark is, or is an object of, and of its bases."""
    return [base.__name__ for base in (mark if isinstance(mark, type) else type(mark)).__mro__]


class Injected:
    """A value that the application, and not the model, gives for an injected argument."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<Injected>"
