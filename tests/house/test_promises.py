"""Each promise has tests, each mark names a promise, and the page says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.promises import PAGE, PROMISES, marked, mistakes, page
from tests.tiers import DEFAULT

LIST = {"Calls": {"no-call": "Without a task no call runs."}}


def test_each_promise_has_a_test_each_mark_names_a_promise_and_the_page_is_current() -> None:
    marks = list(marked())
    assert not mistakes(marks, PROMISES)
    assert PAGE.read_text("utf-8") == page(marks, PROMISES), "python -m tests.promises writes the page"


OTHER_TIERS_ALONE = {
    "audit-log-append-only",
    "database-role-by-path",
    "database-role-ends",
    "demo-keeps-its-promises",
    "exec-recorded",
    "exec-revocation-not-claimed",
    "exec-secrets-alone",
    "exec-vault-out-of-reach",
    "issuer-gives-no-more",
    "key-outside-python",
    "lost-answer-not-guessed",
    "one-identity-one-task",
    "other-identity-opens-nothing",
    "pdp-decision-id",
    "postgres-keeps-revocations",
    "service-keeps-users-apart",
    "shared-store-keeps-revocations",
    "shared-store-limits",
    "shared-store-outage",
    "store-password-stays-secret",
    "theft-refused",
    "wrapped-credential-noticed",
}
"""Promises that only a real process, store, database, PDP or identity provider can show."""


def test_the_default_run_has_a_test_of_each_promise(request: pytest.FixtureRequest) -> None:
    if request.config.option.markexpr != DEFAULT or request.config.option.keyword:
        pytest.skip("this is not the default run")
    marks = [mark for item in request.session.items for mark in item.iter_markers("promise")]
    proven = {name for mark in marks for name in mark.args}
    assert {name for names in PROMISES.values() for name in names} - proven == OTHER_TIERS_ALONE


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        pytest.param("def test_a(): ...", "no-call has no test", id="no test"),
        pytest.param('@pytest.mark.promise("no-call")\ndef test_a(): ...', None, id="a test"),
        pytest.param(
            'class TestA:\n    @pytest.mark.promise("no-call")\n    async def test_a(self): ...',
            None,
            id="a method",
        ),
        pytest.param(
            '@pytest.mark.promise("no-call", "no-cal")\ndef test_a(): ...',
            "test_a.py::test_a: no promise has the id no-cal",
            id="no promise",
        ),
        pytest.param(
            '@pytest.mark.promise("no-call")\ndef make_a(): ...',
            "test_a.py::make_a has the mark and is no test",
            id="not a test",
        ),
        pytest.param(
            'IDS = "no-call"\n@pytest.mark.promise("no-call", IDS)\ndef test_a(): ...',
            "test_a.py::test_a: no promise has the id ?",
            id="no literal",
        ),
    ],
)
def test_a_mistake_in_a_mark_is_named(text: str, mistake: str | None, tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(text + "\n")
    assert mistakes(list(marked(tmp_path)), LIST) == ([mistake] if mistake else [])


def test_the_page_lists_the_tests_below_their_promise(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text('@pytest.mark.promise("no-call")\ndef test_a(): ...\n')
    text = page(list(marked(tmp_path)), LIST)
    assert text.endswith(
        "## Calls\n\n**Without a task no call runs.** (`no-call`)\n\n- `test_a.py::test_a`\n"
    )
