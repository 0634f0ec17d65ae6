"""`agentguard audit show`: the records of an audit log that somebody looks for."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from agentguard.audit.chain import parse
from agentguard.audit.files import history
from agentguard.audit.reading import Selection, by_time, follow, lines_of
from agentguard.cli._console import fail
from agentguard.cli.audit_postgres import lines_of_table
from agentguard.config import load
from agentguard.errors import AgentGuardError
from agentguard.text import printable

__all__ = ["show"]

Record = Mapping[str, Any]
PAUSE = 0.2  # seconds between two looks at a log that is followed
_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_OF_CHAIN = frozenset({"at", "event", "seq", "prev", "hash", "task", "lineage"})


def _time(text: str) -> float:
    """Read a time (RFC 3339, in UTC if it names no zone), or how long ago it was, as in ``2h``."""
    if (ago := _AGO.fullmatch(text)) is not None:
        return time.time() - int(ago[1]) * _SECONDS[ago[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        message = "a time is as in 2026-01-31T12:00:00Z, or as in 2h: seconds, minutes, hours or days ago"
        raise typer.BadParameter(message) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILE",
        help="Files of a log, also compressed ones (.gz). By default, it is the log of the configuration "
        "with the rotated files beside it.",
    ),
]
Config = Annotated[Path, typer.Option(help="The configuration, which names the log as audit.path.")]
TaskId = Annotated[str | None, typer.Option(help="The id of a task; its child tasks count too.")]
Subject = Annotated[str | None, typer.Option(help="For whom the call was, as in user://alice.")]
Tool = Annotated[str | None, typer.Option(help="The name of a tool.")]
Decision = Annotated[Literal["permit", "deny"] | None, typer.Option(help="How the call was decided.")]
Code = Annotated[str | None, typer.Option(help="The code of a denial, as in policy.")]
_SINCE = "As in 2026-01-31T12:00:00Z, or as in 2h: so long ago."
Since = Annotated[float | None, typer.Option(parser=_time, metavar="TIME", help=_SINCE)]
Until = Annotated[float | None, typer.Option(parser=_time, metavar="TIME", help="Written as for --since.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print each record as the log has it.")]
Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Wait for more records, also after a rotation of the log.")
]


def show(
    files: Files = None,
    config: Config = Path("agentguard.toml"),
    task: TaskId = None,
    subject: Subject = None,
    tool: Tool = None,
    decision: Decision = None,
    code: Code = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
    following: Follow = False,
) -> None:
    """Show records of the audit log, in their order. Conditions are met all together.

    With a condition on the decision (subject, tool, decision, code), what became of such a call is shown too.
    Whether the log was altered, `agentguard audit verify` says.

    Exit codes: 0 done; 2 the log cannot be read.
    """
    selection = Selection(
        task=task, subject=subject, tool=tool, decision=decision, code=code, since=since, until=until
    )
    try:
        for line in _lines(files or [], config, following=following):
            record = parse(line)
            if record is not None and selection.takes(record):
                print(_as_json(line, record) if as_json else _as_text(record), flush=following)
    except AgentGuardError as error:
        fail(error, 2)
    except BrokenPipeError:  # as with `| head`
        sys.stderr.close()
    except OSError as error:
        fail(f"{error.filename or 'the log'}: {error.strerror}", 2)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _lines(files: list[Path], config: Path, *, following: bool) -> Iterator[bytes]:
    if following and len(files) > 1:
        fail("one log can be followed, and not several files", 2)
    if len(files) > 1 or (files and not following):
        return lines_of(by_time(files))
    if not files:
        settings = load(config)
        if settings.audit.kind == "postgres":
            return lines_of_table(settings, _pause if following else None)
    path = files[0] if files else settings.file.parent / settings.audit.path
    if not following:
        return lines_of(history(path))
    return follow(path, pause=_pause, on_gap=_warn, older=not files)


def _pause() -> bool:
    time.sleep(PAUSE)
    return True


def _warn(text: str) -> None:
    typer.echo(printable(text), err=True)


def _as_json(line: bytes, record: Record) -> str:
    """Return the line as it is, so that its hash can be checked; no character of it moves a cursor."""
    text = line.decode("ascii", "replace").rstrip("\n")
    return text if text.isprintable() and "\ufffd" not in text else json.dumps(record, sort_keys=True)


def _as_text(record: Record) -> str:
    """Return one line: the time, what happened, and to which call of which task."""
    word = str(record.get("effect") or record.get("outcome") or record.get("event"))
    texts = [str(record.get("at", "")), f"{word:<10}", *_facts(record)]
    if record.get("task"):
        texts.append(f"task {record['task']}")
    return "  ".join(printable(text) for text in texts if text)


def _facts(record: Record) -> Iterator[str]:
    event = record.get("event")
    if event == "decision":
        yield f"{record.get('tool')}"
        yield f"for {record.get('subject') or 'nobody'}"
        if record.get("code"):
            yield f"{record['code']}: {record.get('reason')}"
        elif record.get("policies"):
            yield f"by {', '.join(map(str, record['policies']))}"
    elif event == "outcome":
        yield f"{record.get('tool')}"
        yield f"after {record.get('seconds')} s"
        if record.get("credential"):
            yield "credential revoked" if record.get("revoked") else "credential not revoked"
    else:
        for name, value in record.items():
            if name not in _OF_CHAIN and value not in (None, [], ""):
                yield f"{name} {value}"
