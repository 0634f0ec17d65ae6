"""All the gates of a guard: each tool has one, and the policies know it before any call does."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool

from agentguard.concurrency.fork import ProcessLock
from agentguard.enforcement.call import Invocation
from agentguard.enforcement.flow import Enforcement
from agentguard.errors import ConfigurationError
from agentguard.langchain.argument_errors import schema_error
from agentguard.langchain.canonical import canonicalize, require_within
from agentguard.langchain.gate import Gate, ToolInput
from agentguard.langchain.schema import declared_form
from agentguard.langchain.tools import GuardedTool, OnDeny, guarded
from agentguard.ports import CatalogAware

__all__ = ["GateRegistry", "ToolLike"]

FORMS = "_agentguard_forms"  # the attribute of a tool that keeps its guarded forms
ToolLike = BaseTool | Callable[..., Any]


class GateRegistry:
    """Makes guarded tools, and has the policies checked whenever the catalog has changed.

    A catalog that names tools from the start is complete, and a rule about another is an error at
    once. An empty one is filled by code, tool after tool: `mistake` then says what does not fit yet.

    Tools that an agent was given as they are keep their guarded forms themselves. So the tools of an agent
    that is made for a request live as long as that agent.
    """

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement = enforcement
        self._complete = len(enforcement.ports.catalog) > 0
        self._by_name: dict[str, Gate] = {}
        # a name that nobody has classified may be that of a request, and is known as long as its tool lives
        self._unclassified = weakref.WeakValueDictionary[str, Gate]()
        self._live = weakref.WeakValueDictionary[str, Gate]()  # those that open, as long as their tools live
        self._present: dict[int, weakref.ref[BaseTool]] = {}  # by id: the tools that were looked at, and live
        self._attaching, self._binding, self._bound = ProcessLock(), ProcessLock(), -1
        self._refused: tuple[int, str, ConfigurationError] | None = None
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

    def look_at(self, tools: Sequence[BaseTool]) -> None:
        """Get to know all tools of an agent, and check the policies once.

        A list of tools that are known costs next to nothing. What is wrong with a tool is not told here, but
        by `at_first_sight`, when that tool is called.
        """
        if all(map(self._present.__contains__, map(id, tools))):
            return
        with self._attaching:
            unknown = [tool for tool in tools if id(tool) not in self._present]
            forms: list[tuple[BaseTool, GuardedTool]] = []
            for tool in unknown:
                if not isinstance(tool, GuardedTool) and _form(tool, self) is None:
                    with suppress(Exception):
                        forms.append((tool, self._guarded(tool, None)))
            with suppress(ConfigurationError):
                self._publish(forms)
            for tool in unknown:
                self._present[id(tool)] = weakref.ref(tool, _forgetting(self._present, id(tool)))

    def at_first_sight(self, tool: BaseTool) -> GuardedTool:
        """Return the guarded form of a tool that an agent was given as it is.

        Raises:
            ConfigurationError: What is said of it is wrong, or the policies do not fit the tools.
        """
        if isinstance(tool, GuardedTool):
            return tool
        form = _form(tool, self)
        if form is None:
            with self._attaching:
                form = _form(tool, self)
                if form is None:
                    form = self._guarded(tool, None)
                    self._publish([(tool, form)])
        return form

    def _publish(self, forms: Iterable[tuple[BaseTool, GuardedTool]]) -> None:
        """Have tools keep their guarded forms, once the policies know these."""
        self.check_policies()  # before other threads see them
        for tool, form in forms:
            _keep(tool, self, form)

    def invocation(self, tool: str, arguments: Mapping[str, Any], named_task: str | None) -> Invocation:
        """Return a call that nobody makes, with its arguments validated as the tool's schema says.

        A tool that this guard has not wrapped is known by the catalog alone. Its arguments are validated as
        the catalog's schema says, with the defaults of that schema.

        Raises:
            Denied: The arguments of such a tool hold more than the limits allow, or have no canonical form.
        """
        gate = self._by_name.get(tool) or self._unclassified.get(tool)
        if gate is not None:
            invocation = gate.invocation(ToolInput(arguments, {}, None, None))
            return invocation._replace(named_task=named_task)
        catalog, values = self._enforcement.ports.catalog, dict(arguments)
        require_within(self._enforcement.options.limits, values)
        invocation = Invocation(
            tool=tool, spec=catalog.tool(tool), arguments=canonicalize(values), named_task=named_task
        )
        if (schema := catalog.declared_schema(tool)) is None:
            return invocation
        try:
            declared, values = declared_form(schema), deepcopy(values)
            declared.fill(values)
            filled = canonicalize(values)
            declared.validate(filled, values, arguments)
        except Exception as error:  # noqa: BLE001  whatever is wrong with them, a call with them is denied
            return invocation._replace(arguments=None, problem=schema_error(error, schema))
        return invocation._replace(arguments=filled)

    def live(self, tool: str) -> Gate | None:
        """Return the gate that opens for a tool, as long as somebody has the guarded tool; else None."""
        return self._live.get(tool)

    def check_policies(self) -> None:
        """Check the policies against the tools known now; until they fit, what is new is denied.

        What was refused is checked again once the catalog or the rules have changed.
        """
        policy, catalog = self._enforcement.ports.policy, self._enforcement.ports.catalog
        if not isinstance(policy, CatalogAware):
            return
        with self._binding:
            changes = catalog.changes
            if self._bound == changes:
                return
            if self._refused is not None and self._refused[:2] == (changes, str(policy.version)):
                raise self._refused[2].with_traceback(None)
            self.mistake = self._refused = None
            try:
                policy.check_tools(catalog)
            except ConfigurationError as error:
                if self._complete:
                    self._refused = changes, str(policy.version), error
                    raise
                self.mistake = error
            self._bound = changes

    def _guarded(self, tool: BaseTool, on_deny: OnDeny | None) -> GuardedTool:
        if isinstance(tool, GuardedTool):
            return tool
        gate = Gate(self._enforcement, tool)
        if gate.spec is None:
            self._unclassified[tool.name] = gate
        else:
            self._by_name[tool.name] = gate.without_tool()
            self._live[tool.name] = gate
        return guarded(gate, tool, on_deny)


class _Forms:
    """The guarded forms of one tool, by the registry that made each; an attribute of that tool.

    A form leads to its tool. Kept anywhere else, it would keep the tool alive. A copy of the tool, which has
    a copy of this attribute, is another tool, and has no forms yet.
    """

    __slots__ = ("by_registry", "tool")

    def __init__(self, tool: BaseTool) -> None:
        self.tool = weakref.ref(tool)
        self.by_registry = weakref.WeakKeyDictionary[GateRegistry, GuardedTool]()

    def __deepcopy__(self, _memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _form(tool: BaseTool, registry: GateRegistry) -> GuardedTool | None:
    forms = vars(tool).get(FORMS)
    return forms.by_registry.get(registry) if forms is not None and forms.tool() is tool else None


def _keep(tool: BaseTool, registry: GateRegistry, form: GuardedTool) -> None:
    forms = vars(tool).get(FORMS)
    if forms is None or forms.tool() is not tool:
        forms = _Forms(tool)
        object.__setattr__(tool, FORMS, forms)  # also of a tool whose class is frozen
    forms.by_registry[registry] = form


def _forgetting(tools: dict[int, Any], key: int) -> Callable[[object], object]:
    """Return what forgets a tool when it ends, before another one can have its id."""
    return lambda _reference: tools.pop(key, None)


def _distinct(tools: Iterable[BaseTool]) -> None:
    tools_by_name: dict[str, BaseTool] = {}
    for tool in tools:
        if tools_by_name.setdefault(tool.name, tool) is not tool:
            raise ConfigurationError(
                f"two tools are named {tool.name}", hint="rename one: policies go by name"
            )
