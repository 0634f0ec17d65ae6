"""What an agent that always obeys an attacker could still do: the authority that the rules leave beyond need.

For each recorded task and each tool that changes something, this makes the calls that were recorded of the
tool, with each value that stands anywhere in the records in the places where a value matters: the tool's
`sinks`, or all its texts and numbers if it has none. No attack is imagined: whatever an attacker writes, the
agent can only make such calls. A call that the task has made is none of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from agentguard.analysis.decide import Decide, Verdict, verdict
from agentguard.audit.requests import replayed
from agentguard.errors import AgentGuardError
from agentguard.model import AccessRequest, Arguments, Json, Provenance, TaskState, ToolPath, ToolSpec

__all__ = ["Authority", "ToolAuthority", "authority"]

Value = str | int | float
Requests = Callable[[ToolSpec, Arguments, TaskState], AccessRequest]
CALLS = 1_000
"""The most calls that are tried of one tool in one task."""
EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAuthority:
    """Of the calls of one tool that no task has made: how many there are, and what is decided of them.

    `untold` are those about facts that no record holds. `examples` are arguments of calls that are permitted.
    """

    tool: str
    permitted: int
    questions: int
    denied: int
    untold: int
    examples: tuple[Mapping[str, Json], ...]

    @property
    def calls(self) -> int:
        """How many calls were decided."""
        return self.permitted + self.questions + self.denied

    @property
    def share(self) -> float:
        """The share of the decided calls that are permitted with nobody asked."""
        return self.permitted / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Authority:
    """The result for all records: by tool, the number of tasks, and of calls that were too many to try."""

    tools: tuple[ToolAuthority, ...]
    tasks: int
    left_out: int

    @property
    def share(self) -> float:
        """The share of all decided calls that are permitted with nobody asked."""
        calls = sum(tool.calls for tool in self.tools)
        return sum(tool.permitted for tool in self.tools) / calls if calls else 0.0


def authority(
    decide: Decide,
    request_for: Requests,
    looks_at_facts: Callable[[ToolSpec], bool],
    records: Iterable[Mapping[str, Any]],
    tool: Callable[[str], ToolSpec | None],
) -> Authority:
    """Return what the rules leave; *request_for* makes a request of a call in a task.

    Each task is taken as it was at its last recorded call: it has read all that it has read. A value whose
    origin is recorded for the task has this origin; any other one has that of the user's words, of the
    mandate, or nobody's.
    """
    requests = list(_requests(records, tool))
    by_task: dict[str, list[AccessRequest]] = defaultdict(list)
    for request in requests:
        by_task[request.task.id].append(request)
    imagined = _Calls(requests)
    results: dict[str, _Count] = defaultdict(_Count)
    for of_task in by_task.values():
        state, origins = of_task[-1].task, _origins(of_task)
        needed = {(request.tool.name, request.arguments.digest) for request in of_task}
        for spec, arguments in imagined.of_tools():
            if (spec.name, arguments.digest) in needed:
                continue
            decision = None
            if not looks_at_facts(spec):
                decision = verdict(decide(_request(request_for, spec, arguments, state, origins)))
            results[spec.name].add(decision, arguments)
    tools = tuple(count.result(name) for name, count in sorted(results.items()))
    return Authority(tools, len(by_task), imagined.left_out)


class _Count:
    """What was decided of the calls of one tool, and examples of those that are permitted."""

    def __init__(self) -> None:
        self._verdicts = Counter[Verdict | None]()
        self._examples: list[Mapping[str, Json]] = []

    def add(self, decision: Verdict | None, arguments: Arguments) -> None:
        """Count a call; None says that it was not decided."""
        self._verdicts[decision] += 1
        if decision is Verdict.PERMITTED and len(self._examples) < EXAMPLES:
            self._examples.append(arguments.values)

    def result(self, tool: str) -> ToolAuthority:
        """Return the counts."""
        count = self._verdicts
        return ToolAuthority(
            tool=tool,
            permitted=count[Verdict.PERMITTED],
            questions=count[Verdict.ASKED],
            denied=count[Verdict.DENIED],
            untold=count[None],
            examples=tuple(self._examples),
        )


class _Calls:
    """The calls that are tried in each task: recorded ones, each with another value in one place."""

    def __init__(self, requests: Iterable[AccessRequest]) -> None:
        recorded = list(requests)
        self._values = _values(recorded)
        self._templates: dict[str, list[AccessRequest]] = defaultdict(list)
        for request in recorded:
            if request.tool.path is not ToolPath.READ:
                self._templates[request.tool.name].append(request)
        self.left_out = 0

    def of_tools(self) -> Iterator[tuple[ToolSpec, Arguments]]:
        """Yield each call once, at most `CALLS` of a tool; the others are counted in `left_out`."""
        for _, templates in sorted(self._templates.items()):
            calls = _calls(templates, self._values)
            for arguments in islice(calls, CALLS):
                yield templates[0].tool, arguments
            self.left_out += sum(1 for _ in calls)


def _requests(
    records: Iterable[Mapping[str, Any]], tool: Callable[[str], ToolSpec | None]
) -> Iterator[AccessRequest]:
    for record in records:
        spec, request = tool(str(record.get("tool"))), record.get("request")
        if record.get("event") == "decision" and spec is not None and isinstance(request, Mapping):
            try:
                yield replayed(request, spec)
            except ValueError:  # the tool takes other arguments now
                continue


def _values(requests: Iterable[AccessRequest]) -> dict[type, list[Value]]:
    """Return each value that stands alone in an argument, by its type, in the order of the records."""
    values: dict[type, dict[Value, None]] = defaultdict(dict)
    for request in requests:
        for value in request.arguments.values.values():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                values[type(value)][value] = None
    return {kind: list(of_kind) for kind, of_kind in values.items()}


def _origins(requests: Iterable[AccessRequest]) -> dict[Value, Provenance]:
    return {
        value: request.provenance[name]
        for request in requests
        for name, value in request.arguments.values.items()
        if isinstance(value, str | int | float) and name in request.provenance
    }


def _calls(templates: Iterable[AccessRequest], values: Mapping[type, list[Value]]) -> Iterator[Arguments]:
    """Yield recorded calls, each with another value in one place, and each call once."""
    digests = set[str]()
    for template in templates:
        arguments = template.arguments.values
        places = sorted(template.tool.sinks & arguments.keys()) or sorted(arguments)
        for place in places:
            for value in (arguments[place], *values.get(type(arguments[place]), ())):
                call = Arguments.of({**arguments, place: value})
                if call.digest not in digests:
                    digests.add(call.digest)
                    yield call


def _request(
    request_for: Requests,
    spec: ToolSpec,
    arguments: Arguments,
    state: TaskState,
    origins: Mapping[Value, Provenance],
) -> AccessRequest:
    try:
        request = request_for(spec, arguments, state)
    except AgentGuardError:  # each such call is denied; the decision says so again
        return AccessRequest(identity=state.identity, tool=spec, arguments=arguments, task=state)
    provenance = {
        name: origins[value]
        for name, value in arguments.values.items()
        if isinstance(value, str | int | float) and value in origins
    }
    return replace(request, provenance={**request.provenance, **provenance})
