"""The figures of a run as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

__all__ = ["tables"]

Figures = dict[str, Any]
FLOORS = {
    "hot": "all, hot",
    "in_place": "all, in place",
    "in_place_one_span": "all, in place, with one span",
}


def tables(figures: Figures) -> Iterator[Table]:
    """Yield the goals, the cases, the floor and the thread hops."""
    yield _goals(figures)
    yield _cases(figures)
    yield _floor(figures["floor"])
    yield _hops(figures["thread_hops"])


def _goals(figures: Figures) -> Table:
    table = Table(title=f"goals, with SQLite ({figures['rounds']} rounds; bare is 1)")
    table.add_column("ratio", no_wrap=True)
    for name in ("median", "quickest", "CPU", "goal", "met"):
        table.add_column(name, justify="right")
    for name, goal in figures["goals"].items():
        numbers = (f"{goal[measure]:.2f}" for measure in ("median", "quickest", "cpu"))
        table.add_row(name, *numbers, f"≤ {goal['goal']}", "yes" if goal["met"] else "no")
    table.caption = (
        "median: of the rounds' ratios. quickest: of each side's quickest round. CPU: of the CPU time.\n"
        f"The bare call took {figures['waiting']:.2f} times its CPU time; if that is far above 1, use CPU."
    )
    return table


def _cases(figures: Figures) -> Table:
    table = Table(title="one call; each was permitted and ran")
    for name in ("what", "way"):
        table.add_column(name, no_wrap=True)
    for name in ("calls", "median µs", "quickest µs", "CPU µs", "ratio", "quickest", "CPU", "throughput"):
        table.add_column(name, justify="right")
    for operation, ways in figures["cases"].items():
        for index, (way, figure) in enumerate(ways.items()):
            times = (figure[f"{n}microseconds"] for n in ("", "quickest_", "cpu_"))
            ratios = (figure["ratio"][measure] for measure in ("median", "quickest", "cpu"))
            table.add_row(
                "" if index else operation,
                way,
                str(figure["calls"]),
                *(f"{value:.1f}" for value in times),
                *(f"{value:.2f}" for value in ratios),
                f"{figure['throughput_ratio']:.2f}",
            )
        table.add_section()
    return table


def _floor(floor: Figures) -> Table:
    table = Table("part", "times", "median µs", "quickest µs", title="the floor of a call")
    for name, part in floor["parts"].items():
        table.add_row(
            name, str(part["times"]), f"{part['microseconds']:.1f}", f"{part['quickest_microseconds']:.1f}"
        )
    table.add_section()
    for key, name in FLOORS.items():
        times = (floor[key][measure] for measure in ("microseconds", "quickest_microseconds"))
        table.add_row(name, "", *(f"{value:.1f}" for value in times))
    for store, overhead in floor["overhead"].items():
        for key, ratio in overhead.items():
            name = f"overhead over {FLOORS[key]}, {store}"
            table.add_row(name, "", f"{ratio['median']:.2f} times", f"{ratio['quickest']:.2f} times")
    return table


def _hops(hops: Figures) -> Table:
    table = Table("what", "way", "thread hops", title="work handed to another thread, beyond the bare call")
    for operation, ways in hops.items():
        for index, (way, number) in enumerate(ways.items()):
            table.add_row("" if index else operation, way, f"{number:g}")
        table.add_section()
    return table
