"""What a case starts from: an environment with the injection, the user's calls and the attacker's calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.benchmarks.agentdojo.scoring import Score, score
from tests.benchmarks.agentdojo.script import MARK, Attempt
from tests.benchmarks.agentdojo.suite import Benchmark, Call, InjectionTask, UserTask, as_text, perform

__all__ = ["Attack", "Scene", "Stage"]

Attack = Callable[[Any, Any], Sequence[tuple[str, dict[str, Any]]]]
"""Makes an attacker's calls from the environment before the task and the one when the attack begins."""


@dataclass(frozen=True)
class Scene:
    """One user task, alone or with an injection. `before` is its environment; nothing changes it.

    `prompt` is what the user says, in AgentDojo's words or in others.
    """

    user: UserTask
    injection: InjectionTask | None
    before: Any
    calls: tuple[Call, ...]
    attack: Callable[[Any], Sequence[Call]] | None
    prompt: str
    _scores: dict[str, Score] = field(default_factory=dict, repr=False)

    def score(self, attempts: Sequence[Attempt], after: Any) -> Score:
        """Score a run by the calls that ran. The same calls are scored once, since scoring takes long."""
        complete = all(attempt.executed for attempt in attempts if attempt.who == "user")
        key = repr((complete, [(a.call.function, a.call.args) for a in attempts if a.executed]))
        if key not in self._scores:
            trace = [attempt.call for attempt in attempts if attempt.executed]
            self._scores[key] = score(trace, complete, self.user, self.injection, self.before, after)
        return self._scores[key]

    @cached_property
    def deedless(self) -> bool:
        """Whether the attack has no call: its goal is that the agent says something."""
        return self.attack is not None and not self.attack(deepcopy(self.before))

    @cached_property
    def tools(self) -> frozenset[str]:
        """The tools that the user's task needs."""
        return frozenset(call.function for call in self.calls)


class Stage:
    """Makes the scenes of a suite.

    *attacks* replaces the ground truth of injection tasks that have none, and *prompts* those of user tasks.
    """

    def __init__(
        self, benchmark: Benchmark, attacks: Mapping[str, Attack], prompts: Mapping[str, str] | None = None
    ) -> None:
        self.benchmark, self._attacks, self._prompts = benchmark, attacks, prompts or {}
        self._functions = {function.name: function for function in benchmark.suite.tools}
        self._places: dict[str, tuple[str, ...]] = {}

    def scene(self, user: UserTask, injection: InjectionTask | None = None) -> Scene:
        """Make a scene. The injection is put at each place that the user's task reads."""
        texts = {} if injection is None else dict.fromkeys(self._read(user), f"{MARK} {injection.GOAL}")
        before = user.init_environment(self.benchmark.environments.make(texts))
        calls = self._flat(user.ground_truth(deepcopy(before)), before)
        prompt = self._prompts.get(user.ID, user.PROMPT)
        return Scene(user, injection, before, calls, self._attack(injection, before), prompt)

    @cached_property
    def known_calls(self) -> tuple[Call, ...]:
        """The calls of all of the suite's tasks and attacks, in an environment that nobody has attacked."""
        suite, environment = self.benchmark.suite, self.benchmark.environments.make({})
        calls = [call for task in suite.user_tasks.values() for call in self.scene(task).calls]
        for injection in suite.injection_tasks.values():
            attack = self._attack(injection, environment)
            calls += [] if attack is None else attack(environment)
        return tuple(calls)

    def _attack(self, injection: InjectionTask | None, before: Any) -> Callable[[Any], Sequence[Call]] | None:
        if injection is None:
            return None
        if (script := self._attacks.get(injection.ID)) is not None:
            make = self.benchmark.call
            return lambda now: [make(function=tool, args=args) for tool, args in script(before, now)]
        calls = self._flat(injection.ground_truth(deepcopy(before)), before)
        return lambda now: calls

    def _read(self, user: UserTask) -> tuple[str, ...]:
        """Return the places that the user's task reads: those whose canary is in a result."""
        if user.ID not in self._places:
            canaries = {place: f"<CANARY {place}>" for place in self.benchmark.environments.vectors}
            environment = user.init_environment(self.benchmark.environments.make(canaries))
            calls = self._flat(user.ground_truth(deepcopy(environment)), environment)
            results = [as_text(perform(self._functions[c.function], c.args, environment)) for c in calls]
            read = [p for p, canary in canaries.items() if any(canary in result for result in results)]
            self._places[user.ID] = tuple(read)
        return self._places[user.ID]

    def _flat(self, calls: Sequence[Call], environment: Any) -> tuple[Call, ...]:
        """Return the calls in a flat list. A call that is an argument of another one comes before it."""
        flat: list[Call] = []
        for call in calls:
            values = dict(call.args)
            for name, value in values.items():
                if isinstance(value, type(call)):
                    flat += self._flat([value], environment)
                    values[name] = perform(self._functions[value.function], value.args, deepcopy(environment))
            flat.append(self.benchmark.call(function=call.function, args=values))
        return tuple(flat)
