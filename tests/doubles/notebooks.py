"""Runs a notebook from a clean kernel, as the tests of notebooks look at it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOLDER = Path(__file__).parents[2] / "notebooks"


def client(notebook: Any, **options: Any) -> Any:
    """Make a client with a kernel of the interpreter that runs the tests, not of whichever is registered."""
    # imported here: it takes half a second, and one process of the default tier needs it
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class Kernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="test", language="python")

    return NotebookClient(notebook, kernel_manager_class=Kernel, **options)


def committed(name: str) -> Any:
    import nbformat

    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]  # nbformat is typed in part


def run_notebook(name: str) -> Any:
    """Execute it in a folder of its own, where it must leave nothing; it neither errs nor warns."""
    notebook = committed(name)
    with TemporaryDirectory() as where:
        client(notebook, timeout=120, resources={"metadata": {"path": where}}).execute()
        assert not list(Path(where).iterdir()), "it leaves files behind"
    assert [cell for cell, output in outputs(notebook) if output["output_type"] == "error"] == []
    warnings = [output["text"] for _, output in outputs(notebook) if output.get("name") == "stderr"]
    assert not warnings, warnings  # this is no test module, so that pytest would not show it
    return notebook


def outputs(notebook: Any) -> Iterator[tuple[str, Any]]:
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield cell["id"], output


def texts(notebook: Any) -> dict[str, str]:
    """Return what each cell printed."""
    printed: dict[str, str] = {}
    for cell, output in outputs(notebook):
        printed[cell] = printed.get(cell, "") + output.get("text", "")
    return printed


def drawn(notebook: Any) -> dict[str, Any]:
    """Return what each cell shows that is more than text."""
    return {cell: output["data"] for cell, output in outputs(notebook) if "data" in output}
