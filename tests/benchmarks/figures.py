"""One run of the benchmark, and its figures: ratios, the floor, thread hops, and which goals are met."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentguard.jose import Signer
from tests.benchmarks.cases import AT_ONCE, STORES, Case, Stages, cases, invoking, stages
from tests.benchmarks.floor import Part, floor, in_turn
from tests.benchmarks.hops import thread_hops
from tests.benchmarks.measuring import Subject, Timing, interleaved, median_ratio, repeated
from tests.benchmarks.shop import ARGUMENTS, POLICIES, Shop
from tests.benchmarks.stages import Bare, CallsNotMade

__all__ = ["GOALS", "Figures", "measure"]

GOALS = {
    "agent_step_ratio_sync": 1.25,
    "agent_step_ratio_async": 1.30,
    "tool_invoke_ratio": 3.0,
    "overhead_over_floor_in_place": 2.0,
    "thread_hops": 2.0,
}
MEASURES = ("median", "quickest", "cpu")
IN_PLACE = Case("tool.invoke", 1, "parts in place")
ONE_SPAN = Case("tool.invoke", 1, "parts in place, one span")
IN_PLACE_FLOORS = {"in_place": IN_PLACE, "in_place_one_span": ONE_SPAN}
BARE = Case("tool.invoke", 1, "bare")
PART = "part of the floor"
Figures = dict[str, Any]
Timings = Mapping[Case, Timing]


def measure(rounds: int, calls: int, widths: Sequence[int] = AT_ONCE, *, policies: str = POLICIES) -> Figures:
    """Time everything in one run; *calls* are those of a tool in one round.

    *widths* are the numbers of asynchronous calls that are under way at once; 1 is always among them.

    Raises:
        CallsNotMade: A timed call was not permitted, or did not run.
        Denied: The same, of a tool that is called without an agent.
    """
    exporter = InMemorySpanExporter()
    with (
        TemporaryDirectory() as name,
        stages(Path(name), exporter, is_async=False, policies=policies) as sync,
        stages(Path(name), exporter, is_async=True, policies=policies) as asynchronous,
        asyncio.Runner() as runner,
    ):
        hops = thread_hops(sync, asynchronous, runner)
        spans, tokens = _made_by_a_call(sync, exporter)
        with floor(Path(name), exporter, spans, tokens) as parts:
            subjects = _floor_subjects(parts, calls) | cases(
                sync, asynchronous, runner, calls, sorted({1, *widths})
            )
            # an exporter that keeps all spans of a run would have each call wait for new memory
            timings = interleaved(subjects, rounds, exporter.clear)
    return _figures(timings, parts, hops, rounds)


def _made_by_a_call(sync: Stages, exporter: InMemorySpanExporter) -> tuple[int, int]:
    """Return how many spans the guard exports, and how many tokens it signs, for one call of the tool.

    These are of its default settings, and of a tool that does not use its credential.
    """
    stage, calls = sync.guarded["memory"], 4
    stage.flush()
    exporter.clear()
    with patch.object(Signer, "sign", autospec=True, side_effect=Signer.sign) as sign:
        invoking(stage, stage.tools()[1], ARGUMENTS, calls).run(calls)
    stage.verify(calls)
    stage.flush()
    spans, tokens = len(exporter.get_finished_spans()), sign.call_count
    if spans == 0 or spans % calls or tokens % calls:
        raise CallsNotMade(f"{calls} calls have exported {spans} spans and signed {tokens} tokens")
    return spans // calls, tokens // calls


def _floor_subjects(parts: Mapping[str, Part], calls: int) -> dict[Case, Subject]:
    subjects = {Case(PART, 1, name): repeated(part.call, calls) for name, part in parts.items()}
    # a guard that makes more spans has a higher floor: so the floor with one span stands beside it
    one_span = {name: part._replace(times=part.least) for name, part in parts.items()}
    for case, inside in ((IN_PLACE, parts), (ONE_SPAN, one_span)):
        stage = Bare(Shop(is_async=False, inside=in_turn(inside)))
        subjects[case] = invoking(stage, stage.shop.refund, ARGUMENTS, calls)
    return subjects


def _figures(
    timings: Timings, parts: Mapping[str, Part], hops: Mapping[str, Mapping[str, float]], rounds: int
) -> Figures:
    ratios = {case: _ratios(timings, case) for case in timings if case.operation != PART}
    over_floor = {store: _over_floor(timings, parts, store) for store in STORES}
    figures: Figures = {
        "goals": _goals(ratios, over_floor, hops),
        "rounds": rounds,
        # 1 on an idle machine; above it, other processes had the processor while the bare tool was timed
        "waiting": median_ratio(timings[BARE].rounds, timings[BARE].cpu_rounds),
        "python": platform.python_version(),
        "langchain": version("langchain"),
        "langchain_core": version("langchain-core"),
        "cases": {},
        "floor": _floor(timings, parts) | {"overhead": over_floor},
        "thread_hops": hops,
    }
    for case, ratio in sorted(ratios.items(), key=lambda item: item[0].way != "bare"):
        by_way = figures["cases"].setdefault(f"{case.operation}, {case.at_once} at once", {})
        by_way[case.way] = _times(timings[case]) | {"ratio": ratio, "throughput_ratio": 1 / ratio["median"]}
    return figures


def _times(timing: Timing) -> Figures:
    return {
        "microseconds": round(timing.median * 1e6, 1),
        "quickest_microseconds": round(timing.quickest * 1e6, 1),
        "cpu_microseconds": round(median(timing.cpu_rounds) * 1e6, 1),
        "calls": timing.calls * len(timing.rounds),
    }


def _ratios(timings: Timings, case: Case) -> dict[str, float]:
    """Return the ratios of a case to the bare one, which is called in the same manner."""
    timing, bare = timings[case], timings[case._replace(way="bare")]
    return {
        "median": median_ratio(timing.rounds, bare.rounds),
        "quickest": timing.quickest / bare.quickest,
        "cpu": median_ratio(timing.cpu_rounds, bare.cpu_rounds),
    }


def _over_floor(timings: Timings, parts: Mapping[str, Part], store: str) -> dict[str, dict[str, float]]:
    """Return what the guard adds to a call, over each floor."""
    guarded = timings[Case("tool.invoke", 1, f"wrap {store}")]
    figures: dict[str, dict[str, float]] = {"in_place": {}, "in_place_one_span": {}, "hot": {}}
    for measure, rounds in (("median", _by_clock), ("quickest", _quickest), ("cpu", _by_cpu)):
        bare = rounds(timings[BARE])
        added = _minus(rounds(guarded), bare)
        for name, case in IN_PLACE_FLOORS.items():
            figures[name][measure] = median_ratio(added, _minus(rounds(timings[case]), bare))
        hot = [
            sum(part.times * seconds for part, seconds in zip(parts.values(), row, strict=True))
            for row in zip(*(rounds(timings[Case(PART, 1, part)]) for part in parts), strict=True)
        ]
        figures["hot"][measure] = median_ratio(added, hot)
    return figures


def _by_clock(timing: Timing) -> Sequence[float]:
    return timing.rounds


def _by_cpu(timing: Timing) -> Sequence[float]:
    return timing.cpu_rounds


def _quickest(timing: Timing) -> Sequence[float]:
    return (timing.quickest,)


def _minus(more: Sequence[float], less: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(more, less, strict=True)]


def _floor(timings: Timings, parts: Mapping[str, Part]) -> Figures:
    hot = {name: timings[Case(PART, 1, name)] for name in parts}
    figures: Figures = {
        "parts": {name: _times(hot[name]) | {"times": part.times} for name, part in parts.items()},
        "hot": {
            "microseconds": round(sum(hot[n].median * part.times for n, part in parts.items()) * 1e6, 1),
            "quickest_microseconds": round(
                sum(hot[n].quickest * part.times for n, part in parts.items()) * 1e6, 1
            ),
        },
    }
    for name, case in IN_PLACE_FLOORS.items():
        added = _minus(timings[case].rounds, timings[BARE].rounds)
        figures[name] = {
            "microseconds": round(median(added) * 1e6, 1),
            "quickest_microseconds": round((timings[case].quickest - timings[BARE].quickest) * 1e6, 1),
        }
    return figures


def _goals(
    ratios: Mapping[Case, Mapping[str, float]],
    over_floor: Mapping[str, Mapping[str, Mapping[str, float]]],
    hops: Mapping[str, Mapping[str, float]],
) -> Figures:
    """Compare each goal with its figure, all with SQLite; of an agent's two ways the dearer one counts."""
    hop = hops["tool.ainvoke"]["wrap sqlite"]
    figures: dict[str, Mapping[str, float]] = {
        "agent_step_ratio_sync": _dearer(ratios, "agent.invoke"),
        "agent_step_ratio_async": _dearer(ratios, "agent.ainvoke"),
        "tool_invoke_ratio": ratios[Case("tool.invoke", 1, "wrap sqlite")],
        "overhead_over_floor_in_place": over_floor["sqlite"]["in_place"],
        "thread_hops": dict.fromkeys(MEASURES, hop),
    }
    return {
        # both, since either alone may be low by chance where other processes take the processor
        name: {**ratio, "goal": GOALS[name], "met": max(ratio["median"], ratio["cpu"]) <= GOALS[name]}
        for name, ratio in figures.items()
    }


def _dearer(ratios: Mapping[Case, Mapping[str, float]], operation: str) -> dict[str, float]:
    ways = [ratios[Case(operation, 1, f"{way} sqlite")] for way in ("wrap", "middleware")]
    return {measure: max(way[measure] for way in ways) for measure in MEASURES}
