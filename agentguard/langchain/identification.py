"""Where a tool comes from: the MCP server that offers it, and who has classified it.

langchain-mcp-adapters makes a function for a tool each time that it loads it, and writes into its
metadata what the server says of it. A server does not classify its tools. So a classification is known by
its class, which no JSON, and so no server, can give to a value.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from types import FunctionType
from typing import Any, NamedTuple, final

from langchain_core.tools import BaseTool

from agentguard.model.original import Itself, Original, Parts

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
    "place_of_own",
    "place_of_target",
    "transport_of",
]

METADATA_KEY = "agentguard"
ADAPTER = "langchain_mcp_adapters.tools"
UNNAMED = "unknown"
"""What langchain-mcp-adapters gives an interceptor where the application has named no server."""
OWN_ADAPTER = "langchain.mcp.tools"  # langchain's own, of 1.5
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


def is_target_of(original: Original, target: McpTarget) -> bool:
    """Return whether *original* is the tool that *target* calls, in the same session if it has one."""
    if original.session not in (None, Itself(target.session)):
        return False
    return original.definition[-1:] == (place_of_target(target),)


def place_of_target(target: McpTarget) -> Parts:
    """Return the place of a server and the name of a tool.

    A session shows no place. The name that the application gives its server stands for the place then, so
    that a session may be opened for each request. A session without such a name stands for itself.
    """
    connection = target.connection
    if target.session is not None and target.server != UNNAMED:
        return ("mcp", target.server, "session", target.tool)
    if target.session is not None or not isinstance(connection, Mapping):
        return ("mcp", target.server, Itself(target.session or connection), target.tool)
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


def place_of_own(body: object) -> Parts:
    """Return the URL of the server and the name of a tool of `langchain.mcp`; nothing if there is no URL."""
    if _module(body) != OWN_ADAPTER:
        return ()
    adapted = inspect.getclosurevars(body).nonlocals  # type: ignore[arg-type]  # it is a function
    url, tool = getattr(transport_of(adapted), "url", None), adapted.get("tool")
    return ("mcp", url, tool.name) if isinstance(url, str) and tool is not None else ()


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


def _adapted(body: Any) -> Mapping[str, Any]:
    """Return what langchain-mcp-adapters keeps for a tool that it has made; of any other, nothing."""
    return inspect.getclosurevars(body).nonlocals if _module(body) == ADAPTER else {}
