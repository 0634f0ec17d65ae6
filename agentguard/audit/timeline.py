"""A picture of what happened in a task, made from its audit records.

In a terminal, ``repr(timeline)`` is a table of text. In a notebook, Jupyter shows the HTML and SVG of
``_repr_html_``. Neither shows values of arguments or secrets. The picture shows what the log says;
whether the log was altered, ``agentguard audit verify`` checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentguard.display import BAD, GOOD, badge, code, html_of, hue, mark, table
from agentguard.text import printable

__all__ = ["Step", "Timeline"]

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call: the decision, the policies that made it, and the life of its credential.

    `at` is the time of the decision as the record has it; `after` is the same in seconds from the first
    decision. `depth` is the number of tasks between the timeline's task and the call's, and `actor` the
    agent that made the call. `seconds` is how long the credential lived. `revoked` is None if there was
    no credential. `reusable` means that the credential stays valid for its task, which is still active.
    `missing` is one word for what the user has not given to the issuer of the credential.
    """

    at: str
    after: float
    depth: int
    actor: str
    tool: str
    path: str
    effect: str
    why: str
    policies: tuple[str, ...]
    approval: str | None
    credential: str | None
    seconds: float | None
    outcome: str | None
    revoked: bool | None
    reusable: bool
    missing: str = ""

    @property
    def summary(self) -> str:
        """The outcome in one word: done, failed, suspended, or the code of the denial."""
        return self.outcome or self.why if self.effect == "permit" else self.why

    @property
    def lived(self) -> str:
        """How long this call's credential lived, in words."""
        if self.credential is None or self.seconds is None:
            return "no credential"
        fate = "" if self.revoked else ", kept for its task" if self.reusable else ", NOT REVOKED"
        return f"{_duration(self.seconds)}{fate}"


class Timeline:
    """The calls, decisions, credentials and approvals of a task and its children, in order.

    It holds one `Step` for each decision. It shows ids and codes, never values of arguments or secrets.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = tuple(records)
        self._root = min(map(_depth, self.records), default=0)
        self.steps = tuple(self._steps())

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def _steps(self) -> Iterator[Step]:
        ends = {r["call"]: r for r in self.records if r.get("event") == "outcome"}
        decisions = [r for r in self.records if r.get("event") == "decision"]
        for record in decisions:
            end = ends.get(record.get("call"), {})
            revoked, reusable = self._fate(end)
            yield Step(
                at=str(record.get("at", "")),
                after=_between(decisions[0], record),
                depth=_depth(record) - self._root,
                actor=str(record.get("actor", "")),
                tool=record["tool"],
                path=record.get("path") or "unknown",
                effect=record["effect"],
                why=record.get("code") or record.get("reason") or "",
                policies=tuple(record.get("policies", ())),
                approval=record.get("approval"),
                credential=end.get("credential"),
                seconds=end.get("seconds"),
                outcome=end.get("outcome"),
                revoked=revoked,
                reusable=reusable,
                missing=str(end.get("missing_grant", {}).get("code", "")),
            )

    def _fate(self, end: Record) -> tuple[bool | None, bool]:
        """Return whether the call's credential is revoked, and whether it is kept for its task."""
        if not end.get("credential"):
            return None, False
        of_task = [r for r in self.records if r.get("task") == end.get("task")]
        later = any(r.get("event") == "revocation" and r.get("call") == end["call"] for r in of_task)
        if end.get("revoked") or later or not end.get("kept"):
            return bool(end.get("revoked") or later), False
        ended = next((r for r in of_task if r.get("event") == "task"), None)
        return ended is not None and ended.get("unrevoked") == 0, ended is None

    @property
    def ended(self) -> str:
        """The cause of the task's end, or ``active``."""
        ends = (r for r in self.records if r.get("event") == "task" and _depth(r) == self._root)
        return str(next(ends, {}).get("cause", "active"))

    def __repr__(self) -> str:
        rows = [
            (_outcome(step), step.path, "  " * step.depth + _tool(step), _deciders(step), step.lived)
            for step in self.steps
        ]
        table = [[printable(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)

    def _repr_html_(self) -> str:
        span = max((step.after + (step.seconds or 0) for step in self.steps), default=0)
        titles = ("", "path", "tool", "outcome", "decided by", f"credential, over {_duration(span)}")
        rows = ((step.effect == "permit", _cells(step, span)) for step in self.steps)
        return table(titles, rows, self._summary_line())

    def _summary_line(self) -> str:
        permits = sum(step.effect == "permit" for step in self.steps)
        revoked = {step.credential: step.revoked is True for step in self.steps if step.credential}
        parties = next((record for record in self.records if record.get("subject")), {})
        return (
            f"{parties.get('actor', 'an agent')} for {parties.get('subject', 'nobody')} · "
            f"{permits} of {len(self)} calls permitted · "
            f"{sum(revoked.values())} of {len(revoked)} credentials revoked · task {self.ended}"
        )


_AXIS = 220  # pixels
_LONGEST = 80  # characters of a tool's name


def _cells(step: Step, span: float) -> tuple[str, ...]:
    permitted = step.effect == "permit"
    color = GOOD if permitted and step.outcome != "failed" else BAD
    return (
        mark(permitted, f"{step.effect} at {step.at}"),
        badge(step.path),
        code(_tool(step), indent=step.depth * 18, title=step.actor),
        f"<span style='color:{color}'>{html_of(_outcome(step))}</span>",
        html_of(_deciders(step)),
        _bar(step, span),
    )


def _bar(step: Step, span: float) -> str:
    """Draw the life of the step's credential, or the moment of a denial, on the axis of all steps."""
    scale, text = (_AXIS - 4) / (span or 1), html_of(step.lived)
    start = 2 + step.after * scale
    if step.credential is None:
        shape = f"<circle cx='{start:.1f}' cy='9' r='1.6' fill='currentColor' opacity='.5'/>"
        text = f"<span style='opacity:.5'>{text}</span>"
    else:
        text = text if step.revoked or step.reusable else f"<b style='color:{BAD}'>{text}</b>"
        width = min(max(3.0, (step.seconds or 0) * scale), _AXIS - start)
        shape = (
            f"<rect x='{start:.1f}' y='4' width='{width:.1f}' height='10' rx='2' fill='{hue(step.path)}'/>"
        )
    return (
        f"<svg width='{_AXIS}' height='18' role='img' aria-label='{html_of(step.lived)}' "
        f"style='vertical-align:middle;margin-right:10px'>"
        f"<path d='M0 9H{_AXIS}' stroke='currentColor' opacity='.18'/>{shape}</svg>{text}"
    )


def _tool(step: Step) -> str:
    """Return the tool's name, in quotes if it has spaces: a name that a model has made up is no columns."""
    name = printable(step.tool)
    name = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return f'"{name}"' if " " in name or not name else name


def _outcome(step: Step) -> str:
    if step.effect != "permit":
        return f"denied, yet {step.outcome}: observed" if step.outcome else "denied"
    words = (step.summary, "approved" if step.approval else "", step.missing.replace("_", " "))
    return ", ".join(filter(None, words))


def _deciders(step: Step) -> str:
    undecided = "no policy permits it" if step.why == "policy" else step.why.replace("_", " ")
    return ", ".join(step.policies) or ("-" if step.effect == "permit" else undecided)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _depth(record: Record) -> int:
    return len(record.get("lineage") or ())


def _between(first: Record, later: Record) -> float:
    try:
        start, end = (datetime.fromisoformat(record["at"]) for record in (first, later))
    except (KeyError, TypeError, ValueError):  # an audit log of another kind may have no times
        return 0.0
    return max(0.0, (end - start).total_seconds())
