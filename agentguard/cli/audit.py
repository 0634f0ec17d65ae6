"""`agentguard audit verify`: is the record still what was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentguard.audit import Head, Report, verify
from agentguard.cli._console import fail, note, out

__all__ = ["app"]

app = typer.Typer(help="The tamper-evident record.", no_args_is_help=True)


@app.callback()
def _audit() -> None:
    """The tamper-evident record."""


def _head(text: str) -> Head:
    try:
        return Head.of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command("verify")
def verify_file(
    file: Annotated[Path, typer.Argument(help="An audit log, such as .agentguard/audit.jsonl.")],
    head: Annotated[
        Head | None,
        typer.Option(
            parser=_head,
            metavar="SEQ:HASH",
            help="A head kept elsewhere: without it, records cut off the end are not missed.",
        ),
    ] = None,
) -> None:
    """Find every changed, removed, inserted or reordered record of an audit log.

    Exit codes: 0 nothing was altered; 1 it was; 2 only torn by a crash, or not readable.
    """
    try:
        with file.open("rb") as lines:
            report = verify(lines, head)
    except OSError as error:
        fail(f"{file}: {error.strerror}", 2)
    _tell(file, report)
    raise typer.Exit(1 if report.faults else 2 if report.torn else 0)


def _tell(file: Path, report: Report) -> None:
    console = out()
    for fault in report.faults:
        note(console, fault.kind, f"{file}:{fault.line}: {fault.detail}")
    for line in report.torn:
        note(console, "torn", f"{file}:{line}: half a record, as a crash leaves it; the chain goes on")
    if report.faults:
        note(console, "error", f"{len(report.faults)} faults: this log was altered")
    elif not report.torn:
        note(console, "ok", f"{report.records} records, none altered; head {report.head}")
