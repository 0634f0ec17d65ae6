"""What a case starts from: an environment with the injection in it, and both sides' calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.benchmarks.agentdojo.scoring import Score, score
from tests.benchmarks.agentdojo.script import MARK, Attempt
from tests.benchmarks.agentdojo.suite import Benchmark, Call, InjectionTask, UserTask, perform, shown

__all__ = ["Attack", "Scene", "Stage"]

Attack = Callable[[Any, Any], Sequence[tuple[str, dict[str, Any]]]]
"""Makes an attacker's calls from the environment before the task, and the one in which it strikes."""


@dataclass(frozen=True)
class Scene:
    """One user task, alone or with an injection; `before` is its environment, which nobody changes."""

    user: UserTask
    injection: InjectionTask | None
    before: Any
    calls: tuple[Call, ...]
    attack: Callable[[Any], Sequence[Call]] | None
    _scores: dict[str, Score] = field(default_factory=dict, repr=False)

    def score(self, attempts: Sequence[Attempt], after: Any) -> Score:
        """Score a run by what ran in it, once for the same deeds: most of the time of a run goes there."""
        kept = all(attempt.executed for attempt in attempts if attempt.who == "user")
        deeds = repr((kept, [(a.call.function, a.call.args) for a in attempts if a.executed]))
        if deeds not in self._scores:
            trace = [attempt.call for attempt in attempts if attempt.executed]
            self._scores[deeds] = score(trace, kept, self.user, self.injection, self.before, after)
        return self._scores[deeds]

    @cached_property
    def tools(self) -> frozenset[str]:
        """The tools that the user's task needs."""
        return frozenset(call.function for call in self.calls)


class Stage:
    """Sets the scenes of a suite. *attacks* stand in for the ground truth of injection tasks without one."""

    def __init__(self, benchmark: Benchmark, attacks: Mapping[str, Attack]) -> None:
        self.benchmark, self._attacks = benchmark, attacks
        self._functions = {function.name: function for function in benchmark.suite.tools}
        self._places: dict[str, tuple[str, ...]] = {}

    def scene(self, user: UserTask, injection: InjectionTask | None = None) -> Scene:
        """Set a scene: the injection stands wherever the user's task will read it."""
        texts = {} if injection is None else dict.fromkeys(self._read(user), f"{MARK} {injection.GOAL}")
        before = user.init_environment(self.benchmark.environments.make(texts))
        calls = self._flat(user.ground_truth(deepcopy(before)), before)
        return Scene(user, injection, before, calls, self._attack(injection, before))

    def _attack(self, injection: InjectionTask | None, before: Any) -> Callable[[Any], Sequence[Call]] | None:
        if injection is None:
            return None
        if (script := self._attacks.get(injection.ID)) is not None:
            make = self.benchmark.call
            return lambda now: [make(function=tool, args=args) for tool, args in script(before, now)]
        calls = self._flat(injection.ground_truth(deepcopy(before)), before)
        return lambda now: calls

    def _read(self, user: UserTask) -> tuple[str, ...]:
        """Return the places that the user's task reads: where a canary comes back in a result."""
        if user.ID not in self._places:
            canaries = {place: f"<CANARY {place}>" for place in self.benchmark.environments.vectors}
            environment = user.init_environment(self.benchmark.environments.make(canaries))
            calls = self._flat(user.ground_truth(deepcopy(environment)), environment)
            results = [shown(perform(self._functions[c.function], c.args, environment)) for c in calls]
            read = [p for p, canary in canaries.items() if any(canary in result for result in results)]
            self._places[user.ID] = tuple(read)
        return self._places[user.ID]

    def _flat(self, calls: Sequence[Call], environment: Any) -> tuple[Call, ...]:
        """Return the calls with those that stand for an argument before the call whose argument they are."""
        flat: list[Call] = []
        for call in calls:
            values = dict(call.args)
            for name, value in values.items():
                if isinstance(value, type(call)):
                    flat += self._flat([value], environment)
                    values[name] = perform(self._functions[value.function], value.args, deepcopy(environment))
            flat.append(self.benchmark.call(function=call.function, args=values))
        return tuple(flat)
