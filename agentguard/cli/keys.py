"""`agentguard keys`: lists the keys of the embedded issuer, and replaces them.

Each command reads agentguard.toml alone, and none of the application's code.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from agentguard.cli._console import fail, note, out
from agentguard.config import load
from agentguard.config.issuer import key_folder_of
from agentguard.credentials.key_folder import KeyFolder, end_of
from agentguard.credentials.key_ring import LOOK
from agentguard.errors import AgentGuardError
from agentguard.model import ToolPath

__all__ = ["app"]

HELP = "List and replace the keys with which the guard signs tokens."
app = typer.Typer(help=HELP, no_args_is_help=True)
REFRESH = 300  # seconds, after which a verifier reads a JWK Set from a URL again
WAIT = 2 * REFRESH
LEEWAY = 60.0 + LOOK  # seconds, for clocks that differ, and for a guard that has not seen the new key yet
LIFETIME = (
    3600.0  # seconds; a lifetime that was longer before, and was not in agentguard.toml, may be so long
)

Config = Annotated[Path, typer.Option(help="The configuration, whose table issuer names the keys.")]


@app.callback()
def _keys() -> None:
    """List and replace the keys with which the guard signs tokens."""


@contextmanager
def _folder(config: Path) -> Iterator[tuple[KeyFolder, float]]:
    """Give the folder, and for how many seconds a key that signs no more is kept.

    An error is printed, and ends the command with code 2.
    """
    try:
        settings = load(config)
        folder = key_folder_of(settings.issuer, settings.file.parent.joinpath)
        yield folder, max(settings.issuer.lifetime, LIFETIME) + LEEWAY
    except (AgentGuardError, OSError) as error:
        fail(error, 2)


@app.command("list")
def list_keys(config: Config = Path("agentguard.toml")) -> None:
    """List the keys: for which path each is, its `kid`, and whether it signs, waits, or only verifies.

    Exit codes: 0 listed; 2 the keys cannot be read.
    """
    with _folder(config) as (folder, lifetime):
        console, now = out(), time.time()
        for path in ToolPath:
            files = folder.files(path)
            for key in files:
                end = end_of(key, files)
                if key.begins > now:
                    state, text = "waits", f"signs from {_moment(key.begins)}"
                elif end is None or end > now:
                    state, text = "signs", "" if end is None else f"until {_moment(end)}"
                else:
                    state, text = "verifies", f"can be removed from {_moment(end + lifetime)}"
                kid = folder.read(key).kid
                note(console, state, f"{path:<10} {kid} {key.file.name} {text}".rstrip())


@app.command()
def rotate(
    wait: Annotated[
        int, typer.Option(min=REFRESH, help="Seconds until the new keys sign: longer than verifiers cache.")
    ] = WAIT,
    at_once: Annotated[
        bool, typer.Option("--now", help="Sign at once, as after a theft. Verifiers may refuse for a while.")
    ] = False,
    config: Config = Path("agentguard.toml"),
) -> None:
    """Make a new key for each path. The JWK Set has it at once, and the guards sign with it after the wait.

    Running guards take the new keys over by themselves. The old ones verify until their last tokens have
    expired; a later `rotate`, or `prune`, removes them. A verifier reads a file of keys again after 10
    seconds and a URL after 300. One that was made with a mapping has to be made anew during the wait.

    With --now a verifier that has read the keys in the last 10 seconds refuses the new tokens until these are
    over. Keys that wait for their time are removed. The old keys verify all the same: after a theft remove
    their files and run `prune`, and verifiers refuse their tokens.

    Exit codes: 0 made; 2 they could not be made.
    """
    with _folder(config) as (folder, lifetime):
        console, now = out(), time.time()
        for key in folder.prune(now=now, lifetime=lifetime):
            note(console, "removed", key.file.name)
        before = folder.all_files()
        keys = folder.rotate(now if at_once else now + wait, now=now)
        for key in set(before).difference(folder.all_files()):
            note(console, "removed", f"{key.file.name}, which would have signed from {_moment(key.begins)}")
        for key in keys:
            note(console, "made", f"{key.file.name}, which signs from {_moment(key.begins)}")


@app.command()
def prune(config: Config = Path("agentguard.toml")) -> None:
    """Remove the keys that sign no more and whose last tokens have expired, and their public keys.

    A token lives as long as `issuer.lifetime` says, or for an hour if that is longer; then 65 seconds more
    are for clocks that differ. An application that gives its guard a longer lifetime writes it there.

    Exit codes: 0 done; 2 it could not be done.
    """
    with _folder(config) as (folder, lifetime):
        console = out()
        files = folder.prune(now=time.time(), lifetime=lifetime)
        for key in files:
            note(console, "removed", key.file.name)
        note(console, "ok", f"{len(files)} keys were removed, {len(folder.all_files())} are left")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
