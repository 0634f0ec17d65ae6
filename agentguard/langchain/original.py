"""Where a tool is defined, by which a tool that is made anew for each request is the same tool.

What a closure or an object holds, such as the user of a request, makes no other tool. A function that a
closure holds does: a decorator may put one function before many others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from langchain_core.tools import BaseTool

from agentguard.langchain.identification import (
    UNNAMED,
    McpTarget,
    mcp_target,
    place_of_own,
    place_of_target,
)
from agentguard.model.original import Itself, Original, Parts, without_words

__all__ = ["is_foreign", "original_of"]

FRAMEWORKS = frozenset(
    {"functools", "langchain", "langchain_classic", "langchain_core", "langchain_mcp_adapters", "langgraph"}
)
TOOLS = "langchain.agents.middleware"  # what a framework defines here is a tool, and no form for any function
HEAP = 1 << 9  # the flag of a class that Python code has made
LIBRARIES = FRAMEWORKS | {"abc", "builtins", "pydantic", "typing"}


def original_of(tool: BaseTool, schema: Mapping[str, Any]) -> Original:
    """Return what runs, by which a tool that is wrapped again, or made anew for a request, is the same tool.

    That is the place of the definition, and *schema*, that of the arguments. A function that a framework
    defines stands for anything, so there it is the object itself. Of a tool from langchain-mcp-adapters it is
    the server's place and the tool's name. Of one that was loaded in a session it is the server's name, the
    tool's name and *schema*; without a server's name it is the session itself. So it is of a tool from
    `langchain.mcp` whose server has a URL.
    """
    body, target = _body(tool), mcp_target(tool)
    if target is not None:
        decorators = (part for layer in list(_layers(body))[:-1] for part in _code(layer))
        return _original_at((*decorators, place_of_target(target)), target, schema)
    if place := place_of_own(body):
        return Original(place, "", f"{place[-1]} of the MCP server at {place[1]}")
    definition = _definition(body, set()) or _itself(body)
    module, qualname, line = _place(body)
    place_and_line = f"{qualname} at {line}" if line else qualname
    return Original(definition, _text(schema), place_and_line, module, qualname)


def _original_at(definition: Parts, target: McpTarget, schema: Mapping[str, Any]) -> Original:
    """Return what runs for a tool of langchain-mcp-adapters."""
    words = f"{target.tool} of the MCP server {target.server}"
    if target.session is None:
        return Original(definition, "", words, server=target.server)
    if target.server == UNNAMED:
        words = f"{words}, in a session of its own: give load_mcp_tools a server_name"
    session = Itself(target.session)
    return Original(definition, _text(schema), words, server=target.server, session=session)


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(without_words(schema), sort_keys=True, default=repr)


def _body(tool: BaseTool) -> Any:
    """Return what a tool calls: its function, or the tool itself."""
    return getattr(tool, "func", None) or getattr(tool, "coroutine", None) or tool


def _itself(body: Any) -> Parts:
    return (body.__func__, Itself(body.__self__)) if isinstance(body, MethodType) else (Itself(body),)


def _definition(body: Any, visited: set[int]) -> Parts:
    """Return where the application defines what runs; nothing if a framework does, or nobody can say.

    *visited* are the functions that are known already: two functions may hold each other.
    """
    if isinstance(body, partial):
        functions = _functions((*body.args, *body.keywords.values()), visited)
        inner = _definition(body.func, visited)
        return inner and (len(body.args), *sorted(body.keywords), *functions, *inner)
    if isinstance(body, MethodType):
        kind = type(body.__self__)
        if is_foreign(kind.__module__):
            return ()
        return (*_class(kind), *_function(body.__func__, visited))
    if isinstance(body, FunctionType):
        return () if is_foreign(_module(_inner_function(body))) else _function(body, visited)
    kind = type(body)
    if is_foreign(kind.__module__):
        return ()
    if isinstance(body, BaseTool):
        names = sorted(kind.model_fields.keys() - BaseTool.model_fields.keys())
        return (*_class(kind), *_functions((getattr(body, name, None) for name in names), visited))
    return _class(kind) if callable(body) and kind.__flags__ & HEAP else ()


def _function(function: Any, visited: set[int]) -> Parts:
    """Return the places of a function, of those that its decorators name, and of those that it holds."""
    layers = list(_layers(function))
    visited |= set(map(id, layers))
    contents = (value for layer in layers for value in _contents(layer.__closure__ or ()))
    return (*(part for layer in layers for part in _code(layer)), *_functions(contents, visited))


def _functions(values: Iterable[Any], visited: set[int]) -> Parts:
    """Return the places of those of these values that are functions."""
    functions = [value for value in values if isinstance(value, FunctionType | MethodType | partial)]
    return tuple(_definition(function, visited) for function in functions if id(function) not in visited)


def _contents(cells: Iterable[CellType]) -> Iterator[Any]:
    for cell in cells:
        try:
            yield cell.cell_contents
        except ValueError:  # the cell is not filled yet
            continue


def _class(kind: type) -> Parts:
    """Return the place of a class, also of one that is made for a request, and not the class itself."""
    members = (getattr(member, "__func__", member) for _, member in sorted(vars(kind).items()))
    codes = [_code(member) for member in members if isinstance(member, FunctionType)]
    bases = [_class(base) for base in kind.__bases__ if _package(base.__module__) not in LIBRARIES]
    return (kind.__module__, kind.__qualname__, *codes, *bases)


def _code(function: FunctionType) -> Parts:
    return (_module(function), function.__code__.co_filename, function.__code__)


def _layers(function: Any) -> Iterator[FunctionType]:
    """Yield a function, and those that its decorators name as wrapped by them."""
    for _ in range(20):
        if not isinstance(function, FunctionType):
            return
        yield function
        function = getattr(function, "__wrapped__", None)


def _inner_function(function: Any) -> Any:
    return [function, *_layers(function)][-1]


def _module(function: Any) -> str:
    # `__module__` says nothing: a decorator copies it from the function that it is put around
    return str(getattr(function, "__globals__", {}).get("__name__") or getattr(function, "__module__", ""))


def _package(module: object) -> str:
    return str(module or "").partition(".")[0]


def is_foreign(module: object) -> bool:
    """Return whether a framework's module defines functions that stand for anything."""
    return _package(module) in FRAMEWORKS and not str(module).startswith(TOOLS)


def _place(body: Any) -> tuple[str, str, str]:
    """Return the module and the qualified name of a definition, and its file and line if it has one."""
    while isinstance(body, partial):
        body = body.func
    function = _inner_function(getattr(body, "__func__", body))
    if isinstance(function, FunctionType):
        return *_names(body, function), _line([function.__code__])
    kind = type(body)
    codes = [member.__code__ for member in vars(kind).values() if isinstance(member, FunctionType)]
    inside = [code for code in codes if code.co_qualname.startswith(kind.__qualname__)]
    return kind.__module__, kind.__qualname__, _line(inside)


def _names(body: Any, function: FunctionType) -> tuple[str, str]:
    """Return the module and the name of a function; of a method those of its object's class."""
    if isinstance(body, MethodType) and not isinstance(body.__self__, type):
        kind = type(body.__self__)
        return kind.__module__, f"{kind.__qualname__}.{function.__name__}"
    return _module(function), function.__qualname__


def _line(codes: Iterable[CodeType]) -> str:
    first = min(codes, key=lambda code: code.co_firstlineno, default=None)
    return "" if first is None else f"{first.co_filename}:{first.co_firstlineno}"
