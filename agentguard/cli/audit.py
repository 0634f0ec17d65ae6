"""`agentguard audit`: checks that an audit log is as it was written, shows it, and rotates it."""

from __future__ import annotations

from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from agentguard.audit import Head, JsonLinesAudit, Limits, Report, verify
from agentguard.audit.file_set import SetReport, verify_files
from agentguard.audit.files import first_of, history, opened
from agentguard.cli import audit_show
from agentguard.cli._console import fail, note, out
from agentguard.cli.audit_postgres import Config, migrate, verify_postgres
from agentguard.config import load
from agentguard.errors import AgentGuardError

__all__ = ["app"]

app = typer.Typer(help="Check, show and rotate the audit log.", no_args_is_help=True)


@app.callback()
def _audit() -> None:
    """Check, show and rotate the audit log."""


def _head(text: str) -> Head:
    try:
        return Head.of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


app.command("show")(audit_show.show)
app.command("migrate")(migrate)


@app.command("verify")
def verify_log(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="An audit log, such as .agentguard/audit.jsonl; or several files of one log, a folder or a "
            "pattern, in any order. Files that end in .gz are compressed. By default, it is the log of the "
            "configuration, with the rotated files beside it or in PostgreSQL.",
        ),
    ] = None,
    head: Annotated[
        Head | None,
        typer.Option(
            parser=_head,
            metavar="SEQ:HASH",
            help="The head of the log, kept elsewhere. Without it, records missing at the end go unnoticed.",
        ),
    ] = None,
    config: Config = Path("agentguard.toml"),
) -> None:
    """Find every changed, removed, inserted or reordered record of an audit log.

    Of several files, those that are missing, cut, extended or doubled are found too: each one holds the head
    of the file before it. Of a folder, the files that hold a log are taken. Of a log in PostgreSQL, the chain
    of each process is checked, and that none is missing which another one has seen.

    Exit codes: 0 no record is altered; 1 a record is altered, or a file is missing; 2 a crash tore a record,
    records were never written, or the log is not readable.
    """
    try:
        paths = list(_expanded(files)) if files else _configured(config, head)
        if len(paths) != 1:
            _verify_files(paths, head)
        with opened(paths[0]) as lines:
            report = verify(lines, head)
    except OSError as error:
        fail(f"{error.filename or paths[0]}: {error.strerror}", 2)
    _print_report(paths[0], report)
    raise typer.Exit(1 if report.faults else 2 if report.torn or report.lost else 0)


def _configured(config: Path, head: Head | None) -> list[Path]:
    """Return the files of the configured log; one in PostgreSQL is verified here."""
    try:
        settings = load(config)
        if settings.audit.kind == "postgres":
            verify_postgres(settings, head)
    except AgentGuardError as error:
        fail(error, 2)
    return history(settings.file.parent / settings.audit.path)


def _expanded(files: list[Path]) -> Iterator[Path]:
    """Yield the files of a folder that hold a log, the files of a pattern, and each file that is named."""
    for path in files:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and _is_log(file))
            yield from inside
        elif path.exists() or not has_magic(str(path)):
            yield path
        else:
            yield from map(Path, sorted(glob(str(path))))


def _is_log(file: Path) -> bool:
    if file.name.startswith("."):
        return False
    return ".jsonl" in file.name or first_of(file) is not None


def _verify_files(paths: list[Path], head: Head | None) -> NoReturn:
    """Verify several files of one log, print what was found, and exit."""
    result = verify_files(paths, head)
    if not result.files:
        fail("there is no log at that place", 2)
    console = out()
    for alias in result.aliases:
        note(console, "alias", f"{alias} is a second name of a file, as a rotation that was killed leaves it")
    for file in result.files:
        note(console, "file", f"{file.path}: {file.report.records} records, up to head {file.report.head}")
        _print_faults(console, file.path, file.report)
    for problem in result.problems:
        note(console, problem.kind, problem.detail)
    for path in result.begun_anew:
        text = "was begun while no process had the file before open: more may have been written between"
        note(console, "anew", f"{path} {text}")
    for name in result.deleted:
        note(console, "deleted", f"{name} is not here; the log says that [audit] keep_files deleted it")
    if result.unfinished:
        note(console, "unfinished", _unfinished(*result.unfinished[-1], len(result.unfinished)))
    _finish_files(console, result)


def _finish_files(console: Console, result: SetReport) -> NoReturn:
    faults = len(result.problems) + sum(len(file.report.faults) for file in result.files)
    incomplete = any(file.report.torn or file.report.lost for file in result.files)
    if faults:
        note(console, "error", f"{faults} faults: this log was altered, or is not complete")
    elif not incomplete:
        text = f"{len(result.files)} files, {result.records} records, none altered; head {result.head}"
        note(console, "ok", text)
    raise typer.Exit(1 if faults else 2 if incomplete else 0)


def _print_faults(console: Console, file: Path, report: Report) -> None:
    for fault in report.faults:
        note(console, fault.kind, f"{file}:{fault.line}: {fault.detail}")
    for line in report.torn:
        note(console, "torn", f"{file}:{line}: half a record, as a crash leaves it; the chain continues")
    if report.lost:
        note(console, "lost", f"{file}: {report.lost} records were never written, as the log could not be")


def _print_report(file: Path, report: Report) -> None:
    console = out()
    _print_faults(console, file, report)
    for head in report.continues:
        note(
            console,
            "continues",
            f"{file} continues another file; verify both, or that one with --head {head}",
        )
    if report.unfinished:
        note(console, "unfinished", _unfinished(file, report.unfinished[-1], len(report.unfinished)))
    if report.faults:
        note(console, "error", f"{len(report.faults)} faults: this log was altered")
    elif not report.torn and not report.lost:
        note(console, "ok", f"{report.records} records, none altered; head {report.head}")


def _unfinished(file: Path, line: int, count: int) -> str:
    return (
        f"{file}:{line}: a permit without an outcome, the last of {count}: the call still runs, or "
        "its process died, or the next file has the outcome. The permit does not say that the call ran"
    )


@app.command()
def rotate(
    file: Annotated[
        Path | None, typer.Argument(help="The log. By default, it is the one of the configuration.")
    ] = None,
    config: Annotated[
        Path, typer.Option(help="The configuration, which has audit.path, and audit.keep_files.")
    ] = Path("agentguard.toml"),
) -> None:
    """Rename the audit log and go on in a new file, which begins with the old one's head.

    Guards may write meanwhile. The old file gets the time in UTC as a suffix. With audit.keep_files,
    rotated files beyond that number are deleted, unless FILE is given.

    Exit codes: 0 done, or the log holds no record; 2 it could not be done, and the log goes on as it was.
    """
    try:
        settings = load(config) if file is None else None
        if settings is not None and settings.audit.kind == "postgres":
            fail("a log in PostgreSQL has no file to rotate", 2)
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
