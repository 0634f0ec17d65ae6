"""Tools of MCP servers: `interceptor` judges and authorizes their calls, `session` carries the credential."""

from agentguard.langchain.mcp.interceptor import McpInterceptor

__all__ = ["McpInterceptor"]
