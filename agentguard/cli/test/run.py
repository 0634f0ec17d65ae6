"""Runs scenarios, and says of each step whether it was decided as expected."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from agentguard import Denied, Guard
from agentguard.cli.test.scenarios import Scenario, Step
from agentguard.cli.test.stage import Stage
from agentguard.errors import DenialCode, TaskError
from agentguard.tasks.task import Task

__all__ = ["Outcome", "run"]

Record = dict[str, Any]
DECIDED = frozenset(
    {
        *(DenialCode.MANDATE, DenialCode.POLICY, DenialCode.OBLIGATION, DenialCode.BUDGET),
        *(DenialCode.APPROVAL_REFUSED, DenialCode.APPROVAL_UNAVAILABLE, DenialCode.NO_RIGHTS),
    }
)
"""The denials that somebody has decided. Any other one says that the call could not be judged, as where an
argument is misspelled or a record is missing: a step that expects it names its code."""


@dataclass(slots=True)
class Outcome:
    """How a scenario went: what was wrong in it, the recorded decisions, and how long it took in seconds."""

    scenario: Scenario
    problems: list[str] = field(default_factory=list)
    decisions: list[Record] = field(default_factory=list)
    seconds: float = 0.0


def run(stage: Stage, scenario: Scenario) -> Outcome:
    """Run a scenario to its first step that is decided otherwise than expected: what follows builds on it."""
    start, outcome = time.perf_counter(), Outcome(scenario)
    try:
        with _task(stage.guard, scenario) as task:
            for number, step in enumerate(scenario.step, 1):
                if problem := _problem(stage, step, task):
                    outcome.problems.append(f"step {number}, {_name(step)}: {problem}")
                    break
    except (ValueError, TaskError) as error:
        outcome.problems.append(f"the task cannot begin or go on: {error}")
    outcome.decisions = _decisions(stage)
    outcome.seconds = time.perf_counter() - start
    return outcome


def _task(guard: Guard, scenario: Scenario) -> Task:
    mandate: Any = scenario.mandate
    if mandate is None:
        templates = bool(scenario.words and guard.intent.templates)
        mandate = guard.derive(scenario.words) if templates else {"tools": "*"}
    return guard.task(scenario.purpose, subject=scenario.subject, mandate=mandate, words=scenario.words)


def _problem(stage: Stage, step: Step, task: Task) -> str:
    """Return what of a step is otherwise than expected, or an empty text."""
    if step.says is not None:
        task.heard(step.says)
    elif step.renew is not None:
        task.renew(step.renew)
    elif step.tool not in stage.tools:
        return "there is no such tool"
    else:
        return _difference(step, *_made(stage, step, task))
    return ""


def _made(stage: Stage, step: Step, task: Task) -> tuple[str, Record]:
    """Make the call of a step; return what was decided in a word, and the record of the decision."""
    denied, before = False, len(_decisions(stage))
    try:
        stage.call(step, task.config)
    except Denied:
        denied = True
    except RuntimeError:
        if not step.fails:
            raise
    records = _decisions(stage)[before:]
    if not records:
        return "not decided", {}
    return "ask" if stage.questions else "deny" if denied else "permit", records[-1]


def _decisions(stage: Stage) -> list[Record]:
    return [record for record in stage.audit.records() if record.get("event") == "decision"]


def _difference(step: Step, verdict: str, record: Record) -> str:
    reason = record.get("reason")
    if verdict != step.expect:
        return f"expected {step.expect}, and it is {verdict}: {reason}"
    if verdict == "ask" and step.answer == "yes" and record.get("effect") != "permit":
        return f"a person has said yes, and it is denied: {reason}"
    if verdict == "deny" and step.code is None and record.get("code") not in DECIDED:
        return f"expected deny, and it could not be judged (name the code {record.get('code')}?): {reason}"
    if step.code is not None and step.code != record.get("code"):
        return f"expected the code {step.code}, and it is {record.get('code')}: {reason}"
    if step.by is not None and step.by not in record.get("policies", ()):
        return f"expected {step.expect} by {step.by}, and it is by {_ids(record)}: {reason}"
    return ""


def _ids(record: Record) -> str:
    return ", ".join(map(str, record.get("policies", ()))) or "no rule"


def _name(step: Step) -> str:
    return step.tool or ("says" if step.says is not None else "renew")
