"""Run all cases of a suite behind each guard, in several processes. Each guard is a row of the table."""

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
from tests.benchmarks.agentdojo.bench import Bench, Run, Witness, allow_all_tools
from tests.benchmarks.agentdojo.guards import Reference, reads
from tests.benchmarks.agentdojo.person import Answer
from tests.benchmarks.agentdojo.script import Order
from tests.benchmarks.agentdojo.stage import Scene, Stage
from tests.benchmarks.agentdojo.suite import Suite, World

__all__ = ["ADAPTIVE", "POLICY", "Part", "Plan", "derive_mandate", "of_file", "reference", "run_plan"]

POLICY = "policy"
ADAPTIVE = {"static", POLICY}
"""The rows that the adaptive attacker attacks."""
ATTACKS = {"workspace": attacks_workspace.ATTACKS}


@dataclass(frozen=True)
class Plan:
    """What to run. `persons` are those who answer questions, each in runs of their own."""

    suite: str
    policy: Path | None
    rows: tuple[str, ...]
    orders: tuple[Order, ...]
    persons: tuple[Answer, ...]
    adaptive: bool
    only: Collection[str] = ()


@dataclass(frozen=True)
class Part:
    """The results of one user task in one row. A run whose order is None was not attacked."""

    row: str
    person: Answer
    runs: tuple[Run, ...]
    campaigns: tuple[Campaign, ...]
    seconds: tuple[float, ...]


def run_plan(plan: Plan, jobs: int) -> Iterator[Part]:
    """Run the plan, and yield the results of each user task when it is done.

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


def derive_mandate(guard: Guard, prompt: str) -> Any:
    """Return the mandate that the guard's own templates derive from the user's prompt."""
    return guard.derive(prompt)


def reference(suite: Suite, rule: Reference, witness: Witness) -> Guard:
    """Return a guard whose policy is a reference rule."""
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
    parts.ports.audit.close()  # type: ignore[attr-defined]  # the log that build() makes has `close`; it is replaced here
    policy = witness.timed(parts.ports.policy)
    return Guard.from_parts(
        replace(parts, ports=replace(parts.ports, policy=policy, audit=witness.journal)),
        approver=witness.person,
    )


@cache
def _benchmark(suite: str) -> Any:
    return package.load(suite)


@cache
def _world(suite: str) -> World:
    return World(_benchmark(suite))


def _parts(plan: Plan, user: str) -> list[Part]:
    """Run all cases of one user task. Each task gets new guards, so that no state accumulates."""
    benchmark = _benchmark(plan.suite)
    stage = Stage(benchmark, ATTACKS.get(plan.suite, {}))
    task = benchmark.suite.user_tasks[user]
    scenes = [stage.scene(task, injection) for injection in benchmark.suite.injection_tasks.values()]
    return [part for row in plan.rows for part in _row(plan, row, stage, [stage.scene(task), *scenes])]


def _row(plan: Plan, row: str, stage: Stage, scenes: Sequence[Scene]) -> Iterator[Part]:
    with TemporaryDirectory(prefix="agentdojo-") as folder:
        bench = _bench(plan, row, stage.benchmark.suite, folder)
        runs: dict[tuple[str | None, Order | None], Run] = {}
        persons = plan.persons if row == POLICY else (Answer.NOBODY,)
        parts = [(person, _runs(plan, bench, scenes, person, runs)) for person in persons]
        seconds = tuple(
            bench.witness.seconds
        )  # a copy, taken before the attacker's many variations add theirs
        adaptive = plan.adaptive and row in ADAPTIVE
        campaigns = tuple(_campaigns(bench, stage, scenes)) if adaptive else ()
        bench.guard.close()
    for person, results in parts:
        yield Part(row, person, results, campaigns, seconds)


def _runs(
    plan: Plan,
    bench: Bench,
    scenes: Sequence[Scene],
    person: Answer,
    cache: dict[tuple[str | None, Order | None], Run],
) -> tuple[Run, ...]:
    """Run all cases. A case that asked no person is not run again: a person makes no difference to it."""
    for scene in scenes:
        injection = None if scene.injection is None else scene.injection.ID
        for order in (None,) if injection is None else plan.orders:
            earlier = cache.get((injection, order))
            if earlier is None or earlier.asked:
                cache[injection, order] = bench.run(scene, order, person=person)
    return tuple(cache.values())


def _campaigns(bench: Bench, stage: Stage, scenes: Sequence[Scene]) -> Iterator[Campaign]:
    by_tool = {tool.name: tool.sinks for tool in bench.guard.catalog}
    sinks = by_tool if any(by_tool.values()) else None
    if reachable(bench.tools(scenes[0])):
        known = stage.known_calls
        yield from (
            campaign(bench, stage.benchmark, scene, sinks, known) for scene in scenes if scene.injection
        )


def _bench(plan: Plan, row: str, suite: Suite, folder: str) -> Bench:
    world = _world(plan.suite)
    if row == POLICY:
        assert plan.policy is not None
        intent = derive_mandate if load(plan.policy).tasks else allow_all_tools
        return Bench(world, partial(of_file, plan.policy, folder), intent=intent)
    rule = Reference(row)
    return Bench(world, partial(reference, suite, rule), oracle=partial(setattr, rule, "tools"))
