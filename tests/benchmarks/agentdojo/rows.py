"""Run all cases of a suite behind each guard, in several processes. Each guard is a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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
from tests.benchmarks.agentdojo.paraphrases import PARAPHRASES
from tests.benchmarks.agentdojo.person import Answer
from tests.benchmarks.agentdojo.residual import Residual, residual
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
    """What to run. `paraphrased` has the prompts of `PARAPHRASES` in place of AgentDojo's.

    `persons` are those who answer questions, each in runs of their own."""

    suite: str
    policy: Path | None
    rows: tuple[str, ...]
    orders: tuple[Order, ...]
    persons: tuple[Answer, ...]
    adaptive: bool
    residual: bool
    paraphrased: bool = False
    only: Collection[str] = ()


@dataclass(frozen=True)
class Part:
    """The results of one user task in one row. A run whose order is None was not attacked."""

    row: str
    person: Answer
    runs: tuple[Run, ...]
    campaigns: tuple[Campaign, ...]
    residual: Residual | None
    seconds: tuple[float, ...]


Progress = Callable[[int, int, str], None]
"""Is told how many user tasks are done, of how many, and which one was the last."""


def run_plan(plan: Plan, jobs: int, progress: Progress) -> Iterator[Part]:
    """Run the plan, and yield the results of each user task, in the order of the suite, as they are done.

    *progress* is called when a user task is done.

    Raises:
        LookupError: There is no such suite, or no such user task in it.
        ConfigurationError: The policy file is wrong.
    """
    users = plan.only or list(_benchmark(plan.suite).suite.user_tasks)
    if unknown := set(users) - set(_benchmark(plan.suite).suite.user_tasks):
        raise LookupError(f"{plan.suite} has no {min(unknown)}")
    if jobs == 1:
        for done, user in enumerate(users, 1):
            yield from _parts(plan, user)
            progress(done, len(users), user)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        results = {pool.submit(_parts, plan, user): user for user in users}
        for done, result in enumerate(as_completed(results), 1):
            progress(done, len(users), results[result])
        for result in results:
            yield from result.result()


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
    prompts = PARAPHRASES.get(plan.suite, {}) if plan.paraphrased else {}
    stage = Stage(benchmark, ATTACKS.get(plan.suite, {}), prompts)
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
        left = _residual(bench, stage, scenes[0]) if plan.residual else None
        bench.guard.close()
    for person, results in parts:
        yield Part(row, person, results, campaigns, left, seconds)


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


def _residual(bench: Bench, stage: Stage, scene: Scene) -> Residual:
    return residual(bench, stage.benchmark, scene, _sinks(bench), stage.known_calls)


def _sinks(bench: Bench) -> Mapping[str, Collection[str]] | None:
    by_tool = {tool.name: tool.sinks for tool in bench.guard.catalog}
    return by_tool if any(by_tool.values()) else None


def _campaigns(bench: Bench, stage: Stage, scenes: Sequence[Scene]) -> Iterator[Campaign]:
    sinks = _sinks(bench)
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
