"""Where a tool comes from: what it is known by when it is wrapped again, and who has classified it.

langchain-mcp-adapters makes a function for a tool each time that it loads it, and writes into its
metadata what the server says of it. A server does not classify its tools. So a classification is known by
its class, which no JSON, and so no server, can give to a value.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any, NamedTuple, final

from langchain_core.tools import BaseTool

from agentguard.errors import ConfigurationError

__all__ = [
    "METADATA_KEY",
    "OWN_ADAPTER",
    "UNNAMED",
    "Classification",
    "McpTarget",
    "classified",
    "facts_of",
    "is_adapted",
    "is_target_of",
    "mcp_target",
    "mcp_tool_of",
    "original_of",
    "require_server",
    "transport_of",
]

METADATA_KEY = "agentguard"
ADAPTER = "langchain_mcp_adapters.tools"
UNNAMED = "unknown"
"""What langchain-mcp-adapters gives an interceptor where the application has named no server."""
OWN_ADAPTER = "langchain.mcp.tools"  # langchain's own, of 1.5
FRAMEWORKS = frozenset(
    {"functools", "langchain", "langchain_classic", "langchain_core", "langchain_mcp_adapters", "langgraph"}
)
log = logging.getLogger("agentguard")


@final
class Classification(dict[str, Any]):
    """What the application says that a tool is; made by `classified` and by `guard.tool`.

    It is a dict, because tracers and event streams write a tool's metadata as JSON.
    """

    def __init_subclass__(cls) -> None:
        raise TypeError("a classification has no subclass: it is known by its class")


def classified(**facts: Any) -> Classification:
    """Return a classification for the metadata of a tool that is wrapped later, or that the middleware meets.

    ``tool.metadata = {"agentguard": agentguard.classified(path="read", resource="orders")}``

    It takes what ``[tools.name]`` in agentguard.toml takes; the file has precedence. A plain dict in its
    place is ignored with a warning, since a dict in the metadata of an MCP tool is what its server says.
    The facts are checked by `guard.wrap` and the middleware, and not here.
    """
    return Classification(facts)


class McpTarget(NamedTuple):
    """Where the function that langchain-mcp-adapters made for a tool sends the tool's calls.

    A call goes to `session` if there is one, and else to a session that is opened at `connection`. `tool` and
    `server` are the names that an `MCPToolCallRequest` of this tool has.
    """

    tool: str
    server: str
    connection: object
    session: object


def mcp_target(tool: BaseTool) -> McpTarget | None:
    """Return where an MCP tool sends its calls; None for any other tool.

    A decorator of the application around the adapter's function is looked through if it was made with
    `functools.wraps`. Any other decorator hides the function, and the tool counts as no MCP tool.
    """
    return _target(getattr(tool, "coroutine", None))


def is_adapted(body: object) -> bool:
    """Return whether this is the function itself that langchain-mcp-adapters made for a tool."""
    return _read_target(_adapted(body)) is not None


def mcp_tool_of(tool: BaseTool) -> Any:
    """Return what the server offered as this tool, an ``mcp.types.Tool``; None for any other tool."""
    body: Any = getattr(tool, "coroutine", None)
    return None if _target(body) is None else _adapted(inspect.unwrap(body))["tool"]


def is_target_of(original: object, target: McpTarget) -> bool:
    """Return whether *original*, as `original_of` has returned it, is the tool that *target* calls."""
    if isinstance(original, tuple):
        return original == _place(target)
    other = _target(original)
    if other is None or other.session is not target.session:
        return False
    return other[:2] == target[:2] and _place(other) == _place(target)


def require_server(tool: str, target: McpTarget | None, server: str | None) -> None:
    """Refuse an MCP tool of another server than the catalog gives.

    Raises:
        ConfigurationError: It is another server's tool.
    """
    if target is not None and server is not None and target.server != server:
        raise ConfigurationError(
            f"{tool} is a tool of the MCP server {server}, and not of {target.server}",
            hint=f"correct the server of [tools.{tool}], or name the servers of the client as it does",
        )


def original_of(tool: BaseTool, schema: Mapping[str, Any]) -> object:
    """Return what runs, by which a tool that is wrapped again, or made anew for a request, is the same tool.

    That is the place of the definition in the application's code, and *schema*, that of the arguments. What a
    closure or an object holds, such as the user of a request, makes no other tool. A function that a
    framework defines stands for anything, so there it is the object itself. Of a tool from
    langchain-mcp-adapters it is the server's place and the tool's name, unless a session stands in their
    stead; so it is of a tool from `langchain.mcp` whose server has a URL.
    """
    body = _body(tool)
    target = _read_target(_adapted(body))
    if target is not None:
        return _place(target) or body
    if _module(body) == OWN_ADAPTER:
        return _own_place(inspect.getclosurevars(body).nonlocals) or body
    definition = _definition(body)
    return body if definition is None else (*definition, json.dumps(schema, sort_keys=True, default=repr))


def _definition(body: Any) -> tuple[object, ...] | None:
    """Return where the application defines what runs; None if a framework does, or nobody can say."""
    if isinstance(body, MethodType):
        return None if _is_foreign(type(body.__self__)) else (type(body.__self__), *_functions(body.__func__))
    if isinstance(body, FunctionType):
        functions = _functions(body)
        return None if _is_foreign(functions[-1]) else tuple(functions)
    return None if _is_foreign(type(body)) or not isinstance(body, BaseTool) else (type(body),)


def _functions(function: Any) -> list[Any]:
    """Return the code of a function, and of those that its decorators name as wrapped by them."""
    functions = list[Any]()
    while isinstance(function, FunctionType) and len(functions) < 20:
        functions.append(function)
        function = getattr(function, "__wrapped__", None)
    return [*(f.__code__ for f in functions), functions[-1].__module__]


def _is_foreign(definition: Any) -> bool:
    module = definition if isinstance(definition, str) else getattr(definition, "__module__", None)
    return str(module or "").partition(".")[0] in FRAMEWORKS


def _place(target: McpTarget) -> tuple[object, ...] | None:
    """Return the place of a server and the name of a tool; None where a session stands in their stead."""
    connection = target.connection
    if target.session is not None or not isinstance(connection, Mapping):
        return None
    place = tuple(str(connection.get(name)) for name in ("transport", "url", "command", "args", "cwd"))
    return ("mcp", target.server, *place, target.tool)


def transport_of(adapted: Mapping[str, Any]) -> object:
    """Return how a tool of `langchain.mcp` reaches its server, as far as fastmcp shows it.

    *adapted* is what the adapter keeps for the tool.
    """
    client = adapted.get("client")
    if isinstance(
        getattr(client, "clients", None), Mapping
    ):  # a ClientGroup: the member that serves the tool
        name = getattr(adapted.get("tool"), "name", None)
        client = getattr(getattr(client, "_tool_routes", {}).get(name), "client", None)
    transport = getattr(client, "transport", None)
    # that of a configuration with one server stands around the transport to it
    return getattr(transport, "transport", transport)


def _own_place(adapted: Mapping[str, Any]) -> tuple[object, ...] | None:
    url, tool = getattr(transport_of(adapted), "url", None), adapted.get("tool")
    return ("mcp", url, tool.name) if isinstance(url, str) and tool is not None else None


def _module(body: object) -> object:
    """Return the module in which a function was defined: a decorator copies `__module__` from another."""
    return body.__globals__.get("__name__") if isinstance(body, FunctionType) else None


def facts_of(tool: BaseTool) -> Classification | None:
    """Return the classification that the application has written into the tool's metadata, if any.

    Only an object of the class `Classification` is one. Of anything else under the key, from a server, a
    file or the application itself, a warning is logged.
    """
    facts = (tool.metadata or {}).get(METADATA_KEY)
    if type(facts) is Classification:
        return facts
    if facts is not None:
        log.warning(
            "tool %s: its metadata classifies it and is ignored: use guard.tool, agentguard.classified or "
            "agentguard.toml",
            tool.name,
        )
    return None


def _target(body: object) -> McpTarget | None:
    try:
        return _read_target(_adapted(inspect.unwrap(body) if callable(body) else body))
    except ValueError:  # `__wrapped__` leads back to where it began
        return None


def _read_target(adapted: Mapping[str, Any]) -> McpTarget | None:
    if not {"tool", "server_name", "connection", "session"} <= adapted.keys():
        return None
    server = adapted["server_name"] or UNNAMED
    return McpTarget(adapted["tool"].name, server, adapted["connection"], adapted["session"])


def _body(tool: BaseTool) -> Any:
    return getattr(tool, "func", None) or getattr(tool, "coroutine", None) or tool


def _adapted(body: Any) -> Mapping[str, Any]:
    """Return what langchain-mcp-adapters keeps for a tool that it has made; of any other, nothing."""
    return inspect.getclosurevars(body).nonlocals if _module(body) == ADAPTER else {}
