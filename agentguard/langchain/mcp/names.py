"""Which tool of the catalog a server's tool is: the application binds the two, and not who calls first.

A name is bound to a tool of an MCP server in one of three ways:

1. The application has wrapped the tool, or given it to an agent with the middleware. Then the name is that
   tool's alone.
2. The catalog gives the tool's `server`. A name that begins with the server's name and ``_`` names the tool
   by what follows, as ``tool_name_prefix`` of langchain-mcp-adapters does. Any other name is the tool's own.
3. The name is a server's and a tool's, with its only ``_`` between them, as in ``shop_pay``. A name with more
   of them could be read in several ways, and a name without one says nothing of a server.

A server's name is the one that the application gives it, in ``MultiServerMCPClient`` or as the
``server_name`` of ``load_mcp_tools``. A session that has none is bound by the first way alone.
"""

from __future__ import annotations

from agentguard.catalog import Catalog
from agentguard.langchain.identification import UNNAMED, McpTarget, is_target_of

__all__ = ["catalog_name", "misbound"]


def catalog_name(catalog: Catalog, target: McpTarget) -> str:
    """Return the name of a server's tool in the catalog, or its own name if the catalog has none for it."""
    names = [name for name in (_prefixed(target), target.tool) if catalog.tool(name) is not None]
    bound = (name for name in names if misbound(catalog, name, target) is None)
    return next(bound, names[0] if names else target.tool)


def misbound(catalog: Catalog, name: str, target: McpTarget) -> str | None:
    """Say why a name of the catalog is not bound to this tool of a server; return None if it is."""
    original, spec = catalog.original(name), catalog.tool(name)
    if original is not None:
        if is_target_of(original, target):
            return None
        return (
            f"{name} is another tool than that of {target.server}: use tool_name_prefix, and "
            "functools.wraps for a decorator of a tool's function"
        )
    if spec is not None and spec.source is not None:
        return f"{name} is a tool of {spec.source}, and not of the MCP server {target.server}"
    if target.server == UNNAMED:
        return f"{name} was called in a session without a server's name: give load_mcp_tools a server_name"
    server = _server_of(name, target) if spec is None or spec.server is None else spec.server
    if server is None:
        return (
            f"{name} is bound to no server: if it is a tool of {target.server}, "
            f'add server = "{target.server}" to [tools.{name}]'
        )
    if server != target.server:
        return f"{name} is a tool of {server}, and not of {target.server}"
    return _other_spelling(name, target)


def _server_of(name: str, target: McpTarget) -> str | None:
    """Return the server that a name alone says, if it can be read in one way."""
    return target.server if name == _prefixed(target) and name.count("_") == 1 else None


def _other_spelling(name: str, target: McpTarget) -> str | None:
    tool = name.removeprefix(f"{target.server}_")
    if tool == target.tool:
        return None
    return f"{name} names the tool {tool} of {target.server}, and {_prefixed(target)} its tool {target.tool}"


def _prefixed(target: McpTarget) -> str:
    return f"{target.server}_{target.tool}"
