"""The notebooks run from a clean kernel, show what they say, and are committed without outputs."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any

import pytest

from tests.doubles.notebooks import FOLDER, committed, drawn, outputs, run_notebook, texts

TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}")  # what every JWT begins with, a proof too
WITH_SERVERS = {"database_credential"}  # run by tests/real
NAMES = sorted(file.stem for file in FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def executed() -> Any:
    return run_notebook("quickstart")


def test_each_notebook_is_run() -> None:
    assert {"quickstart", "policy_lab", "agentdojo"} | WITH_SERVERS == set(NAMES)


@pytest.mark.process
def test_a_changed_policy_shows_what_has_turned() -> None:
    notebook = run_notebook("policy_lab")
    html = {cell: data.get("text/html", "") for cell, data in drawn(notebook).items()}
    assert "was " not in html["first"]
    assert html["second"].count("was permitted") == 1
    assert html["third"].count("was ") == 3
    assert "3 of 5 calls permitted" in html["timeline"]
    text = texts(notebook)
    assert "permitted if to was named by the user" in text["why"]
    assert 'policy.cedar:4: policy "known"' in text["wrong"]
    assert "did you mean amount?" in text["wrong"]
    assert text["run"].startswith("pay: by 'Pay'")


@pytest.mark.real
def test_agentdojos_table_and_plots_are_drawn_from_a_run() -> None:
    from tests.real.conftest import require_plots  # with clients of servers, which no other test here needs

    require_plots()
    drawings = drawn(run_notebook("agentdojo"))
    rows = re.findall(r"<tr>(.*?)</tr>", drawings["table"]["text/html"])
    cells = {
        row_cells[0]: row_cells[1:] for row_cells in (re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows)
    }
    assert cells["no guard"][2] == "143 of 144"
    assert cells["agentguard, with a person"][:3] == ["16 of 16", "144 of 144", "0 of 144"]
    assert cells["agentguard, nobody to ask"][2] == "0 of 144"
    assert len(b64decode(drawings["plot"]["image/png"])) > 10_000


def test_the_timelines_are_drawn_inline(executed: Any) -> None:
    drawings = drawn(executed)
    assert set(drawings) == {"timeline", "approval"}
    for data in drawings.values():
        assert "<svg" in data["text/html"]
    assert "2 of 4 calls permitted · 2 of 2 credentials revoked" in drawings["timeline"]["text/html"]
    assert "done, approved" in drawings["approval"]["text/html"]


def test_it_shows_what_it_says(executed: Any) -> None:
    text = texts(executed)
    assert text["task"].count("Denied: This is outside the current task.") == 2
    assert text["dead"].strip() == "401 invalid_token: the token is revoked"
    assert text["approval"].startswith("bob is asked: delete_account {'customer': 'alice'}")
    assert text["verify"].startswith("as written: sound")
    assert "forged: 5 changed" in text["verify"]


@pytest.mark.promise("timeline-as-text")
def test_no_output_holds_a_token_or_a_proof(executed: Any) -> None:
    output_texts = [str(output) for _, output in outputs(executed)]
    assert output_texts
    assert [output for output in output_texts if TOKEN.search(output)] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_is_committed_without_outputs_and_counts(name: str) -> None:
    code = [cell for cell in committed(name).cells if cell["cell_type"] == "code"]
    assert code
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
