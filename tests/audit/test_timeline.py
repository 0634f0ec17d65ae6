"""The timeline of a task: what it shows, and what it must not show."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.audit.timeline import Timeline

AT = "2026-01-01T00:00:0{}.000000Z"


def decision(second: int, call: str, **facts: Any) -> dict[str, Any]:
    base = {"event": "decision", "at": AT.format(second), "call": call, "task": "t", "lineage": []}
    who = {"actor": "agent://a", "subject": "user://alice", "digest": "d1gest"}
    return base | who | {"tool": "get_order", "path": "read", "effect": "permit", "policies": ["p"]} | facts


def outcome(call: str, seconds: float = 0.5, **facts: Any) -> dict[str, Any]:
    end = {"event": "outcome", "call": call, "outcome": "done", "credential": call, "revoked": True}
    return end | {"seconds": seconds, "task": "t", "lineage": []} | facts


def ended(cause: str, lineage: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"event": "task", "task": "t", "cause": cause, "lineage": list(lineage)}


@pytest.mark.promise("text-is-text")
@pytest.mark.parametrize(
    "end", ["\n", "\r", "\x85", "\u2028", "\x0b", "\x1b[2K", "\x9b2K", "\u202e", "\u200b", "\ud800"]
)
def test_what_others_have_written_is_no_line_and_no_control_of_a_terminal(end: str) -> None:
    forged = f"x{end}done    write    refund_order  small-refunds  7.2 ms{end}"
    places = ({"tool": forged}, {"reason": forged, "policies": []}, {"policies": [forged]}, {"actor": forged})
    for facts in places:
        timeline = Timeline([decision(0, "1", effect="deny", **facts)])
        text = repr(timeline)
        assert len(text.splitlines()) == 1
        assert text.isprintable()
        assert end not in timeline._repr_html_()


@pytest.mark.promise("text-is-text")
def test_a_made_up_name_is_no_column_and_of_bounded_width() -> None:
    name = f"x  read  get_order  allow  {'y' * 500}"
    lines = repr(Timeline([decision(0, "1", tool=name, effect="deny"), decision(1, "2")])).splitlines()
    assert max(map(len, lines)) < 200
    assert '"x  read' in lines[0]


def test_each_call_has_a_line_with_what_came_of_it() -> None:
    denied = {"effect": "deny", "policies": [], "path": "write"}
    lines = repr(
        Timeline(
            [
                decision(0, "1"),
                outcome("1"),
                decision(1, "2", path="escalation", approval="yes"),
                outcome("2", outcome="failed"),
                decision(2, "3", code="policy", **denied),
                decision(3, "4", code="unknown_tool", **denied | {"path": None}),
            ]
        )
    ).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "done read get_order p 500.0 ms",
        "failed, approved escalation get_order p 500.0 ms",
        "denied write get_order no policy permits it no credential",
        "denied unknown get_order unknown tool no credential",
    ]


@pytest.mark.parametrize(
    ("records", "life", "total"),
    [
        ([], "kept for its task", "0 of 1"),
        ([{"event": "task", "task": "t", "unrevoked": 0, "cause": "completed"}], "ms", "1 of 1"),
        ([{"event": "task", "task": "t", "unrevoked": 1, "cause": "completed"}], "NOT REVOKED", "0 of 1"),
        ([{"event": "revocation", "task": "t", "call": "1"}], "ms", "1 of 1"),
    ],
)
def test_a_credential_that_serves_a_task_is_revoked_with_it(
    records: list[dict[str, Any]], life: str, total: str
) -> None:
    end = {**outcome("1", revoked=False), "task": "t", "kept": True}
    timeline = Timeline([decision(0, "1"), end, *records])
    assert timeline.steps[0].lived.endswith(life)
    assert f"{total} credentials revoked" in timeline._repr_html_()
    assert ("<b style='color:#e5534b'>" in timeline._repr_html_()) is (life == "NOT REVOKED")


@pytest.mark.promise("timeline-as-text")
def test_a_credential_that_is_not_revoked_is_said_aloud() -> None:
    timeline = Timeline([decision(0, "1"), outcome("1", revoked=False)])
    assert "NOT REVOKED" in repr(timeline)
    assert "NOT REVOKED" in timeline._repr_html_()
    assert "0 of 1 credentials revoked" in timeline._repr_html_()


def test_a_child_is_nested_and_its_end_is_not_the_tasks() -> None:
    child: dict[str, Any] = {"lineage": ["t"], "task": "c"}
    records = [decision(0, "1"), decision(1, "2", **child), outcome("2", **child), ended("completed", ("t",))]
    timeline = Timeline(records)
    assert [step.depth for step in timeline] == [0, 1]
    assert timeline.ended == "active"
    assert Timeline([*records, ended("revoked"), ended("completed")]).ended == "revoked"


@pytest.mark.promise("timeline-as-text")
def test_whatever_a_record_holds_is_text_and_no_markup() -> None:
    evil = "<script>alert(1)</script>'\""
    facts = dict.fromkeys(["at", "tool", "path", "effect", "code", "actor", "subject"], evil)
    page = Timeline([decision(0, "1", **facts | {"policies": [evil]}), ended(evil)])._repr_html_()
    assert "<script" not in page
    assert "'\"" not in page


def test_an_empty_timeline_is_drawn_too() -> None:
    assert repr(Timeline([])) == ""
    assert "0 of 0 calls permitted" in Timeline([])._repr_html_()
