"""One agent of a suite behind one guard, which is run again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

from langchain.agents import create_agent

from agentguard import Guard, Task
from agentguard.analysis.decide import Verdict, decider, request_for, verdict
from agentguard.model import AccessRequest, Arguments, Decision, Mandate, ToolSpec
from agentguard.model.mandate import ANY
from agentguard.ports import CatalogAware, Policy
from tests.benchmarks.agentdojo.person import Answer, Person
from tests.benchmarks.agentdojo.scoring import Score
from tests.benchmarks.agentdojo.script import Actor, Attempt, Order, Script
from tests.benchmarks.agentdojo.stage import Scene
from tests.benchmarks.agentdojo.suite import Call, World

__all__ = ["Bench", "Journal", "JudgedCall", "Run", "TimedPolicy", "Witness", "allow_all_tools"]

Intent = Callable[[Guard, str], Any]
"""Makes the mandate of a task from the guard and the user's prompt."""


def allow_all_tools(guard: Guard, prompt: str) -> Any:
    """Return a mandate for all tools, so that the policy alone decides."""
    return {"tools": "*"}


class Journal:
    """An `AuditLog` that keeps the records of one run in a list."""

    inline = True

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep a record."""
        self.lines.append(dict(record))

    def records(self, task_id: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Yield the records of a task, or all records."""
        yield from (line for line in self.lines if task_id in (None, line.get("task")))


class TimedPolicy:
    """A policy that appends the duration of each decision, in seconds, to a list."""

    def __init__(self, policy: Policy, seconds: list[float]) -> None:
        self._policy, self._seconds = policy, seconds
        self.inline = getattr(policy, "inline", False)

    @property
    def version(self) -> str:
        """The version of the rules in force."""
        return self._policy.version

    def check_tools(self, tools: Iterable[ToolSpec]) -> None:
        """Have the rules checked against the tools."""
        if isinstance(self._policy, CatalogAware):
            self._policy.check_tools(tools)

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request."""
        began = perf_counter()
        try:
            return self._policy.decide(request)
        finally:
            self._seconds.append(perf_counter() - began)


class Witness(NamedTuple):
    """What observes a guard: the person who approves, the audit log, and the durations of decisions."""

    person: Person
    journal: Journal
    seconds: list[float]

    def timed(self, policy: Policy) -> TimedPolicy:
        """Return the policy, with each decision timed."""
        return TimedPolicy(policy, self.seconds)


@dataclass(frozen=True)
class JudgedCall:
    """A call that the agent attempted, and what the guard decided about it."""

    who: str
    tool: str
    args: Mapping[str, Any]
    executed: bool
    effect: str
    code: str | None
    policies: list[str]
    reason: str
    asked: bool


@dataclass(frozen=True)
class Run:
    """One run of the agent.

    `asked` is the number of questions to the person. `fired` is True if the attacker's calls were due.
    `deedless` is True if the attack has no call: it makes the agent say something.
    `kinds` are the names of the templates that the mandate was made from.
    """

    user: str
    injection: str | None
    order: str | None
    score: Score
    kinds: tuple[str, ...]
    fired: bool
    deedless: bool
    asked: int
    calls: tuple[JudgedCall, ...]


class Bench:
    """One agent of a suite behind one guard.

    *make* builds the guard. *oracle* is called with the tools that each user task needs, for a reference
    guard that knows them beforehand. No real guard can know them.
    """

    def __init__(
        self,
        world: World,
        make: Callable[[Witness], Guard],
        *,
        intent: Intent = allow_all_tools,
        oracle: Callable[[frozenset[str]], None] | None = None,
    ) -> None:
        self._world, self._intent, self._oracle = world, intent, oracle
        self.witness, self._actor = Witness(Person(), Journal(), []), Actor()
        self.guard = make(self.witness)
        self.guard.wrap(world.tools)  # the policies then know all tools before the first call
        self._agent: Any = create_agent(self._actor, world.tools, middleware=[self.guard.middleware()])

    def tools(self, scene: Scene) -> frozenset[str]:
        """Return the tools that the mandate of the scene's task holds."""
        intent = self._intent(self.guard, scene.prompt)
        mandate: Any = getattr(intent, "mandate", intent)
        names = Mandate.of(mandate).tools
        return frozenset(self._world.functions) if ANY in names else names

    def run(
        self,
        scene: Scene,
        order: Order | None = None,
        *,
        person: Answer = Answer.NOBODY,
        attack: Callable[[Any], Sequence[Call]] | None = None,
    ) -> Run:
        """Run the agent once. Without *order* there is no attack; *person* is who answers questions.

        *attack* replaces the scene's attack: it makes the attacker's calls from the environment at that time.
        """
        script = self._begin(scene, order, person, attack or scene.attack)
        with self._task(scene) as (_, mandate):
            kinds = tuple(getattr(mandate, "kinds", ()))
        deedless = scene.deedless if attack is None else False
        return Run(
            scene.user.ID,
            None if scene.injection is None else scene.injection.ID,
            None if order is None else order.value,
            scene.score(script.attempts, self._world.environment),
            kinds,
            script.fired,
            deedless,
            self.witness.person.asked,
            tuple(self._judged(script.attempts)),
        )

    def judge(self, scene: Scene, calls: Iterable[Call]) -> list[Verdict]:
        """Return what the guard decides about calls when the user's task is done; none is carried out."""
        self._begin(scene, None, Answer.OWN, None)
        decide, enforcement = decider(self.guard.enforcement), self.guard.enforcement
        with self._task(scene) as (task, _):
            state, verdicts = task.state(), []
            for call in calls:
                spec = self.guard.catalog.tool(call.function)
                if spec is None or not {ANY, spec.name} & state.mandate.tools:
                    verdicts.append(Verdict.DENIED)  # whatever its arguments are
                    continue
                arguments = Arguments.of(self._world.judged_arguments(call))
                verdicts.append(verdict(decide(request_for(enforcement, spec, arguments, state))))
        return verdicts

    @contextmanager
    def _task(self, scene: Scene) -> Iterator[tuple[Task, Any]]:
        """Run the agent in a task, which lasts for the body of the `with`; give its mandate too."""
        prompt = scene.prompt
        mandate = self._intent(self.guard, prompt)
        with self.guard.task("AgentDojo", subject="user://agentdojo", words=prompt, mandate=mandate) as task:
            self._agent.invoke({"messages": [("user", prompt)]}, {"recursion_limit": 1000})
            yield task, mandate

    def _begin(
        self,
        scene: Scene,
        order: Order | None,
        person: Answer,
        attack: Callable[[Any], Sequence[Call]] | None,
    ) -> Script:
        world = self._world
        world.enter(deepcopy(scene.before))
        self.witness.person.answer = person
        self.witness.person.expect([(call.function, world.judged_arguments(call)) for call in scene.calls])
        self.witness.journal.lines.clear()
        if self._oracle is not None:
            self._oracle(scene.tools)
        script = Script(
            scene.calls,
            scene.user.GROUND_TRUTH_OUTPUT,
            ran=lambda: len(world.executed),
            attack=None if order is None or attack is None else lambda: attack(world.environment),
            order=order or Order.ON_READ,
        )
        self._actor.script = script
        return script

    def _judged(self, attempts: Iterable[Attempt]) -> Iterator[JudgedCall]:
        decisions = [line for line in self.witness.journal.lines if line["event"] == "decision"]
        for attempt, decision in zip(attempts, decisions, strict=True):
            yield JudgedCall(
                who=attempt.who,
                tool=attempt.call.function,
                args=dict(attempt.call.args),
                executed=attempt.executed,
                effect=decision["effect"],
                code=decision.get("code"),
                policies=decision["policies"],
                reason=decision["reason"],
                asked=bool(decision.get("approval")) or str(decision.get("code")).startswith("approval_"),
            )
