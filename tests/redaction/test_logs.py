"""A log record that is filled after it was made holds no live secret."""

from __future__ import annotations

import io
import logging
import pickle

import pytest

from agentguard.redaction import install_log_redaction

SECRET = "a-live-secret-4711"


@pytest.mark.promise("no-secret-in-any-sink")
def test_a_record_made_from_a_dict_is_cleared_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    install_log_redaction(lambda: (SECRET,))
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(message)s"))
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        failure = (type(error), error, error.__traceback__)
    facts = {"name": "mine", "msg": "token %s", "args": (SECRET,), "levelno": 30, "levelname": "WARNING"}
    handler.handle(logging.makeLogRecord({**facts, "exc_info": failure}))
    assert "token" in out.getvalue()
    assert "ValueError" in out.getvalue()
    assert SECRET not in out.getvalue()
    # as a handler for a socket does; the bytes are the test's own
    copy = pickle.loads(pickle.dumps(logging.makeLogRecord(facts)))  # noqa: S301  our own bytes
    assert SECRET not in copy.getMessage()
