"""How a guard is shown: in a terminal as one line, in a notebook as the table of its tools."""

from __future__ import annotations

from collections.abc import Iterator

from agentguard.display import badge, code, html_of, table
from agentguard.enforcement.flow import Enforcement
from agentguard.model import ToolSpec

__all__ = ["DisplayMethods"]


class DisplayMethods:
    """A part of `Guard`. Nothing is read, opened or asked for a display."""

    enforcement: Enforcement

    def __repr__(self) -> str:
        return f"<Guard: {', '.join(self._facts())}>"

    def _repr_html_(self) -> str:
        specs = sorted(self.enforcement.ports.catalog, key=lambda spec: spec.name)
        rows = ((True, self._cells(spec)) for spec in specs)
        titles = ("tool", "path", "resource", "scopes", "credential by")
        return table(titles, rows, " · ".join(self._facts()))

    def _facts(self) -> Iterator[str]:
        ports, calls = self.enforcement.ports, self.enforcement.calls
        count = len(ports.catalog)
        yield f"{count} tool{'' if count == 1 else 's'}"
        yield from (type(part).__name__ for part in (ports.policy, ports.store, ports.audit))
        if self.enforcement.options.observe:
            yield "observes only: rules block nothing"
        if calls.closed or calls.closing:
            yield "closed"

    def _cells(self, spec: ToolSpec) -> tuple[str, ...]:
        texts = (spec.resource or "-", ", ".join(sorted(spec.scopes)), self._issuer_for(spec))
        return code(spec.name), badge(spec.path), *map(html_of, texts)

    def _issuer_for(self, spec: ToolSpec) -> str:
        """Return the kind of the broker that mints for calls of a tool."""
        resource = self.enforcement.ports.catalog.resource(spec.resource)
        if resource is None:
            return "needs none"
        route = self.enforcement.routes.find(resource, spec.path)
        return "NOBODY" if route is None else type(route.broker).__name__
