"""Where a tool comes from: the MCP server that offers it, and who has classified it.

langchain-mcp-adapters makes a function for a tool each time that it loads it, and writes into its
metadata what the server says of it. A server does not classify its tools. So a classification is known by
its class, which no JSON, and so no server, can give to a value.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from hashlib import sha256
from types import FunctionType
from typing import Any, NamedTuple, final

import httpx
from langchain_core.tools import BaseTool

from agentguard.langchain.objects import closure_of
from agentguard.model.original import Itself, Original, Parts
from agentguard.outbound.destinations import origin_of

__all__ = [
    "ADAPTER",
    "METADATA_KEY",
    "OWN_ADAPTER",
    "UNNAMED",
    "Adapted",
    "Classification",
    "McpTarget",
    "adapted_by",
    "classified",
    "facts_of",
    "is_adapted",
    "is_target_of",
    "mcp_target",
    "mcp_tool_of",
    "place_of_adapted",
    "place_of_target",
    "transport_of",
]

METADATA_KEY = "agentguard"
ADAPTER = "langchain_mcp_adapters.tools"
UNNAMED = "unknown"
"""What langchain-mcp-adapters gives an interceptor where the application has named no server."""
OWN_ADAPTER = "langchain.mcp.tools"  # langchain's own, of 1.5
# what each adapter keeps for a tool that it has made, by the module of the tool's function
_KEPT = {ADAPTER: {"tool", "server_name", "connection", "session"}, OWN_ADAPTER: {"client", "tool"}}
# words in the names of variables whose values are secrets or a user's
_PERSONAL = frozenset(
    {
        *("ACCESS", "ACCOUNT", "APIKEY", "AUTH", "AUTHORIZATION", "BEARER", "COOKIE", "CREDENTIAL"),
        *("CREDENTIALS", "CUSTOMER", "EMAIL", "JWT", "KEY", "LOGIN", "PASS", "PASSWD", "PASSWORD", "PAT"),
        *("SECRET", "SESSION", "TENANT", "TOKEN", "TRACEPARENT", "TRACESTATE", "USER", "USERNAME"),
    }
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


def is_target_of(original: Original, target: McpTarget) -> bool:
    """Return whether *original* is the tool that *target* calls, in the same session if it has one."""
    if original.session not in (None, Itself(target.session)):
        return False
    return original.definition[-1:] in ((place_of_target(target),), (place_of_target(target, bound=True),))


def place_of_target(target: McpTarget, *, bound: bool = False) -> Parts:
    """Return the place of a server and the name of a tool.

    A session shows no place. The name that the application gives its server stands for the place then, so
    that a session may be opened for each request. A session without such a name stands for itself. With
    *bound* the catalog says which server the tool is of: then the origin of a URL is its place, since a
    server may have a path or a query for each user.

    Of the environment of a command, its values count too, as they may decide what runs. Of a variable whose
    name says that it holds a secret or a user, the name alone counts.
    """
    connection = target.connection
    if target.session is not None and target.server != UNNAMED:
        return ("mcp", target.server, "session", target.tool)
    if target.session is not None or not isinstance(connection, Mapping):
        return ("mcp", target.server, Itself(target.session or connection), target.tool)
    transport, url, *command = (
        str(connection.get(name)) for name in ("transport", "url", "command", "args", "cwd")
    )
    if bound and connection.get("url") is not None:
        url = str(origin_of(httpx.URL(url)))
    return ("mcp", target.server, transport, url, *command, _environment(connection.get("env")), target.tool)


def _environment(variables: object) -> tuple[tuple[str, str], ...]:
    """Return the names of variables, and digests of the values that belong to no user and are no secret."""
    if not isinstance(variables, Mapping):
        return ()
    pairs = sorted((str(name), str(value)) for name, value in variables.items())
    return tuple(
        (name, "" if _PERSONAL & set(name.upper().split("_")) else sha256(value.encode()).hexdigest())
        for name, value in pairs
    )


def transport_of(adapted: Mapping[str, Any]) -> object:
    """Return how a tool of `langchain.mcp` reaches its server, as far as fastmcp shows it.

    *adapted* is what the adapter keeps for the tool.
    """
    transport = getattr(_member(adapted)[1], "transport", None)
    # that of a configuration with one server stands around the transport to it
    return getattr(transport, "transport", transport)


def _member(adapted: Mapping[str, Any]) -> tuple[object, object]:
    """Return the name and the client of the server that a tool of `langchain.mcp` is of."""
    client = adapted.get("client")
    clients = getattr(client, "clients", None)
    if not isinstance(clients, Mapping):
        return getattr(client, "name", None), client
    tool = getattr(adapted.get("tool"), "name", None)  # a ClientGroup: the member that serves the tool
    member = getattr(getattr(client, "_tool_routes", {}).get(tool), "client", None)
    return next((name for name, client in clients.items() if client is member), None), member


class Adapted(NamedTuple):
    """The function that an adapter has made for a tool: the adapter's module, and what the function keeps."""

    adapter: str
    nonlocals: Mapping[str, Any]

    @property
    def server(self) -> str:
        """The name that the application gives the server: of `langchain.mcp` that of the client."""
        if self.adapter == ADAPTER:
            return self.nonlocals["server_name"] or UNNAMED
        name = _member(self.nonlocals)[0]
        return name if isinstance(name, str) else UNNAMED


def adapted_by(function: object) -> Adapted | None:
    """Return which adapter has made a function for an MCP tool; None for any other function."""
    module = _module(function)
    if not isinstance(function, FunctionType) or not isinstance(module, str) or module not in _KEPT:
        return None
    nonlocals = dict(closure_of(function))
    return Adapted(module, nonlocals) if _KEPT[module] <= nonlocals.keys() else None


def place_of_adapted(adapted: Adapted, *, bound: bool = False) -> Parts:
    """Return the place of the server and the name of the tool; nothing if the server shows no place."""
    if adapted.adapter == ADAPTER:
        target = _read_target(adapted.nonlocals)
        return () if target is None else place_of_target(target, bound=bound)
    url, tool = getattr(transport_of(adapted.nonlocals), "url", None), adapted.nonlocals["tool"]
    if not isinstance(url, str):
        return ()
    return ("mcp", str(origin_of(httpx.URL(url))) if bound else url, tool.name)


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
