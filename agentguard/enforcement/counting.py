"""What calls have done, for the request that is judged, and what the call itself adds to it.

A task says what is counted in it, from its beginning on. So each process that makes calls of it counts the
same, and a number that rules look at has counted every call. The windows over the calls of a user or an agent
are those of the catalog.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from agentguard.enforcement.operations import Operations, stored
from agentguard.enforcement.setup import Ports
from agentguard.errors import DenialCode, Denied
from agentguard.model import AccessRequest, Addition, CallKey, Cell, Counted, Json, ToolSpec
from agentguard.model.arguments import canonical_json
from agentguard.model.counts import BUCKETS, amount_of, family_of, unit_count
from agentguard.ports import CountsOnDemand
from agentguard.provenance.leaves import digest

__all__ = ["Counting"]

Path = tuple[str, ...]
SCOPES = ("task", "user", "agent")
_APART = "\x1f"
_TABLES = {"task": "tallies", "user": "user_tallies", "agent": "agent_tallies"}
_RANGE = "a number from 0 on with at most 4 decimals"


class _Place(NamedTuple):
    """Where a tool's numbers are: in a field of the request below *prefix*, and in a store by their owner."""

    field: str
    prefix: Path
    counted: Counted
    owner: str
    since: int = 0
    bucket: int = 0
    until: float = 0.0


class _Line(NamedTuple):
    """One number: its place below a tool, its name in a store, and the argument that it sums up, if any."""

    path: Path
    name: str
    group: str = ""
    argument: str = ""


class Counting:
    """Reads the numbers that the rules look at, on one path. It asks nothing where rules look at none."""

    def __init__(self, ports: Ports, operations: Operations) -> None:
        self._catalog, self._policy, self._operations = ports.catalog, ports.policy, operations

    def needed(self, tool: ToolSpec) -> Collection[tuple[str, str]]:
        """Return whose calls of which tools the rules in force look at in calls of *tool*."""
        if not self._catalog.counted:
            return ()
        if isinstance(self._policy, CountsOnDemand):
            looks = self._policy.counts_for(tool)
            if looks is not None:
                return looks
        return [(scope, name) for scope in SCOPES for name in self._catalog.counted]

    async def of(self, request: AccessRequest, resumes: CallKey | None) -> AccessRequest:
        """Return the request with the numbers that its rules look at, and with what the call adds to numbers.

        Raises:
            Denied: The store does not tell.
        """
        tool, task = request.tool, request.task
        needed = self.needed(tool)
        if not (needed or tool.counted or tool.name in task.counted):
            return request
        if late := sorted(
            name for scope, name in needed if scope == "task" and not self._covers(request, name)
        ):
            problem = f"{late[0]} is counted in tasks that begin from now on, and task {task.id} began before"
            return replace(request, uncounted=problem)
        own_places = list(self._places(tool.name, request, SCOPES))
        values = request.arguments.values
        if unfit := sorted(_unfit(own_places, values)):
            problem = f"the {unfit[0]} of {tool.name} cannot be added up: it is not {_RANGE}"
            return replace(request, uncounted=problem)
        request = replace(request, additions=tuple(_additions(tool.name, own_places, values)))
        return await self._with_numbers(request, needed, resumes) if needed else request

    @staticmethod
    def require(request: AccessRequest) -> None:
        """Require that all that the rules look at is counted, and that the call can be counted.

        Raises:
            Denied: It is not.
        """
        if request.uncounted:
            raise Denied.of(DenialCode.UNCOUNTED, request.uncounted)

    async def _with_numbers(
        self, request: AccessRequest, needed: Collection[tuple[str, str]], resumes: CallKey | None
    ) -> AccessRequest:
        values = request.arguments.values
        lines = [
            (place, line)
            for scope, name in sorted(needed)
            for place in self._places(name, request, (scope,))
            for line in _lines(name, place, values, _arguments(place, name, request.tool))
        ]
        cells = [Cell(place.owner, line.name, place.since) for place, line in lines]
        numbers = await stored(self._operations.counted(cells, resumes))
        tables: dict[str, dict[str, Any]] = {name: {} for name in _TABLES.values()}
        for (place, line), number in zip(lines, numbers, strict=True):
            path = (*place.prefix, *line.path)
            _put(tables[place.field], path, amount_of(number) if line.argument else number)
            if line.argument and place.prefix[-1] == request.tool.name:
                total = number + (unit_count(values.get(line.argument, 0)) or 0)
                _put(tables[place.field], (*path[:-2], "sum_with_this", line.argument), amount_of(total))
        return replace(
            request,
            tallies=tables["tallies"],
            user_tallies=tables["user_tallies"],
            agent_tallies=tables["agent_tallies"],
            numbers=tuple(dict(zip(cells, numbers, strict=True)).items()),
        )

    def _covers(self, request: AccessRequest, tool: str) -> bool:
        """Return whether the task has counted, since it began, what the catalog says of a tool."""
        present = request.task.counted.get(tool)
        return present is not None and present.covers(self._catalog.counted[tool])

    def _places(self, tool: str, request: AccessRequest, scopes: Iterable[str]) -> Iterator[_Place]:
        """Yield where the numbers of a tool are."""
        task, identity, at = request.task, request.identity, request.at
        if "task" in scopes and (in_task := task.counted.get(tool)) is not None:
            yield _Place("tallies", (tool,), in_task, family_of(task.root_id))
        if (counted := self._catalog.counted.get(tool)) is None:
            return
        for scope, windows, whose in (
            ("user", counted.user, identity.subject),
            ("agent", counted.agent, identity.actor),
        ):
            for window, seconds in sorted(windows.items()) if scope in scopes else ():
                bucket = int(at * BUCKETS // seconds)
                yield _Place(
                    _TABLES[scope],
                    (window, tool),
                    counted,
                    f"{scope} {seconds} {whose}",
                    int((at - seconds) * BUCKETS // seconds),
                    bucket,
                    (bucket + 1) * seconds / BUCKETS + seconds,
                )


def _arguments(place: _Place, tool: str, called: ToolSpec) -> Collection[str]:
    """Return the arguments of the *called* tool for whose values there are numbers of *tool*."""
    return place.counted.per if tool == called.name else (called.schema or {}).get("properties", ())


def _lines(
    tool: str, place: _Place, values: Mapping[str, Json], arguments: Collection[str]
) -> Iterator[_Line]:
    """Yield the numbers of a tool at one place, and those for the *values* of a call's *arguments*."""
    counted = place.counted
    yield _Line(("count",), tool)
    for name in counted.sum:
        yield _Line(("sum", name), _APART.join((tool, "sum", name)), argument=name)
    for name in counted.per:
        if name in arguments:
            group = _APART.join((tool, "per", name))
            of_value = digest(place.owner, canonical_json(values.get(name)).decode())
            yield _Line(("per", name, "count"), f"{group}{_APART}{of_value}", group)
            for added in counted.sum:
                of_sum = _APART.join((group, of_value, "sum", added))
                yield _Line(("per", name, "sum", added), of_sum, argument=added)


def _unfit(places: Iterable[_Place], values: Mapping[str, Json]) -> set[str]:
    """Return the arguments whose values cannot be added up."""
    names = {name for place in places for name in place.counted.sum}
    return {name for name in names if values.get(name) is not None and unit_count(values[name]) is None}


def _additions(tool: str, places: Iterable[_Place], values: Mapping[str, Json]) -> Iterator[Addition]:
    """Yield what a call adds; two windows of one length are kept once."""
    for place in {place.owner: place for place in places}.values():
        for line in _lines(tool, place, values, place.counted.per):
            amount = 1
            if line.argument:
                amount = unit_count(values.get(line.argument) or 0) or 0
            if amount:
                yield Addition(place.owner, line.name, place.bucket, amount, line.group, place.until)


def _put(table: dict[str, Any], path: Path, value: object) -> None:
    *parents, name = path
    for parent in parents:
        table = table.setdefault(parent, {})
    table[name] = value
