"""Run AgentDojo's suites without a model: ``python -m tests.benchmarks.agentdojo --suite banking``.

A scripted agent does each user task by its ground truth, and obeys every injection as soon as it reads it.
So the figures bound what the enforcement layer does. They are not success rates of real models. The rows of
the table are four reference guards and, with ``--policy``, the guard of an agentguard.toml; all that this
guard gets to know of a task is the task's prompt. ``--only`` and ``--rows`` make a run short, for someone who
is writing a policy.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console

from agentguard.errors import ConfigurationError
from tests.benchmarks.agentdojo.guards import REFERENCES
from tests.benchmarks.agentdojo.package import RELEASE, VERSION
from tests.benchmarks.agentdojo.person import Answer
from tests.benchmarks.agentdojo.report import failures, figures, leftovers, lines_of, show
from tests.benchmarks.agentdojo.rows import POLICY, Part, Plan, run_plan
from tests.benchmarks.agentdojo.script import Order

__all__ = ["main"]

PERSONS = {"absent": (Answer.NOBODY,), "present": (Answer.OWN,), "yes": (Answer.YES,), "all": tuple(Answer)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, print the table, and write all figures and calls to the file of ``--json``."""
    options = _options().parse_args(arguments)
    plan = _plan(options)
    began = perf_counter()
    log = logging.getLogger("agentguard")
    level = log.level
    log.setLevel(logging.CRITICAL)  # each of several hundred thousand denials would be logged

    def tell(done: int, of: int, user: str) -> None:
        text = f"{plan.suite}: {done} of {of} tasks, {user} after {perf_counter() - began:.0f} s"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)

    try:
        parts = list(run_plan(plan, options.jobs, tell))
    except (ConfigurationError, LookupError) as error:
        raise SystemExit(f"{error}") from None
    finally:
        log.setLevel(level)
    rows = figures(parts, plan)
    lines = None if plan.policy is None else lines_of(plan.policy)
    console = Console()
    for text in [*failures(parts), *leftovers(parts)]:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    show(console, plan.suite, rows, lines)
    console.print(f"{perf_counter() - began:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(_all(plan, rows, lines, parts), indent=1, default=str) + "\n")


def _all(plan: Plan, rows: list[dict[str, Any]], lines: Any, parts: Sequence[Part]) -> dict[str, Any]:
    once = [part for part in parts if part.row != POLICY or part.person is plan.persons[0]]
    return {
        "agentdojo": {"release": RELEASE, "version": VERSION},
        "suite": plan.suite,
        "paraphrased": plan.paraphrased,
        "policy": None if plan.policy is None else str(plan.policy),
        "policy_lines": lines,
        "rows": rows,
        "cases": [
            {"row": part.row, "person": part.person, **asdict(run)} for part in parts for run in part.runs
        ],
        "adaptive": [{"row": part.row, **asdict(campaign)} for part in once for campaign in part.campaigns],
        "residual": [
            {"row": part.row, **asdict(part.residual)} for part in once if part.residual is not None
        ],
    }


def _plan(options: argparse.Namespace) -> Plan:
    rows = options.rows or (*REFERENCES, *((POLICY,) if options.policy else ()))
    return Plan(
        suite=options.suite,
        policy=options.policy,
        rows=tuple(rows),
        orders=tuple(Order(order) for order in options.orders),
        persons=PERSONS[options.person],
        adaptive=options.adaptive,
        residual=options.residual,
        paraphrased=options.paraphrased,
        only=tuple(options.only),
    )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.agentdojo", description=__doc__)
    parser.add_argument("--suite", required=True, help="a suite of AgentDojo")
    parser.add_argument("--policy", type=Path, help="an agentguard.toml")
    parser.add_argument("--json", type=Path, help="where all figures, calls and decisions go")
    parser.add_argument("--only", nargs="*", default=(), help="ids of user tasks, as in user_task_3")
    parser.add_argument("--person", choices=PERSONS, default="all", help="who is there to approve")
    parser.add_argument(
        "--rows", nargs="*", choices=(*REFERENCES, POLICY), help="guards to run (default: all)"
    )
    parser.add_argument(
        "--orders", nargs="*", choices=[*Order], default=[*Order], help="when the attacker's calls come"
    )
    parser.add_argument("--adaptive", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--paraphrased", action="store_true", help="have every second prompt in words that no policy knows"
    )
    parser.add_argument("--residual", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="how many processes")
    return parser


if __name__ == "__main__":
    main()
