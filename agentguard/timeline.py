"""What happened in a task, drawn from its audit records: as text, and in a notebook as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Step", "Timeline"]

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call: what was decided, by which policies, and how long a credential lived (seconds)."""

    at: str
    tool: str
    path: str
    effect: str
    why: str
    policies: tuple[str, ...]
    approval: str | None
    credential: str | None
    seconds: float | None
    outcome: str | None

    @property
    def summary(self) -> str:
        """The outcome in a word: done, failed, suspended, or the code of the denial."""
        return self.outcome or self.why if self.effect == "permit" else self.why


class Timeline:
    """The calls, decisions, credentials and approvals of a task, in order.

    It shows digests and ids, never argument values or secrets.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = tuple(records)
        self.steps = tuple(self._steps())

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def _steps(self) -> Iterator[Step]:
        ends = {r["call"]: r for r in self.records if r.get("event") == "outcome"}
        for record in self.records:
            if record.get("event") != "decision":
                continue
            end = ends.get(record.get("call"), {})
            yield Step(
                at=str(record.get("at", "")),
                tool=record["tool"],
                path=record.get("path") or "unknown",
                effect=record["effect"],
                why=record.get("code") or record.get("reason") or "",
                policies=tuple(record.get("policies", ())),
                approval=record.get("approval"),
                credential=end.get("credential"),
                seconds=end.get("seconds"),
                outcome=end.get("outcome"),
            )

    def __repr__(self) -> str:
        return "\n".join(
            f"{step.effect:<6} {step.path:<10} {step.tool:<24} {step.summary:<20} "
            f"{', '.join(step.policies) or '-':<24} {_lived(step)}"
            for step in self.steps
        )

    def _repr_html_(self) -> str:
        rows = "".join(_row(step) for step in self.steps)
        head = "".join(
            f"<th style='text-align:left;padding:2px 10px'>{title}</th>"
            for title in ("", "path", "tool", "outcome", "decided by", "credential")
        )
        return f"<table style='border-collapse:collapse;font-size:90%'><tr>{head}</tr>{rows}</table>"


_COLOURS = {"read": "#3b7dd8", "write": "#d98324", "escalation": "#c0392b", "unknown": "#777777"}


def _lived(step: Step) -> str:
    if step.credential is None or step.seconds is None:
        return "no credential"
    return f"lived {step.seconds * 1000:.1f} ms"


def _row(step: Step) -> str:
    colour = _COLOURS.get(step.path, _COLOURS["unknown"])
    mark = "&#10003;" if step.effect == "permit" else "&#10007;"
    tint = "#e9f7ef" if step.effect == "permit" else "#fdecea"
    width = max(2.0, min(160.0, (step.seconds or 0) * 1000)) if step.credential else 0.0
    bar = (
        f"<svg width='170' height='12' role='img' aria-label='{escape(_lived(step))}'>"
        f"<rect x='0' y='2' height='8' width='{width:.1f}' fill='{colour}'/></svg> {escape(_lived(step))}"
    )
    cells = (
        mark,
        f"<span style='color:{colour}'>{escape(step.path)}</span>",
        escape(step.tool),
        escape(step.summary) + (" (approved)" if step.approval else ""),
        escape(", ".join(step.policies) or "-"),
        bar,
    )
    body = "".join(f"<td style='padding:2px 10px'>{cell}</td>" for cell in cells)
    return f"<tr style='background:{tint};color:#222'>{body}</tr>"
