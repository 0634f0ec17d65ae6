"""`agentguard audit`: checks that an audit log is as it was written, and rotates it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentguard.audit import Head, JsonLinesAudit, Limits, Report, verify
from agentguard.cli._console import fail, note, out
from agentguard.config import load
from agentguard.errors import AgentGuardError

__all__ = ["app"]

app = typer.Typer(help="Check the audit log, and rotate it.", no_args_is_help=True)


@app.callback()
def _audit() -> None:
    """Check the audit log, and rotate it."""


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
            help="The head of the log, kept elsewhere. Without it, records missing at the end go unnoticed.",
        ),
    ] = None,
) -> None:
    """Find every changed, removed, inserted or reordered record of an audit log.

    Exit codes: 0 no record is altered; 1 a record is altered; 2 a crash tore a record, records were never
    written, or the log is not readable.
    """
    try:
        with file.open("rb") as lines:
            report = verify(lines, head)
    except OSError as error:
        fail(f"{file}: {error.strerror}", 2)
    _print_report(file, report)
    raise typer.Exit(1 if report.faults else 2 if report.torn or report.lost else 0)


def _print_report(file: Path, report: Report) -> None:
    console = out()
    for fault in report.faults:
        note(console, fault.kind, f"{file}:{fault.line}: {fault.detail}")
    for line in report.torn:
        note(console, "torn", f"{file}:{line}: half a record, as a crash leaves it; the chain continues")
    for head in report.continues:
        note(console, "continues", f"{file} continues another file; verify that with --head {head}")
    if report.lost:
        note(console, "lost", f"{file}: {report.lost} records were never written, as the log could not be")
    if report.unfinished:
        note(console, "unfinished", _unfinished(file, report.unfinished))
    if report.faults:
        note(console, "error", f"{len(report.faults)} faults: this log was altered")
    elif not report.torn and not report.lost:
        note(console, "ok", f"{report.records} records, none altered; head {report.head}")


def _unfinished(file: Path, lines: list[int]) -> str:
    return (
        f"{file}:{lines[-1]}: a permit without an outcome, the last of {len(lines)}: the call still runs, or "
        "its process died, or the next file has the outcome. The permit does not say that the call ran"
    )


@app.command()
def rotate(
    file: Annotated[
        Path | None, typer.Argument(help="The log. By default, it is the one of the configuration.")
    ] = None,
    config: Annotated[
        Path, typer.Option(help="The configuration, whose [audit] names the log and says what is kept.")
    ] = Path("agentguard.toml"),
) -> None:
    """Rename the audit log and go on in a new file, which begins with the old one's head.

    Guards may write meanwhile. The old file gets the time in UTC as a suffix. With [audit] keep_files,
    rotated files beyond that number are deleted, unless FILE is given.

    Exit codes: 0 done, or the log holds no record; 2 it could not be done, and the log goes on as it was.
    """
    try:
        settings = load(config) if file is None else None
        path = file if settings is None else settings.file.parent / settings.audit.path
        if path is None or not path.exists():
            fail(f"{path}: there is no such file", 2)
        audit = JsonLinesAudit(path, limits=Limits() if settings is None else settings.audit.limits())
        try:
            old = audit.rotate()
        finally:
            audit.close()
    except AgentGuardError as error:
        fail(error, 2)
    note(out(), "ok", f"{path} holds no record yet" if old is None else f"what {path} held is in {old} now")
