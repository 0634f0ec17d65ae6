"""All the gates of a guard: each tool has one, and the policies know it before any call does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool

from agentguard.concurrency.fork import ProcessLock
from agentguard.enforcement.call import Invocation
from agentguard.enforcement.flow import Enforcement
from agentguard.errors import ConfigurationError
from agentguard.langchain.canonical import canonicalize, require_within
from agentguard.langchain.gate import Gate, ToolInput
from agentguard.langchain.tools import GuardedTool, OnDeny, guarded
from agentguard.ports import CatalogAware

__all__ = ["REMEMBERED", "GateRegistry", "ToolLike"]

REMEMBERED = 256  # tools that the middleware has seen; one that is forgotten is looked at again
ToolLike = BaseTool | Callable[..., Any]


class GateRegistry:
    """Makes guarded tools, and has the policies checked whenever the catalog has changed.

    A catalog that names tools from the start is complete, and a rule about another is an error at
    once. An empty one is filled by code, tool after tool: `mistake` then says what does not fit yet.
    """

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement = enforcement
        self._complete = len(enforcement.ports.catalog) > 0
        self._by_name: dict[str, Gate] = {}
        self._seen: dict[int, tuple[BaseTool, GuardedTool]] = {}
        self._binding, self._bound = ProcessLock(), -1
        self.mistake: ConfigurationError | None = None
        self.check_policies()

    def wrap(self, tools: Iterable[ToolLike], on_deny: OnDeny | None) -> list[GuardedTool]:
        """Return guarded tools; functions are made tools first.

        Raises:
            ConfigurationError: Two have one name, or what is said of one is wrong.
        """
        plain = [t if isinstance(t, BaseTool) else as_tool(t) for t in tools]
        _distinct(plain)
        guarded_tools = [self._guarded(tool, on_deny) for tool in plain]
        self.check_policies()
        return guarded_tools

    def at_first_sight(self, tool: BaseTool) -> GuardedTool:
        """Return the guarded form of a tool that an agent was given as it is."""
        if isinstance(tool, GuardedTool):
            return tool
        entry = self._seen.get(id(tool))
        if entry is None:
            if len(self._seen) >= REMEMBERED:
                self._seen.pop(next(iter(self._seen)), None)
            guarded_tool = self._guarded(tool, None)
            self.check_policies()  # before other threads see it: until then the policies do not know the tool
            # the tool itself is kept beside, so that its id is not given to another
            entry = self._seen.setdefault(id(tool), (tool, guarded_tool))
        return entry[1]

    def invocation(self, tool: str, arguments: Mapping[str, Any], named_task: str | None) -> Invocation:
        """Return a call that nobody makes, with its arguments validated as the tool's schema says.

        A tool that this guard has not wrapped is known by the catalog alone, and its arguments are taken as
        they are.

        Raises:
            Denied: The arguments of such a tool hold more than the limits allow, or have no canonical form.
        """
        gate = self._by_name.get(tool)
        if gate is not None:
            invocation = gate.invocation(ToolInput(arguments, {}, None, None))
            return invocation._replace(named_task=named_task)
        require_within(self._enforcement.options.limits, arguments)
        spec = self._enforcement.ports.catalog.tool(tool)
        return Invocation(tool=tool, spec=spec, arguments=canonicalize(arguments), named_task=named_task)

    def check_policies(self) -> None:
        """Check the policies against the tools known now; until they fit, what is new is denied."""
        policy, catalog = self._enforcement.ports.policy, self._enforcement.ports.catalog
        if not isinstance(policy, CatalogAware):
            return
        with self._binding:
            changes = catalog.changes
            if self._bound == changes:
                return
            self.mistake = None
            try:
                policy.check_tools(catalog)
            except ConfigurationError as error:
                if self._complete:
                    raise
                self.mistake = error
            self._bound = changes

    def _guarded(self, tool: BaseTool, on_deny: OnDeny | None) -> GuardedTool:
        if isinstance(tool, GuardedTool):
            return tool
        gate = self._by_name[tool.name] = Gate(self._enforcement, tool)
        return guarded(gate, tool, on_deny)


def _distinct(tools: Iterable[BaseTool]) -> None:
    tools_by_name: dict[str, BaseTool] = {}
    for tool in tools:
        if tools_by_name.setdefault(tool.name, tool) is not tool:
            raise ConfigurationError(
                f"two tools are named {tool.name}", hint="rename one: policies go by name"
            )
