"""`python -m tests.benchmarks.policies [--json OUT] [--most N]`: Cedar decisions by number of policies.

The number of policies grows with the number of tools, as it does when each service or tenant brings its
own: 100 policies for a tool, up to 1,000 tools at 50 resources. Of each 100, 98 limit one agent's calls of
one tool at its resource, one forbids that tool, and one permits that tool or the next (``action in [..]``).
20 more forbid something on a whole path, whatever the number of tools. Each question is a new one, which
Cedar has to evaluate. The table also has sets in which all policies are about one tool: there the selection
of policies by tool saves nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from rich.console import Console
from rich.table import Table

from agentguard.model import AccessRequest, Arguments, Identity, Mandate, TaskState, ToolPath, ToolSpec
from agentguard.policies.cedar import CedarPolicy
from agentguard.policies.cedar.answers import MOST
from tests.benchmarks.measuring import interleaved, repeated

__all__ = ["main", "measure"]

PER_TOOL = 100
GOALS = {"decision_ratio": 1.5, "load_seconds": 20.0}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"account": {"type": "string"}, "amount": {"type": "integer"}},
    "required": ["account", "amount"],
}


def tools(number: int) -> list[ToolSpec]:
    """Make *number* tools, spread over paths and resources."""
    paths = list(ToolPath)
    return [
        ToolSpec(name=f"tool_{n}", path=paths[n % len(paths)], resource=f"resource_{n % 50}", schema=SCHEMA)
        for n in range(number)
    ]


def policies(number: int, specs: Sequence[ToolSpec]) -> str:
    """Write *number* policies, the same number for each tool, and 20 about paths."""
    share = number // len(specs)
    about_tools = (
        _about_tool(n, specs[n // share], specs[(n // share + 1) % len(specs)]) for n in range(number)
    )
    return "\n".join([*about_tools, *map(_about_path, range(20))])


def _about_tool(n: int, spec: ToolSpec, following: ToolSpec) -> str:
    action, amount = f'Action::"{spec.name}"', "context.args.amount"
    match n % PER_TOOL:
        case 98:
            return f'@id("p{n}") forbid (principal, action == {action}, resource) when {{ {amount} > 5000 }};'
        case 99:
            either = f'[{action}, Action::"{following.name}"]'
            return f'@id("p{n}") permit (principal, action in {either}, resource) when {{ {amount} == 1 }};'
    agent, place = f'Agent::"agent_{n % PER_TOOL}"', f'Resource::"{spec.resource}"'
    head = f"principal == {agent}, action == {action}, resource == {place}"
    return f'@id("p{n}") permit ({head}) when {{ {amount} <= {n % PER_TOOL + 1} }};'


def _about_path(n: int) -> str:
    path = list(ToolPath)[n % len(ToolPath)]
    return (
        f'@id("g{n}") forbid (principal, action in Action::"{path}", resource)'
        f" when {{ context.provenance.untrusted && context.task.calls > {n} }};"
    )


def request(spec: ToolSpec, agent: int = 7) -> AccessRequest:
    """Make a request of an agent; exactly one policy permits it to the seventh."""
    identity = Identity(subject="user:ada", actor=f"agent_{agent}")
    task = TaskState(
        id="task-1", purpose="Pay", identity=identity, mandate=Mandate(tools=frozenset("*")), deadline=2e9
    )
    arguments = Arguments.of({"account": "4711", "amount": 2})
    return AccessRequest(identity=identity, tool=spec, arguments=arguments, task=task)


def measure(most: int, rounds: int, calls: int) -> dict[str, Any]:
    """Load sets of growing size, then time decisions of all. The peak memory is of the largest set."""
    sizes = [size for size in (100, 1_000, 10_000, 100_000) if size < most] + [most]
    loads: dict[str, dict[str, float]] = {}
    decisions: dict[str, Callable[[], object]] = {}
    for size in sizes:
        decisions[f"{size:,}"], loads[f"{size:,}"] = _loaded(size, tools(size // PER_TOOL))
    peak = _mebibytes()
    for size in (1_000, min(most, 10_000)):
        decisions[f"{size:,} of one tool"], _ = _loaded(size, tools(1))
    timings = interleaved({name: repeated(decide, calls) for name, decide in decisions.items()}, rounds)
    micro = {name: round(timing.median * 1e6, 1) for name, timing in timings.items()}
    return {
        "decision_ratio": timings[f"{most:,}"].median / timings["100"].median,
        "load_seconds": loads[f"{most:,}"]["seconds"],
        "peak_mebibytes": peak,
        "policies": most,
        "microseconds": micro,
        "load": loads,
    }


def _loaded(size: int, specs: Sequence[ToolSpec]) -> tuple[Callable[[], object], dict[str, float]]:
    text, before = policies(size, specs), _mebibytes()
    started, worked = perf_counter(), process_time()
    policy = CedarPolicy.from_text(text)
    read = perf_counter()
    policy.check_tools(specs)
    bound, worked = perf_counter(), process_time() - worked
    questions = [request(spec) for spec in specs]
    if not all(policy.decide(question).permitted for question in questions):
        raise RuntimeError("the policies deny a request that one of them should permit")
    first = perf_counter()
    chosen = specs[:: max(1, len(specs) // 10)]
    # one more agent than answers are kept, so that Cedar is asked each time
    turn = cycle([request(spec, agent) for agent in range(MOST + 1) for spec in chosen])
    return lambda: policy.decide(next(turn)), {
        "read_seconds": round(read - started, 2),
        "bind_seconds": round(bound - read, 2),
        "seconds": round(bound - started, 2),
        "cpu_seconds": round(worked, 2),
        "first_decision_milliseconds": round((first - bound) / len(specs) * 1e3, 2),
        "mebibytes": round(_mebibytes() - before, 1),
    }


def _mebibytes() -> float:
    """Return the peak memory of this process, in MiB; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _table(figures: dict[str, Any]) -> Table:
    table = Table("policies", "decision µs", "load s", "of CPU", "first decision ms", "more MiB")
    for name, micro in figures["microseconds"].items():
        load = figures["load"].get(name, {})
        rest = ("seconds", "cpu_seconds", "first_decision_milliseconds", "mebibytes")
        table.add_row(name, f"{micro:.1f}", *(f"{load[key]:.2f}" if load else "-" for key in rest))
    table.caption = ", ".join(f"{name} {figures[name]:.2f} (goal ≤ {goal})" for name, goal in GOALS.items())
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.policies", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures here")
    parser.add_argument("--most", type=int, default=100_000, help="number of policies of the largest set")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args(arguments)
    figures = measure(options.most, options.rounds, options.calls)
    Console().print(_table(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
