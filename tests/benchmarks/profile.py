"""Where the time of a guarded call goes, by stage: what explains a goal that is missed.

cProfile counts every function. A function of a stage's own modules belongs to that stage. Any other one
(a method of sqlite3, `json.dumps`, a dataclass of the model) belongs to the stages that call it, in
proportion to the time that each of them spends in it. The profiler slows down small Python functions most:
believe large differences only. The microseconds are scaled to the CPU time of a call without the profiler.
cProfile sees one thread, so what langgraph gives to a pool of threads runs in place while it is on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from cProfile import Profile
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType
from typing import Any, NamedTuple
from unittest.mock import patch

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.table import Table

from tests.benchmarks.cases import QUESTION, Stages, agents_of, invoking, stages, tools_of
from tests.benchmarks.measuring import Subject, interleaved
from tests.benchmarks.shop import ARGUMENTS

__all__ = ["STAGES", "profile", "profile_table"]

# the first part of a path that fits names the stage
STAGES = {
    "store": ("agentguard/stores/", "/sqlite3/"),
    "audit": ("agentguard/audit/", "agentguard/enforcement/recording"),
    "spans": ("agentguard/telemetry", "/opentelemetry/"),
    "Cedar": ("agentguard/policies/", "/cedarpy/"),
    "token": ("agentguard/credentials/", "agentguard/jose", "/cryptography/"),
    "arguments": ("agentguard/langchain/schema", "agentguard/langchain/canonical", "agentguard/provenance/"),
    "redaction": ("agentguard/redaction/", "agentguard/lease"),
    "flow": (
        "agentguard/enforcement/",
        "agentguard/langchain/",
        "agentguard/concurrency/",
        "agentguard/tasks/",
    ),
    "langchain": ("/langchain", "/langgraph/", "/langsmith/", "/pydantic", "/tenacity/"),
}
REST = "rest"
SWEEPS = 40  # a chain of calls through functions of no stage is hardly ever longer
Shares = dict[str, float]


class _Edge(NamedTuple):
    caller: int
    callee: int
    seconds: float


def profile(kind: str, calls: int, rounds: int) -> dict[str, Any]:
    """Profile a *kind* of call, ``tool`` or ``agent``, bare and guarded with each store, in microseconds."""
    exporter, figures = InMemorySpanExporter(), {}
    with TemporaryDirectory() as name, stages(Path(name), exporter, is_async=False) as all_stages:
        subjects = _subjects(kind, all_stages, calls)
        timings = interleaved(subjects, rounds, exporter.clear)
        for way, subject in subjects.items():
            seconds = min(timings[way].cpu_rounds)  # other processes lengthen it least
            shares = _shares(min((_profiled(subject) for _ in range(rounds)), key=_whole))
            figures[way] = {
                "microseconds": round(seconds * 1e6, 1),
                "stages": {stage: round(share * seconds * 1e6, 1) for stage, share in shares.items()},
            }
    return {"kind": kind, "calls": calls, "rounds": rounds, "ways": figures}


def _subjects(kind: str, all_stages: Stages, calls: int) -> dict[str, Subject]:
    if kind == "tool":
        return {way: invoking(stage, tool, ARGUMENTS, calls) for way, stage, tool in tools_of(all_stages)}
    ways = {"bare", *(f"middleware {store}" for store in all_stages.guarded)}
    return {
        way: invoking(stage, agent, QUESTION, max(1, calls // 8))
        for way, stage, agent in agents_of(all_stages)
        if way in ways
    }


def _profiled(subject: Subject) -> Profile:
    profiler = Profile()
    with patch.object(ThreadPoolExecutor, "submit", _in_place):
        profiler.enable()
        try:
            subject.run(subject.calls)
        finally:
            profiler.disable()
    subject.verify(subject.calls)
    return profiler


def _whole(profiler: Profile) -> float:
    return float(sum(entry.inlinetime for entry in profiler.getstats()))


def _in_place(
    _pool: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    """Do as `ThreadPoolExecutor.submit`, in the thread of the caller."""
    future: Future[Any] = Future()
    try:
        future.set_result(function(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001  the future hands it to whoever asks for the result
        future.set_exception(error)
    return future


def _shares(profiler: Profile) -> Shares:
    """Give each function's own time to its stage, or to the stages of its callers."""
    entries: list[Any] = list(profiler.getstats())
    number = {_key(entry.code): n for n, entry in enumerate(entries)}
    edges = [
        _Edge(n, number[_key(sub.code)], sub.totaltime)
        for n, entry in enumerate(entries)
        for sub in entry.calls or ()
        if _key(sub.code) in number
    ]
    stages_of = _stages_of([stage_of(entry.code) for entry in entries], edges)
    total: Shares = defaultdict(float)
    for entry, owners in zip(entries, stages_of, strict=True):
        for stage, share in owners.items():
            total[stage] += entry.inlinetime * share
    whole = sum(total.values())
    return {stage: total.get(stage, 0.0) / whole for stage in (*STAGES, REST)}


def _key(code: CodeType | str) -> int | str:
    return id(code) if isinstance(code, CodeType) else code


def stage_of(code: CodeType | str) -> str | None:
    """Return the stage whose module a function stands in, or None; a builtin is given as a text."""
    path = code.co_filename if isinstance(code, CodeType) else ""
    return next((stage for stage, parts in STAGES.items() if any(part in path for part in parts)), None)


def _stages_of(stage_names: list[str | None], edges: list[_Edge]) -> list[Mapping[str, float]]:
    """Return for each function the stages that it belongs to, with their shares."""
    owners: list[Mapping[str, float]] = [{REST if stage is None else stage: 1.0} for stage in stage_names]
    incoming: dict[int, list[_Edge]] = defaultdict(list)
    for edge in edges:
        if stage_names[edge.callee] is None and edge.caller != edge.callee:
            incoming[edge.callee].append(edge)
    for _ in range(SWEEPS):
        for callee, callers in incoming.items():
            weight = sum(edge.seconds for edge in callers)
            if weight:
                owners[callee] = _mixed(callers, owners, weight)
    return owners


def _mixed(callers: list[_Edge], owners: list[Mapping[str, float]], weight: float) -> Mapping[str, float]:
    mixed: Shares = defaultdict(float)
    for edge in callers:
        for stage, share in owners[edge.caller].items():
            mixed[stage] += share * edge.seconds / weight
    return mixed


def profile_table(figures: Mapping[str, Any]) -> Table:
    """Lay the figures out: one line for each stage, one column for each way."""
    ways = figures["ways"]
    table = Table(
        "stage, µs",
        *ways,
        title=f"{figures['kind']}.invoke by stage (cProfile, scaled to the least CPU time)",
    )
    for stage in (*STAGES, REST):
        table.add_row(stage, *(f"{way['stages'][stage]:.1f}" for way in ways.values()))
    table.add_row("all", *(f"{way['microseconds']:.1f}" for way in ways.values()))
    return table
