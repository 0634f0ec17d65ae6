"""The rows of the table: one guard each, and all cases of a suite run behind it, on several processors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentguard import Guard
from agentguard.catalog import Catalog
from agentguard.config import build, load
from agentguard.identity import LocalIdentity
from agentguard.model import ToolPath, ToolSpec
from agentguard.stores.memory import MemoryStore
from tests.benchmarks.agentdojo import attacks_workspace, package
from tests.benchmarks.agentdojo.adaptive import Campaign, campaign, reachable
from tests.benchmarks.agentdojo.bench import Bench, Run, Witness, everything
from tests.benchmarks.agentdojo.guards import Reference, reads
from tests.benchmarks.agentdojo.script import Order
from tests.benchmarks.agentdojo.stage import Scene, Stage
from tests.benchmarks.agentdojo.suite import Suite, World

__all__ = ["ADAPTIVE", "POLICY", "Part", "Plan", "carried_out", "derived", "of_file", "reference"]

POLICY = "policy"
ADAPTIVE = {"static", POLICY}
"""The rows that the adaptive attacker takes on: to it, the best list of tools is no hindrance at all."""
ATTACKS = {"workspace": attacks_workspace.ATTACKS}


@dataclass(frozen=True)
class Plan:
    """What to run: *persons* says for which of absent (False) and present (True)."""

    suite: str
    policy: Path | None
    rows: tuple[str, ...]
    orders: tuple[Order, ...]
    persons: tuple[bool, ...]
    adaptive: bool
    only: Collection[str] = ()


@dataclass(frozen=True)
class Part:
    """What one user task came to in one row; a run whose order is None was not attacked."""

    row: str
    present: bool
    runs: tuple[Run, ...]
    campaigns: tuple[Campaign, ...]
    seconds: tuple[float, ...]


def carried_out(plan: Plan, jobs: int) -> Iterator[Part]:
    """Run all that is planned, and yield it as it is done.

    Raises:
        LookupError: There is no such suite, or no such user task in it.
        ConfigurationError: The policy file is wrong.
    """
    users = plan.only or list(_benchmark(plan.suite).suite.user_tasks)
    if unknown := set(users) - set(_benchmark(plan.suite).suite.user_tasks):
        raise LookupError(f"{plan.suite} has no {min(unknown)}")
    if jobs == 1:
        for user in users:
            yield from _parts(plan, user)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for parts in pool.map(_parts, [plan] * len(users), users):
            yield from parts


def derived(guard: Guard, prompt: str) -> Any:
    """Return the mandate that the guard's own templates give for the user's prompt."""
    return guard.derive(prompt)


def reference(suite: Suite, rule: Reference, witness: Witness) -> Guard:
    """Return a guard that asks a reference rule."""
    specs = [
        ToolSpec(name=tool.name, path=ToolPath.READ if reads(tool.name) else ToolPath.WRITE)
        for tool in suite.tools
    ]
    return Guard(
        catalog=Catalog(specs),
        policy=witness.timed(rule),
        identity=LocalIdentity("agent://agentdojo"),
        brokers={},
        store=MemoryStore(),
        audit=witness.journal,
        approver=witness.person,
    )


def of_file(path: Path, folder: str, witness: Witness) -> Guard:
    """Return the guard of an agentguard.toml, with its state in memory and its files in *folder*."""
    settings = load(path)
    store = settings.store.model_copy(update={"kind": "memory"})
    audit = settings.audit.model_copy(update={"path": f"{folder}/audit.jsonl"})
    parts = build(settings.model_copy(update={"store": store, "audit": audit}))
    parts.audit.close()  # type: ignore[attr-defined]  # the log of a file has one, and is not used
    policy = witness.timed(parts.policy)
    return Guard.from_parts(replace(parts, policy=policy, audit=witness.journal), approver=witness.person)


@cache
def _benchmark(suite: str) -> Any:
    return package.load(suite)


@cache
def _world(suite: str) -> World:
    return World(_benchmark(suite))


def _parts(plan: Plan, user: str) -> list[Part]:
    """Run everything about one user task; the guards are new for each, so that nothing piles up."""
    benchmark = _benchmark(plan.suite)
    stage = Stage(benchmark, ATTACKS.get(plan.suite, {}))
    task = benchmark.suite.user_tasks[user]
    scenes = [stage.scene(task, injection) for injection in benchmark.suite.injection_tasks.values()]
    return [part for row in plan.rows for part in _row(plan, row, stage, [stage.scene(task), *scenes])]


def _row(plan: Plan, row: str, stage: Stage, scenes: Sequence[Scene]) -> Iterator[Part]:
    with TemporaryDirectory(prefix="agentdojo-") as folder:
        bench = _bench(plan, row, stage.benchmark.suite, folder)
        runs: dict[tuple[str | None, Order | None], Run] = {}
        persons = plan.persons if row == POLICY else (False,)
        parts = [(present, _runs(plan, bench, scenes, present, runs)) for present in persons]
        seconds = tuple(bench.witness.seconds)  # without those of the attacker's many variations
        adaptive = plan.adaptive and row in ADAPTIVE
        campaigns = tuple(_campaigns(bench, stage, scenes)) if adaptive else ()
        bench.guard.close()
    for present, done in parts:
        yield Part(row, present, done, campaigns, seconds)


def _runs(
    plan: Plan,
    bench: Bench,
    scenes: Sequence[Scene],
    present: bool,
    known: dict[tuple[str | None, Order | None], Run],
) -> tuple[Run, ...]:
    """Run all cases; one in which nobody was asked before is the same whoever is there to be asked."""
    for scene in scenes:
        injection = None if scene.injection is None else scene.injection.ID
        for order in (None,) if injection is None else plan.orders:
            before = known.get((injection, order))
            if before is None or before.asked:
                known[injection, order] = bench.run(scene, order, present=present)
    return tuple(known.values())


def _campaigns(bench: Bench, stage: Stage, scenes: Sequence[Scene]) -> Iterator[Campaign]:
    named = {tool.name: tool.sinks for tool in bench.guard.catalog}
    sinks = named if any(named.values()) else None
    for scene in scenes:
        if reachable(scene):
            yield campaign(bench, stage.benchmark, scene, sinks)


def _bench(plan: Plan, row: str, suite: Suite, folder: str) -> Bench:
    world = _world(plan.suite)
    if row == POLICY:
        assert plan.policy is not None
        intent = derived if load(plan.policy).tasks else everything
        return Bench(world, partial(of_file, plan.policy, folder), intent=intent)
    rule = Reference(row)
    return Bench(world, partial(reference, suite, rule), oracle=partial(setattr, rule, "tools"))
