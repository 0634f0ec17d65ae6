"""`agentguard store`: brings the store to the newest schema, checks it, and makes it smaller.

Each command reads agentguard.toml alone, and none of the application's code.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agentguard.cli._console import fail, note, out
from agentguard.cli._live import by_broker, outbox_of, schema_text, size_text
from agentguard.config import load
from agentguard.config.store import upkeep_of
from agentguard.errors import AgentGuardError
from agentguard.model import LiveCredential
from agentguard.stores.upkeep import Condition, Upkeep

__all__ = ["app"]

HELP = "Migrate, check and compact the store that agentguard.toml names."
app = typer.Typer(help=HELP, no_args_is_help=True)

Config = Annotated[Path, typer.Option(help="The configuration, whose table store names it.")]


@app.callback()
def _store() -> None:
    """Migrate, check and compact the store that agentguard.toml names."""


@contextmanager
def _upkeep(config: Path) -> Iterator[Upkeep]:
    """Give the upkeep of the store; an error is printed, and ends the command with code 2."""
    try:
        settings = load(config)
        yield upkeep_of(settings.store, settings.file.parent.joinpath)
    except AgentGuardError as error:
        fail(error, 2)


@app.command()
def migrate(config: Config = Path("agentguard.toml")) -> None:
    """Bring the store to the newest schema. All is done, or nothing.

    End the guards of an older agentguard first: they cannot use the newest schema, and deny each call. A
    guard migrates a SQLite file too when it opens it; this command does it when you choose.

    Exit codes: 0 the store has the newest schema; 2 it could not be migrated.
    """
    with _upkeep(config) as upkeep:
        result = upkeep.migrate()
    if result.before == result.now:
        note(out(), "ok", f"the store has the newest schema already: version {result.now}")
    elif result.before is None:
        note(out(), "ok", f"there was no store: one was made, with schema version {result.now}")
    else:
        note(out(), "ok", f"the store had schema version {result.before} and has version {result.now} now")


@app.command()
def check(
    config: Config = Path("agentguard.toml"),
    waiting: Annotated[
        int, typer.Option(min=0, help="How many credentials may wait for their revocation without a warning.")
    ] = 0,
) -> None:
    """Check the store: is it sound, is its schema the newest, what is live, and what is still to be revoked?

    It changes nothing, and guards may run meanwhile. A guard that runs revokes what waits, and tries again
    until that succeeds. So a credential that waits in two checks in a row means that no guard runs, or that
    its issuer does not answer.

    Exit codes: 0 sound, and nothing waits; 1 something waits, the schema is not the newest, or rows belong to
    no task; 2 the store is damaged, missing, or cannot be read.
    """
    with _upkeep(config) as upkeep:
        condition = upkeep.check()
    console = out()
    if condition.faults:
        for fault in condition.faults:
            note(console, "damaged", fault)
        fail("the store is damaged: stop the guards, and put a sound copy of it back", 2)
    outbox = outbox_of(condition)
    _print_condition(console, condition, outbox)
    attention = condition.schema != condition.newest or condition.foreign or len(outbox) > waiting
    if not attention:
        note(console, "ok", "the store is sound")
    raise typer.Exit(1 if attention else 0)


def _print_condition(console: Console, condition: Condition, outbox: list[LiveCredential]) -> None:
    note(console, "schema", schema_text(condition))
    for rows in condition.foreign:
        note(console, "foreign", f"{rows} belong to no task: something else has written into the store")
    for name, count in condition.counts.items():
        note(console, "count", f"{count} {name}")
    in_use = len(condition.in_use) + len(condition.outbox) - len(outbox)
    note(console, "live", f"{in_use} credentials of calls")
    note(console, "outbox", f"{len(outbox)} credentials wait for their revocation{by_broker(outbox)}")
    if ended := [credential for credential in outbox if credential.expires_at <= time.time()]:
        seconds = time.time() - min(credential.expires_at for credential in ended)
        note(console, "outbox", f"{len(ended)} of them have expired, the first {seconds:.0f} seconds ago")


@app.command()
def compact(config: Config = Path("agentguard.toml")) -> None:
    """Delete what is over for longer than `store.keep`, and give the space back to the disk.

    Guards may run meanwhile: it works in short steps. Only a file that was made before this command existed
    is written anew, once. Calls wait meanwhile, some 4 seconds for 100 MB.

    Exit codes: 0 done; 2 it could not be done.
    """
    with _upkeep(config) as upkeep:
        result = upkeep.compact()
    console = out()
    for name, count in result.deleted.items():
        if count:
            note(console, "deleted", f"{count} {name}")
    note(console, "ok", f"the store had {size_text(result.before)} and has {size_text(result.now)} now")
