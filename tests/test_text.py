"""Text that others have chosen is shown as text."""

from __future__ import annotations

import logging

import pytest

from agentguard.errors import ConfigurationError
from agentguard.text import printable

FORGED = "x\n2026-01-01 INFO agentguard: done refund_order\x1b[2K"


class _Unreadable:
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.promise("text-is-text")
@pytest.mark.parametrize("text", [FORGED, "\r", "\u2028", "\u202e", "\x9b", "\ud800"])
def test_a_text_of_others_is_one_line_without_control_characters(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(f"{text}!").endswith("!")


def test_a_text_that_is_printable_stays_as_it_is() -> None:
    assert printable("Zürich 4711 東京") == "Zürich 4711 東京"


@pytest.mark.promise("text-is-text")
@pytest.mark.parametrize(
    "argument", [FORGED, ValueError(FORGED), ConfigurationError("x", hint=FORGED), [FORGED]]
)
def test_each_argument_of_a_log_line_of_ours_is_printable(
    caplog: pytest.LogCaptureFixture, argument: object
) -> None:
    log = logging.getLogger("agentguard")
    log.error("denied %s: %s after %.1f s and %d", argument, "policy", 1.25, 2)
    log.error("denied %(tool)s", {"tool": argument})
    for record in caplog.records:
        assert record.getMessage().isprintable()
    assert caplog.records[0].getMessage().endswith("policy after 1.2 s and 2")


@pytest.mark.promise("text-is-text")
@pytest.mark.parametrize("argument", ["x" * 1_000_000, "\ud800" * 1_000_000, ["x"] * 1_000_000])
def test_no_argument_of_a_log_line_pushes_others_out_of_the_log(
    caplog: pytest.LogCaptureFixture, argument: object
) -> None:
    log = logging.getLogger("agentguard")
    log.error("denied %s: %s", argument, "policy")
    log.error("denied %(tool)s", {"tool": argument})
    for record in caplog.records:
        assert len(record.getMessage()) < 5_000
        record.getMessage().encode()
    assert caplog.records[0].getMessage().endswith(": policy")


def test_an_argument_that_cannot_be_read_does_not_end_a_call(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("agentguard").error("denied %s", _Unreadable())
    assert len(caplog.records) == 1
