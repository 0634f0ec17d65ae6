"""`agentguard audit` for a log in PostgreSQL: make its table, verify it, and read it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from agentguard.audit import Head
from agentguard.cli._console import fail, note, out
from agentguard.config import Settings, load
from agentguard.config.adapters import extra
from agentguard.config.audit import postgres_audit_of
from agentguard.errors import AgentGuardError

if TYPE_CHECKING:  # it needs an extra
    from agentguard.audit.postgres import LogReport, PostgresAudit

__all__ = ["Config", "lines_of_table", "migrate", "verify_postgres"]

Config = Annotated[Path, typer.Option(help="The configuration, whose table audit names the log.")]


def migrate(config: Config = Path("agentguard.toml")) -> None:
    """Make the table of a log in PostgreSQL, as the role that will own it. All is done, or nothing.

    The role of the agents then needs the rights to select and to insert, and no others.

    Exit codes: 0 the table is there; 2 it could not be made, or the log is in a file.
    """
    try:
        settings = load(config)
        if settings.audit.kind != "postgres":
            fail("the log of the configuration is in a file, which needs no table", 2)
        with closing(_log_of(settings)) as log:
            is_new = log.migrate()
    except AgentGuardError as error:
        fail(error, 2)
    note(out(), "ok", f"{log.place}: the table {'was made' if is_new else 'is there already'}")


def verify_postgres(settings: Settings, head: Head | None) -> NoReturn:
    """Verify the log, print what was found, and exit.

    Raises:
        AgentGuardError: The log cannot be read.
    """
    with extra("postgres"):
        from agentguard.audit.postgres import verify_log
    with closing(_log_of(settings)) as log:
        _finish(verify_log(log.rows(), head))


def lines_of_table(settings: Settings, pause: Callable[[], bool] | None) -> Iterator[bytes]:
    """Yield the lines of the log in the order of the table; with *pause*, also those that come.

    *pause* is called where there is nothing new, and returns False to end. A record that another process adds
    while a later one is read already may be missed.

    Raises:
        AgentGuardError: The log cannot be read.
    """
    with closing(_log_of(settings)) as log:
        place = 0
        while True:
            for row in log.rows(after=place):
                place = row.n
                yield f"{row.line}\n".encode()
            if pause is None or not pause():
                return


def _log_of(settings: Settings) -> PostgresAudit:
    return postgres_audit_of(settings.audit, settings.file.parent.joinpath, time.time)


def _finish(result: LogReport) -> NoReturn:
    console = out()
    for writer, report in result.chains.items():
        for fault in report.faults:
            note(console, fault.kind, f"{writer}:{fault.line}: {fault.detail}")
        if report.lost:
            note(console, "lost", f"{writer}: {report.lost} records were never written")
    for fault in result.faults:
        note(console, fault.kind, fault.detail)
    if result.unfinished:
        writer, line = result.unfinished[-1]
        text = "a permit without an outcome, the last of"
        note(console, "unfinished", f"{writer}:{line}: {text} {len(result.unfinished)}")
    faults = len(result.faults) + sum(len(report.faults) for report in result.chains.values())
    incomplete = any(report.lost for report in result.chains.values())
    if faults:
        note(console, "error", f"{faults} faults: this log was altered, or is not complete")
    elif not incomplete:
        text = f"{len(result.chains)} chains, {result.records} records, none altered; head {result.head}"
        note(console, "ok", text)
    raise typer.Exit(1 if faults else 2 if incomplete else 0)
