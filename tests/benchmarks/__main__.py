"""`python -m tests.benchmarks [--json OUT] [--rounds N]`: the figures as a table, and as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.console import Console
from rich.table import Table

from tests.benchmarks.measuring import Timing, interleaved
from tests.benchmarks.subjects import floor, in_turn, promised, subjects

__all__ = ["main", "measure"]

GOALS = {"tool_invoke_ratio": 2.0, "agent_step_ratio": 1.15, "overhead_over_floor": 1.3}
Figures = dict[str, Any]


def measure(rounds: int, calls: int) -> Figures:
    """Time everything in one run; *calls* are those of a tool in one round, an agent makes a tenth."""
    exporter = InMemorySpanExporter()
    with (
        TemporaryDirectory() as name,
        subjects(Path(name), exporter) as made,
        floor(Path(name), exporter) as parts,
    ):
        tools = {n: call for n, call in made.items() if n.startswith("tool")}
        tools["tool in parts"] = in_turn(tools["tool bare"], *parts.values(), *promised(parts))
        agents = {n: call for n, call in made.items() if n.startswith("agent")}
        timings = interleaved({**tools, **parts}, rounds, calls)
        exporter.clear()
        timings |= interleaved(agents, rounds, max(1, calls // 10))
    return _figures(timings, tuple(parts))


def _figures(timings: Mapping[str, Timing], parts: Sequence[str]) -> Figures:
    def ratio(kind: str, store: str) -> float:
        return timings[f"{kind} {store}"].median / timings[f"{kind} bare"].median

    least = sum(timings[part].median for part in parts)

    def over_floor(store: str) -> float:
        return (timings[f"tool {store}"].median - timings["tool bare"].median) / least

    return {
        "tool_invoke_ratio": ratio("tool", "sqlite"),
        "agent_step_ratio": ratio("agent", "sqlite"),
        "overhead_over_floor": over_floor("sqlite"),
        "memory": {
            "tool_invoke_ratio": ratio("tool", "memory"),
            "agent_step_ratio": ratio("agent", "memory"),
            "overhead_over_floor": over_floor("memory"),
        },
        "microseconds": {name: round(t.median * 1e6, 1) for name, t in timings.items()},
        "least_microseconds": {name: round(t.least * 1e6, 1) for name, t in timings.items()},
        "floor_microseconds": round(least * 1e6, 1),
        "parts": list(parts),
        # the bare tool and all that is promised for a call, in turn: a guard with no code of its own
        "promised_parts_ratio": ratio("tool", "in parts"),
    }


def _tables(figures: Figures) -> tuple[Table, Table]:
    times = Table("what", "median µs", "least µs", title="absolute times")
    for name, value in figures["microseconds"].items():
        times.add_row(name, f"{value:.1f}", f"{figures['least_microseconds'][name]:.1f}")
    times.add_row("floor: the four parts", f"{figures['floor_microseconds']:.1f}", "")
    ratios = Table("ratio", "SQLite store", "memory store", "goal", title="guarded over bare")
    least = f"{figures['promised_parts_ratio']:.2f}"
    ratios.add_row("bare tool + promised parts", least, least, "")
    for name, goal in GOALS.items():
        ratios.add_row(name, f"{figures[name]:.2f}", f"{figures['memory'][name]:.2f}", f"≤ {goal}")
    return times, ratios


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures here")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=100, help="of a tool, in one round")
    given = parser.parse_args(arguments)
    figures = measure(given.rounds, given.calls)
    Console().print(*_tables(figures))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
