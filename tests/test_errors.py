"""What an error says to a model, to an operator, and to a log."""

from __future__ import annotations

import errno
import os
import re

import pytest

from agentguard.errors import (
    ADVICE,
    ConfigurationError,
    DenialCode,
    Denied,
    IssueError,
    StoreError,
    VerificationError,
    safe_text,
)

NEXT_STEP = re.compile(
    r"(tell|ask) the user|make (the|a new) call|use another tool|correct them|(continue|finish) with",
    re.IGNORECASE,
)
INNER_WORDS = re.compile(r"polic|cedar|catalog|broker|store|scope|mandate|audit", re.IGNORECASE)


@pytest.mark.parametrize("code", DenialCode)
def test_each_denial_tells_a_model_what_it_can_do_next_and_nothing_else(code: DenialCode) -> None:
    advice = str(Denied.of(code, "policy p1 forbids it", policy_ids=("p1",)))
    assert advice == ADVICE[code]
    assert NEXT_STEP.search(advice)
    assert not INNER_WORDS.search(advice)
    assert len(re.findall(r"\.(?:\s|$)", advice)) <= 2
    assert len(advice) <= 120


def test_a_policys_own_advice_replaces_the_fixed_one() -> None:
    denied = Denied.of(DenialCode.POLICY, "p1", advice="Ask Carol.", policy_ids=("p1",), decision_id="d")
    assert (str(denied), denied.reason, denied.policy_ids) == ("Ask Carol.", "p1", ("p1",))
    assert denied.decision_id == "d"


def test_only_errors_that_promise_it_are_logged_with_their_text() -> None:
    assert safe_text(IssueError("answered 503")) == "IssueError: answered 503"
    assert safe_text(StoreError("state.db: database is locked")) == "StoreError: state.db: database is locked"
    assert safe_text(OSError(errno.ENOSPC, "s3cret")) == f"OSError: {os.strerror(errno.ENOSPC)}"
    assert safe_text(TimeoutError("s3cret")) == "TimeoutError: there was no answer in time"
    assert safe_text(ValueError("s3cret")) == "ValueError"


def test_a_configuration_error_says_where_what_and_what_to_change() -> None:
    error = ConfigurationError("no such tool", hint="add it", file="agentguard.toml", line=3)
    assert str(error) == "agentguard.toml:3: no such tool\n  hint: add it"
    assert str(ConfigurationError("no such tool")) == "no such tool"


def test_the_reason_of_a_refusal_without_a_code_is_the_description_alone() -> None:
    assert str(VerificationError("", "no credential was presented")) == "no credential was presented"
    assert str(VerificationError("invalid_token", "it has expired")) == "invalid_token: it has expired"
