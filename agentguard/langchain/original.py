"""Where a tool is defined, by which a tool that is made anew for each request is the same tool.

What a closure or an object holds, such as the user of a request, makes no other tool. A function that it
holds does: a decorator may put one function before many others. `agentguard.langchain.reach` finds it.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from langchain_core.tools import BaseTool

from agentguard.langchain.identification import (
    UNNAMED,
    McpTarget,
    adapted_by,
    mcp_target,
    place_of_target,
)
from agentguard.langchain.objects import module_of
from agentguard.langchain.reach import Reach, body_of
from agentguard.model.original import Filled, Itself, Original, Parts, without_words

__all__ = ["original_of"]


def original_of(
    tool: BaseTool, schema: Mapping[str, Any], reach: Reach | None = None, *, bound: bool = False
) -> Original:
    """Return what runs, by which a tool that is wrapped again, or made anew for a request, is the same tool.

    That is what *reach* says of the tool, and *schema*, that of the arguments. Of an MCP tool it is the
    server's place, the tool's name and the code around it. Of one that was loaded in a session it is the
    server's name, the tool's name and *schema*; without a server's name it is the session itself. With
    *bound*, the catalog gives the tool's server, and a server may have a URL for each user.
    """
    reach = Reach(tool, bound=bound) if reach is None else reach
    before = partial(_before, weakref.ref(tool), schema, bound)
    return replace(_original(tool, schema, reach, bound), filled=tuple(reach.filled), before=before)


def _before(
    reference: weakref.ref[BaseTool], schema: Mapping[str, Any], bound: bool, filled: tuple[Filled, ...]
) -> Original | None:
    tool = reference()
    return None if tool is None else _original(tool, schema, Reach(tool, bound=bound, former=filled), bound)


def _original(tool: BaseTool, schema: Mapping[str, Any], reach: Reach, bound: bool) -> Original:
    body, target, server = body_of(tool), mcp_target(tool), _server(tool, reach)
    if target is not None:
        return _original_at((reach.definition, place_of_target(target, bound=bound)), target, schema, server)
    if adapted := adapted_by(body):
        words = f"{adapted.nonlocals['tool'].name} of the MCP server {adapted.server}"
        return Original(reach.definition, "", words, server=server)
    module, qualname, line = _place(body)
    place_and_line = f"{qualname} at {line}" if line else qualname
    return Original(reach.definition, _text(schema), place_and_line, module, qualname, server=server)


def _server(tool: BaseTool, reach: Reach) -> str | None:
    """Return the name of the MCP server that each function of a tool calls; None if one calls none."""
    functions = [f for f in (getattr(tool, "func", None), getattr(tool, "coroutine", None)) if f is not None]
    servers = _servers(reach)
    if servers and len(functions) > 1:
        by_function = [_servers(Reach(function)) for function in functions]
        servers = servers if all(by_function) else set()
    return " and ".join(sorted(servers)) or None


def _servers(reach: Reach) -> set[str]:
    return {adapted.server for part in reach.objects if (adapted := adapted_by(part))}


def _original_at(
    definition: Parts, target: McpTarget, schema: Mapping[str, Any], server: str | None
) -> Original:
    """Return what runs for a tool of langchain-mcp-adapters."""
    words = f"{target.tool} of the MCP server {target.server}"
    if target.session is None:
        return Original(definition, "", words, server=server)
    if target.server == UNNAMED:
        words = f"{words}, in a session of its own: give load_mcp_tools a server_name"
    session = Itself(target.session)
    return Original(definition, _text(schema), words, server=server, session=session)


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(without_words(schema), sort_keys=True, default=repr)


def _layers(function: Any) -> Iterator[FunctionType]:
    """Yield a function, and those that its decorators name as wrapped by them."""
    for _ in range(20):
        if not isinstance(function, FunctionType):
            return
        yield function
        function = getattr(function, "__wrapped__", None)


def _inner_function(function: Any) -> Any:
    return [function, *_layers(function)][-1]


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
    return module_of(function), function.__qualname__


def _line(codes: Iterable[CodeType]) -> str:
    first = min(codes, key=lambda code: code.co_firstlineno, default=None)
    return "" if first is None else f"{first.co_filename}:{first.co_firstlineno}"
