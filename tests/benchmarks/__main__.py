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
        # an exporter that keeps all spans of a run would have each call wait for new memory
        timings = interleaved({**tools, **parts}, rounds, calls, exporter.clear)
        timings |= interleaved(agents, rounds, max(1, calls // 10), exporter.clear)
    return _figures(timings, tuple(parts))


def _figures(timings: Mapping[str, Timing], parts: Sequence[str]) -> Figures:
    medians = {name: timing.median for name, timing in timings.items()}
    least = {name: timing.least for name, timing in timings.items()}
    return {
        **_ratios(medians, parts, "sqlite"),
        "memory": _ratios(medians, parts, "memory"),
        # of the quickest round of each: without what the machine's other tenants cost
        "quickest": {**_ratios(least, parts, "sqlite"), "memory": _ratios(least, parts, "memory")},
        "microseconds": {name: round(seconds * 1e6, 1) for name, seconds in medians.items()},
        "least_microseconds": {name: round(seconds * 1e6, 1) for name, seconds in least.items()},
        "floor_microseconds": round(sum(medians[part] for part in parts) * 1e6, 1),
        "parts": list(parts),
        # the bare tool and all that is promised for a call, in turn: a guard with no code of its own
        "promised_parts_ratio": medians["tool in parts"] / medians["tool bare"],
    }


def _ratios(seconds: Mapping[str, float], parts: Sequence[str], store: str) -> dict[str, float]:
    bare, guarded = seconds["tool bare"], seconds[f"tool {store}"]
    return {
        "tool_invoke_ratio": guarded / bare,
        "agent_step_ratio": seconds[f"agent {store}"] / seconds["agent bare"],
        "overhead_over_floor": (guarded - bare) / sum(seconds[part] for part in parts),
    }


def _tables(figures: Figures) -> tuple[Table, Table]:
    times = Table("what", "median µs", "least µs", title="absolute times")
    for name, value in figures["microseconds"].items():
        times.add_row(name, f"{value:.1f}", f"{figures['least_microseconds'][name]:.1f}")
    times.add_row("floor: the four parts", f"{figures['floor_microseconds']:.1f}", "")
    quickest = figures["quickest"]
    columns = {
        "SQLite": figures,
        "memory": figures["memory"],
        "SQLite, quickest": quickest,
        "memory, quickest": quickest["memory"],
    }
    ratios = Table(title="guarded over bare: the median round, and the quickest")
    ratios.add_column("ratio", no_wrap=True)
    for name in (*columns, "goal"):
        ratios.add_column(name)
    least = f"{figures['promised_parts_ratio']:.2f}"
    ratios.add_row("bare tool + promised parts", least, least, "", "", "")
    for name, goal in GOALS.items():
        ratios.add_row(name, *(f"{each[name]:.2f}" for each in columns.values()), f"≤ {goal}")
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
