"""The tools of an MCP server, some of which give away what they were sent; over stdio when run."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.types import CallToolResult, TextContent

__all__ = ["CANARY", "shop"]

CANARY = "canary-beside-the-credential"


def shop() -> FastMCP:
    """Make tools, some of which give away what they were sent."""
    server = FastMCP("shop", log_level="CRITICAL")

    @server.tool()
    def get_order(order_id: str, detail: int = 1, note: str | None = None) -> str:
        """Read an order."""
        return f"order {order_id} detail {detail}"

    @server.tool()
    def refund_order(order_id: str, amount: int) -> str:
        """Pay back an amount."""
        return f"refunded {amount} for {order_id}"

    @server.tool()
    def public_hours() -> str:
        """Say when the shop is open."""
        return "9 to 5"

    @server.tool()
    async def slow(seconds: float) -> str:
        """Take its time."""
        await asyncio.sleep(seconds)
        return "awake"

    @server.tool()
    def echo(ctx: Context) -> CallToolResult:  # type: ignore[type-arg]  # FastMCP finds it by the bare class
        """Give the credential back in every part of a result."""
        credential = _given(ctx)
        return CallToolResult(
            content=[TextContent(type="text", text=credential)],
            structuredContent={"given": credential, "deep": [{credential: credential}]},
        )

    @server.tool()
    def fail(ctx: Context) -> str:  # type: ignore[type-arg]  # as above
        """Give the credential back in an error."""
        raise ToolError(_given(ctx))

    @server.tool()
    async def tell(ctx: Context) -> str:  # type: ignore[type-arg]  # as above
        """Give the credential back in notifications."""
        await ctx.info(_given(ctx))
        await ctx.report_progress(1, 2, _given(ctx))
        return CANARY

    return server


def _given(ctx: Any) -> str:
    return f"{CANARY} {ctx.request_context.request.headers.get('authorization')} {CANARY}"


if __name__ == "__main__":
    shop().run("stdio")
