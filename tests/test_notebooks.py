"""The notebook runs from a clean kernel, shows what it says, and is committed without outputs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FILE = Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"
TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}")  # what every JWT begins with, a proof too


class Kernel(AsyncKernelManager):
    """A kernel of the interpreter that runs the tests, not of whichever is registered here."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="test", language="python")


def committed() -> Any:
    return nbformat.read(FILE, as_version=4)  # type: ignore[no-untyped-call]  # nbformat is typed in part


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    where = tmp_path_factory.mktemp("notebook")
    notebook = committed()
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_manager_class=Kernel,
        resources={"metadata": {"path": str(where)}},
    )
    client.execute()
    assert not list(where.iterdir()), "it leaves files behind"
    return notebook


def outputs(notebook: Any) -> Iterator[tuple[str, Any]]:
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield cell["id"], output


def text(notebook: Any, cell: str) -> str:
    return "".join(output.get("text", "") for name, output in outputs(notebook) if name == cell)


def test_it_runs_without_an_error_or_a_warning(executed: Any) -> None:
    assert [cell for cell, output in outputs(executed) if output["output_type"] == "error"] == []
    assert [output["text"] for _, output in outputs(executed) if output.get("name") == "stderr"] == []


def test_the_timelines_are_drawn_inline(executed: Any) -> None:
    drawn = {cell: output["data"] for cell, output in outputs(executed) if "data" in output}
    assert set(drawn) == {"timeline", "approval"}
    for data in drawn.values():
        assert "<svg" in data["text/html"]
    assert "2 of 4 calls permitted · 2 of 2 credentials revoked" in drawn["timeline"]["text/html"]
    assert "done, approved" in drawn["approval"]["text/html"]


def test_it_shows_what_it_says(executed: Any) -> None:
    assert text(executed, "task").count("Denied: This is outside the current task.") == 2
    assert text(executed, "dead").strip() == "401 invalid_token: the token is revoked"
    assert text(executed, "approval").startswith("bob is asked: delete_account {'customer': 'alice'}")
    assert text(executed, "verify").startswith("as written: sound")
    assert "forged: 5 changed" in text(executed, "verify")


def test_no_output_holds_a_token_or_a_proof(executed: Any) -> None:
    shown = [str(output) for _, output in outputs(executed)]
    assert shown
    assert [output for output in shown if TOKEN.search(output)] == []


def test_it_is_committed_without_outputs_and_counts() -> None:
    code = [cell for cell in committed().cells if cell["cell_type"] == "code"]
    assert code
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
