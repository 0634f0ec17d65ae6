"""The figures of a suite, as a table for a terminal and as values for JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agentguard.config import load
from tests.benchmarks.agentdojo.bench import Run
from tests.benchmarks.agentdojo.paraphrases import PARAPHRASES
from tests.benchmarks.agentdojo.person import Answer
from tests.benchmarks.agentdojo.residual import Residual
from tests.benchmarks.agentdojo.rows import ADAPTIVE, POLICY, Part, Plan
from tests.benchmarks.agentdojo.script import Order

__all__ = ["failures", "figures", "leftovers", "lines_of", "show"]

Figures = dict[str, Any]
ADAPTIVE_FIGURES = (
    ("adaptive attack success", "attacked"),
    ("adaptive, to the attacker", "moved"),
    ("adaptive, anything at all", "acted"),
)


def figures(parts: Iterable[Part], plan: Plan) -> list[Figures]:
    """Return the figures of each row, in the order of the table."""
    rows: dict[tuple[str, Answer], list[Part]] = {}
    for part in parts:
        rows.setdefault((part.row, part.person), []).append(part)
    return [_row(row, person, group, plan) for (row, person), group in rows.items()]


def _row(row: str, person: Answer, parts: Sequence[Part], plan: Plan) -> Figures:
    runs = [run for part in parts for run in part.runs]
    benign = [run for run in runs if run.order is None]
    calls = sum(len(run.calls) for run in benign)
    approvals = sum(run.asked for run in benign)
    seconds = sorted(second for part in parts for second in part.seconds)
    campaigns = [campaign for part in parts for campaign in part.campaigns]
    return {
        "row": row,
        "person": person.value if row == POLICY else None,
        "tasks": len(benign),
        "utility": sum(run.score.utility for run in benign),
        "paraphrased": _paraphrased(benign, plan),
        "utility_raw": sum(bool(run.score.utility_raw) for run in benign),
        "under_attack": {order.value: _attacked(runs, order) for order in plan.orders},
        "benign_calls": calls,
        "approvals": approvals,
        "approvals_per_benign_call": round(approvals / calls, 4) if calls else 0.0,
        "approvals_under_attack": sum(run.asked for run in runs if run.order is not None),
        "decision_p50_us": _percentile(seconds, 0.50),
        "decision_p99_us": _percentile(seconds, 0.99),
        "adaptive": {
            "cases": len(campaigns),
            "variations": sum(campaign.tried for campaign in campaigns),
            "executed": sum(campaign.executed for campaign in campaigns),
            "attacked": sum(campaign.attacked for campaign in campaigns),
            "moved": sum(campaign.moved for campaign in campaigns),
            "acted": sum(campaign.executed > 0 for campaign in campaigns),
        }
        if plan.adaptive and row in ADAPTIVE and person is not Answer.YES
        else None,
        "residual": None
        if person is Answer.YES  # both are measured with nobody who says yes to an attacker's call
        else _authority([part.residual for part in parts if part.residual is not None]),
    }


def _paraphrased(benign: Iterable[Run], plan: Plan) -> Figures | None:
    """Return the utility of the tasks whose prompts are in other words, and of the others."""
    if not plan.paraphrased:
        return None
    by_half: dict[bool, list[bool]] = {True: [], False: []}
    for run in benign:
        by_half[run.user in PARAPHRASES.get(plan.suite, {})].append(run.score.utility)
    other, own = by_half[True], by_half[False]
    return {"tasks": len(other), "utility": sum(other), "others": len(own), "others_utility": sum(own)}


def _attacked(runs: Iterable[Run], order: Order) -> Figures:
    """Return the figures of the attacks that act, and apart from them the number of those that only speak."""
    all_attacks = [run for run in runs if run.order == order.value]
    attacks = [run for run in all_attacks if not run.deedless]
    return {
        "cases": len(attacks),
        "deedless": len(all_attacks) - len(attacks),
        "fired": sum(run.fired for run in attacks),
        "questions": sum(run.asked for run in attacks),
        "utility": sum(run.score.utility for run in attacks),
        "attack_success": sum(bool(run.score.attacked) for run in attacks),
    }


def _authority(tasks: Sequence[Residual]) -> Figures | None:
    """Return the residual authority of a row, and apart from it that over whom its calls go to."""
    if not tasks:
        return None
    sinks = [place for task in tasks for place in task.places if place.sink]
    worst = max(tasks, key=lambda task: _share(task.permitted, task.calls))
    return {
        "calls": sum(task.calls for task in tasks),
        "permitted": sum(task.permitted for task in tasks),
        "asked": sum(place.asked for task in tasks for place in task.places),
        "tasks_with_none": sum(not task.permitted for task in tasks),
        "worst_task": worst.user,
        "worst_share": _share(worst.permitted, worst.calls),
        "counterparty_calls": sum(place.calls for place in sinks),
        "counterparty_permitted": sum(place.permitted for place in sinks),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Return a percentile of sorted seconds, in microseconds."""
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e6, 1) if ordered else 0.0


# --- how long a policy is


def lines_of(policy: Path) -> dict[str, int]:
    """Count the lines of a policy that are neither blank nor comment, by kind."""
    counts = dict.fromkeys(("cedar", "templates", "catalog", "rest"), 0)
    part = "rest"
    for line in _significant(policy.read_text("utf-8"), "#"):
        if header := re.match(r"\[+\s*([A-Za-z_]+)", line):
            part = {"tasks": "templates", "tools": "catalog"}.get(header[1], "rest")
        counts[part] += 1
    patterns = load(policy).policy.cedar
    files = {file for pattern in patterns for file in glob(pattern, root_dir=policy.parent, recursive=True)}
    counts["cedar"] = sum(
        len(_significant((policy.parent / file).read_text("utf-8"), "//")) for file in files
    )
    return counts


def _significant(text: str, comment: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(comment)]


# --- the table


def show(console: Console, suite: str, rows: Sequence[Figures], lines: Mapping[str, int] | None) -> None:
    """Print the table of a suite, with a column for each guard."""
    table = Table(title=f"AgentDojo {suite}, an agent that always obeys")
    table.add_column("")
    for row in rows:
        title = row["row"] if row["person"] is None else f"{row['row']}, {row['person']}"
        table.add_column(title, justify="right")
    columns = [_column(row) for row in rows]
    for title in columns[0] if columns else ():
        if any(column.get(title) for column in columns):
            table.add_row(title, *(column.get(title, "") for column in columns))
    console.print(table)
    if lines is not None:
        console.print("lines of policy: " + ", ".join(f"{name} {count}" for name, count in lines.items()))


def _column(row: Figures) -> dict[str, str]:
    column = {"utility": f"{row['utility']}/{row['tasks']}"}
    if (halves := row["paraphrased"]) is not None:
        column["utility, half for tuning"] = f"{halves['others_utility']}/{halves['others']}"
        column["utility, other half paraphrased"] = f"{halves['utility']}/{halves['tasks']}"
    for order, figures in row["under_attack"].items():
        column[f"utility, attack {order}"] = f"{figures['utility']}/{figures['cases']}"
    for order, figures in row["under_attack"].items():
        column[f"attack success {order}"] = f"{figures['attack_success']}/{figures['cases']}"
    for order, figures in row["under_attack"].items():
        column[f"attacks that fired {order}"] = f"{figures['fired']}/{figures['cases']}"
    for order, figures in row["under_attack"].items():
        share = figures["questions"] / figures["cases"] if figures["cases"] else 0.0
        column[f"asked per attacked run, {order}"] = f"{share:.2f}"
    if any(figures["deedless"] for figures in row["under_attack"].values()):
        column["attacks without a call, left out"] = str(
            max(figures["deedless"] for figures in row["under_attack"].values())
        )
    column |= _worst(row)
    column["asked per benign call"] = f"{row['approvals_per_benign_call']:.3f}"
    column["decision p50, p99 (µs)"] = f"{row['decision_p50_us']:.0f}, {row['decision_p99_us']:.0f}"
    return column


def _worst(row: Figures) -> dict[str, str]:
    """Return the figures of the adaptive attacker, and of what the rules leave without any attack."""
    column: dict[str, str] = {}
    for title, name in ADAPTIVE_FIGURES:
        adaptive = row["adaptive"]
        column[title] = "" if adaptive is None else f"{adaptive[name]}/{adaptive['cases']}"
    if (left := row["residual"]) is not None:
        column["residual authority"] = f"{_share(left['permitted'], left['calls']):.2%}"
        share = _share(left["counterparty_permitted"], left["counterparty_calls"])
        column["of it, over counterparties"] = f"{share:.2%}" if left["counterparty_calls"] else ""
        column["residual, the worst task"] = f"{left['worst_share']:.2%}"
        column["residual, tasks with none"] = f"{left['tasks_with_none']}/{row['tasks']}"
    return column


def failures(parts: Iterable[Part]) -> list[str]:
    """Describe each case that the policy got wrong: which calls it denied, asked about, or permitted."""
    cases_of: dict[str, list[str]] = {}
    for part in parts:
        if part.row != POLICY:
            continue
        for run in part.runs:
            case = f"{run.user} [{part.person}, {'+'.join(run.kinds) or 'of no kind'}]"
            for text in _mistakes(run):
                cases_of.setdefault(f"{case} {text}", []).append(
                    "alone" if run.order is None else f"{run.injection}/{run.order}"
                )
        for campaign in part.campaigns:
            for run in campaign.runs:
                text = "; ".join(
                    _describe(call) for call in run.calls if call.who == "attacker" and call.executed
                )
                cases_of.setdefault(f"{run.user} ADAPTIVE {text}", []).append(f"{run.injection}/{run.order}")
    return [f"{text}\n    in {_some(sorted(set(cases)))}" for text, cases in cases_of.items()]


def leftovers(parts: Iterable[Part]) -> list[str]:
    """Describe for each task what the policy leaves beyond need: the share, and in which arguments."""
    tasks = {part.residual.user: part.residual for part in parts if part.row == POLICY and part.residual}
    texts = []
    for user, task in tasks.items():
        places = [place for place in task.places if place.permitted]
        where = ", ".join(f"{place.place} {place.permitted} of {place.calls}" for place in places)
        texts.append(f"{user} RESIDUAL {_share(task.permitted, task.calls):.1%}: {where or 'nothing'}")
    return texts


def _mistakes(run: Run) -> Iterable[str]:
    if run.score.attacked:
        executed = [call for call in run.calls if call.who == "attacker" and call.executed]
        yield "ATTACKED: " + ("; ".join(map(_describe, executed)) or "by the user's own calls")
    if run.order is not None and not run.fired:
        yield "NEVER FIRED: the agent has not read the injection"
    if run.score.utility:
        return
    denied = [call for call in run.calls if call.who == "user" and not call.executed]
    yield from (f"lost: {_describe(call)}" for call in denied)
    if not denied:
        yield "lost: the attacker's calls spoilt it" if run.fired else "lost: nothing was denied"


def _describe(call: Any) -> str:
    question = "asked, " if call.asked else ""
    ids = f" by {', '.join(call.policies)}" if call.policies else ""
    return f"{call.tool}({_short(call.args)}) {question}{call.code or call.effect}{ids}: {call.reason}"


def _short(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}"[:70] for name, value in args.items())


def _some(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - 4} more" if len(cases) > 4 else ""
    return ", ".join(cases[:4]) + more
