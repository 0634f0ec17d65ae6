"""`agentguard recover`: revokes what processes have left behind that are gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from agentguard import AgentGuardError, Guard
from agentguard.cli._console import fail, note, out
from agentguard.cli._live import by_broker, process_state
from agentguard.concurrency.drive import drive
from agentguard.config import build, load
from agentguard.config.issuer import IssuerSettings
from agentguard.config.settings import PolicySettings
from agentguard.enforcement.process import gone
from agentguard.errors import ConfigurationError
from agentguard.model import LiveCredential

__all__ = ["command"]

Config = Annotated[Path, typer.Option(help="The configuration, which names the store and the brokers.")]
Gone = Annotated[
    list[str] | None,
    typer.Option(
        "--gone",
        metavar="PROCESS",
        help="A process that you know to be gone, as `agentguard status` names it; or only its place "
        "(all before the |), which is a machine or a container. May be given several times.",
    ),
]
AllGone = Annotated[
    bool, typer.Option("--all-gone", help="No guard runs anywhere on this store: all processes are gone.")
]


def command(config: Config = Path("agentguard.toml"), names: Gone = None, all_gone: AllGone = False) -> None:
    """Revoke the credentials of processes that are gone, of ended tasks, and those that have expired.

    It needs the configuration alone, and none of the application's code. A broker that the application has
    made in its code is not known here: what it issued stays. Whether a process on another machine or in
    another container is gone cannot be seen from here. Say it with --gone or --all-gone: the credentials of a
    process that still runs would be revoked under its calls.

    Exit codes: 0 nothing is left that would have to be revoked; 1 something could not be revoked; 2 the
    configuration or the store cannot be used.
    """

    def is_gone(owner: str) -> bool:
        place = owner.rpartition("|")[0]
        return all_gone or gone(owner) or owner in (names or ()) or place in (names or ())

    try:
        with _guard(config) as guard:
            store, outbox = guard.enforcement.ports.store, guard.enforcement.sync.outbox
            outbox.is_gone = is_gone
            before = set(store.live())
            guard.recover()
            after = set(store.live())
            stuck = [one for one in drive(outbox.orphans()) if one in before]
    except AgentGuardError as error:
        fail(error, 2)
    _report(before - after, stuck, after)
    raise typer.Exit(1 if stuck else 0)


@contextmanager
def _guard(config: Path) -> Iterator[Guard]:
    """Yield a guard with the store, the log and the brokers of *config*; it needs no rules and no keys."""
    settings = load(config)
    if settings.store.kind == "memory":
        raise ConfigurationError(
            "a store in memory ends with its process", hint="name another kind in [store], or none"
        )
    with TemporaryDirectory() as directory:  # no keys are made where a guard keeps its own
        issuer = IssuerSettings(issuer=settings.issuer.issuer, keys=f"{directory}/keys")
        replaced = {"policy": PolicySettings(), "issuer": issuer}
        guard = Guard.from_parts(build(settings.model_copy(update=replaced)))
        try:
            yield guard
        finally:
            guard.close()


def _report(revoked: set[LiveCredential], stuck: list[LiveCredential], after: set[LiveCredential]) -> None:
    console = out()
    if revoked:
        note(console, "revoked", f"{len(revoked)} credentials{by_broker(revoked)}")
    elsewhere = [one for one in after if one not in stuck and process_state(one.owner) == "elsewhere"]
    for owner in sorted({one.owner for one in elsewhere}):
        count = sum(one.owner == owner for one in elsewhere)
        note(console, "elsewhere", f"{count} credentials of {owner}: use --gone if that process is gone")
    if stuck:
        text = f"{len(stuck)} credentials could not be revoked, and are tried again by the next guard"
        note(console, "error", f"{text}{by_broker(stuck)}")
    else:
        note(console, "ok", "nothing is left of processes that are known to be gone")
