"""`python -m tests.benchmarks.policies [--json OUT] [--most N]`: Cedar as its policies grow, in one run.

Policies grow with the tools they are about, as they do where each service or tenant brings its own:
100 for a tool, up to 1,000 tools at 50 resources. Of each 100, 98 are the limit of one agent for one
tool at its resource, one is a forbid of that tool, and one permits that tool or the next
(``action in [..]``). Whatever their number, 20 more forbid something on a whole path. How time grows
where one tool gets more and more policies of its own stands beside it: there no slice helps.
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
from tests.benchmarks.measuring import interleaved, repeated

__all__ = ["main", "measure"]

EACH = 100
GOALS = {"decision_ratio": 1.5, "load_seconds": 20.0}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"account": {"type": "string"}, "amount": {"type": "integer"}},
    "required": ["account", "amount"],
}


def tools(number: int) -> list[ToolSpec]:
    """Make tools, spread over paths and resources."""
    paths = list(ToolPath)
    return [
        ToolSpec(name=f"tool_{n}", path=paths[n % len(paths)], resource=f"resource_{n % 50}", schema=SCHEMA)
        for n in range(number)
    ]


def policies(number: int, specs: Sequence[ToolSpec]) -> str:
    """Write *number* policies, in turn for as many tools as there are, and 20 about paths."""
    each = number // len(specs)
    own = (_own(n, specs[n // each], specs[(n // each + 1) % len(specs)]) for n in range(number))
    return "\n".join([*own, *map(_general, range(20))])


def _own(n: int, spec: ToolSpec, following: ToolSpec) -> str:
    action, amount = f'Action::"{spec.name}"', "context.args.amount"
    match n % EACH:
        case 98:
            return f'@id("p{n}") forbid (principal, action == {action}, resource) when {{ {amount} > 5000 }};'
        case 99:
            either = f'[{action}, Action::"{following.name}"]'
            return f'@id("p{n}") permit (principal, action in {either}, resource) when {{ {amount} == 1 }};'
    who, where = f'Agent::"agent_{n % EACH}"', f'Resource::"{spec.resource}"'
    head = f"principal == {who}, action == {action}, resource == {where}"
    return f'@id("p{n}") permit ({head}) when {{ {amount} <= {n % EACH + 1} }};'


def _general(n: int) -> str:
    path = list(ToolPath)[n % len(ToolPath)]
    return (
        f'@id("g{n}") forbid (principal, action in Action::"{path}", resource)'
        f" when {{ context.provenance.untrusted && context.task.calls > {n} }};"
    )


def request(spec: ToolSpec) -> AccessRequest:
    """Make a call that exactly one policy permits."""
    identity = Identity(subject="user:ada", actor="agent_7")
    task = TaskState(
        id="task-1", purpose="Pay", identity=identity, mandate=Mandate(tools=frozenset("*")), deadline=2e9
    )
    arguments = Arguments.of({"account": "4711", "amount": 2})
    return AccessRequest(identity=identity, tool=spec, arguments=arguments, task=task)


def measure(most: int, rounds: int, calls: int) -> dict[str, Any]:
    """Load each size, then time decisions of all in turn; sizes grow, so the memory is of the largest."""
    sizes = [size for size in (100, 1_000, 10_000, 100_000) if size < most] + [most]
    loads: dict[str, dict[str, float]] = {}
    made: dict[str, Callable[[], object]] = {}
    for size in sizes:
        made[f"{size:,}"], loads[f"{size:,}"] = _loaded(size, tools(size // EACH))
    peak = _mebibytes()
    for size in (1_000, min(most, 10_000)):
        made[f"{size:,} of one tool"], _ = _loaded(size, tools(1))
    timings = interleaved({name: repeated(decide, calls) for name, decide in made.items()}, rounds)
    micro = {name: round(each.median * 1e6, 1) for name, each in timings.items()}
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
    asked = [request(spec) for spec in specs]
    if not all(policy.decide(each).permitted for each in asked):
        raise RuntimeError("the policies do not permit what they are meant to")
    first = perf_counter()
    turn = cycle(asked[:: max(1, len(asked) // 10)])
    return lambda: policy.decide(next(turn)), {
        "read_seconds": round(read - started, 2),
        "bind_seconds": round(bound - read, 2),
        "seconds": round(bound - started, 2),
        "cpu_seconds": round(worked, 2),
        "first_decision_milliseconds": round((first - bound) / len(specs) * 1e3, 2),
        "mebibytes": round(_mebibytes() - before, 1),
    }


def _mebibytes() -> float:
    """Return the most memory that this process has ever held; Linux counts it in KiB."""
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
    parser.add_argument("--most", type=int, default=100_000, help="policies of the largest set")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=100)
    given = parser.parse_args(arguments)
    figures = measure(given.most, given.rounds, given.calls)
    Console().print(_table(figures))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
