"""`agentguard status`: what is live in the store, and how far the audit log has come."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agentguard.audit.chain import parse
from agentguard.audit.file_end import last_head
from agentguard.audit.files import siblings
from agentguard.cli._console import fail, note, out
from agentguard.cli._live import outbox_of, process_state, schema_text, size_text
from agentguard.config import Settings, load
from agentguard.config.store import upkeep_of
from agentguard.errors import AgentGuardError
from agentguard.model import LiveCredential
from agentguard.stores.upkeep import Condition

__all__ = ["command"]

Facts = dict[str, Any]
Config = Annotated[Path, typer.Option(help="The configuration, which names the store and the log.")]
BLOCK = 65_536


def command(
    config: Annotated[
        Path, typer.Option(help="The configuration, which names the store and the log.")
    ] = Path("agentguard.toml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is live: tasks, credentials and their processes, what waits for its revocation, and the log.

    It needs the configuration alone, changes nothing, and may run beside guards. Whether a process on another
    machine or in another container lives cannot be seen from here; `agentguard recover` can be told.

    Exit codes: 0 nothing waits; 1 credentials wait for their revocation, or the schema is not the newest; 2
    the store is damaged, missing, or cannot be read.
    """
    try:
        settings = load(config)
        file_of = settings.file.parent.joinpath
        condition = upkeep_of(settings.store, file_of).check()
    except AgentGuardError as error:
        fail(error, 2)
    if condition.faults:
        fail("the store is damaged; `agentguard store check` says where", 2)
    facts = _facts(settings, condition)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        console = out()
        for word, text in _lines(facts, condition):
            note(console, word, text)
    raise typer.Exit(1 if facts["outbox"] or condition.schema != condition.newest else 0)


def _facts(settings: Settings, condition: Condition) -> Facts:
    outbox = outbox_of(condition)
    live = [*condition.in_use, *condition.outbox]
    return {
        "store": _store(settings, condition),
        "counts": dict(condition.counts),
        "live": len(live) - len(outbox),
        "processes": _processes(live),
        "outbox": _outbox(outbox),
        "log": _log(settings),
    }


def _store(settings: Settings, condition: Condition) -> Facts:
    facts: Facts = {"kind": settings.store.kind, "schema": condition.schema, "newest": condition.newest}
    if settings.store.kind == "sqlite":
        path = settings.file.parent / settings.store.path
        files = (path, path.with_name(f"{path.name}-wal"))
        return facts | {
            "place": str(path),
            "bytes": sum(file.stat().st_size for file in files if file.exists()),
        }
    return facts | {"place": settings.store.url}


def _processes(live: list[LiveCredential]) -> list[Facts]:
    """Return the processes that have live credentials, and how many calls of theirs have not ended."""
    calls = defaultdict[str, set[str]](set)
    for credential in live:
        calls[credential.owner].add(credential.call_id)
    return [
        {"process": owner, "state": process_state(owner), "calls": len(ids)}
        for owner, ids in sorted(calls.items())
    ]


def _outbox(credentials: list[LiveCredential]) -> list[Facts]:
    """Return how much of each broker waits, and when the first of it has expired or expires."""
    expiries = defaultdict[str, list[float]](list)
    for credential in credentials:
        expiries[credential.broker].append(credential.expires_at)
    return [
        {"broker": broker, "credentials": len(times), "first_expires_at": min(times)}
        for broker, times in sorted(expiries.items())
    ]


def _log(settings: Settings) -> Facts:
    if settings.audit.kind == "postgres":
        return {"path": str(settings.audit.url)}
    path = settings.file.parent / settings.audit.path
    facts: Facts = {"path": str(path)}
    try:
        facts |= {"bytes": path.stat().st_size, "rotated_files": len(siblings(path)), "last": _last(path)}
    except OSError as error:
        facts["error"] = error.strerror or str(error)
    return facts


def _last(path: Path) -> Facts | None:
    """Return the last record's number, hash, time and event; None if there is no record."""
    head = last_head(path)
    if head.seq == 0:
        return None
    facts: Facts = {"seq": head.seq, "hash": head.hash}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - BLOCK))
        for line in reversed(file.read().splitlines()):
            record = parse(line)
            if record is not None and record["hash"] == head.hash:
                return facts | {"at": record.get("at"), "event": record.get("event")}
    return facts  # it is longer than the block


def _lines(facts: Facts, condition: Condition) -> Iterator[tuple[str, str]]:
    """Yield the report in words."""
    store = facts["store"]
    size = f", {size_text(store['bytes'])}" if "bytes" in store else ""
    yield "store", f"{store['kind']} at {store['place']}{size}; schema {schema_text(condition)}"
    for name, count in facts["counts"].items():
        yield "count", f"{count} {name}"
    yield "live", f"{facts['live']} credentials of calls"
    for process in facts["processes"]:
        unknown = ": only you know whether it lives" if process["state"] == "elsewhere" else ""
        calls = f"{process['calls']} unfinished calls, and is {process['state']}{unknown}"
        yield "process", f"{process['process']} has {calls}"
    for row in facts["outbox"]:
        seconds = row["first_expires_at"] - time.time()
        when = f"expires in {seconds:.0f} seconds" if seconds > 0 else f"expired {-seconds:.0f} seconds ago"
        count = row["credentials"]
        yield "outbox", f"{count} credentials of {row['broker']} wait for their revocation; the first {when}"
    if not facts["outbox"]:
        yield "outbox", "nothing waits for its revocation"
    yield "log", _log_text(facts["log"])


def _log_text(log: Facts) -> str:
    if "error" in log:
        return f"{log['path']}: {log['error']}"
    if "bytes" not in log:
        return f"{log['path']}; `agentguard audit verify` says how far it has come"
    size = f"{size_text(log['bytes'])}, and {log['rotated_files']} rotated files"
    last = log["last"]
    if last is None:
        return f"{log['path']}: {size}; it holds no record yet"
    return (
        f"{log['path']}: {size}; the last record is {last['seq']} ({last.get('event')}){_ago(last.get('at'))}"
    )


def _ago(at: object) -> str:
    try:
        seconds = time.time() - datetime.fromisoformat(str(at)).timestamp()
    except ValueError:
        return ""
    return f", {seconds:.0f} seconds ago"
