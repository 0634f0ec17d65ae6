"""`agentguard exec`: a command with secrets that it needs, and with nothing else of ours."""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from agentguard.cli.exec.arguments import BAO, Request, inherited
from agentguard.cli.exec.child import Watch, conceal
from agentguard.cli.exec.run import Delivery, Journal, Renew, attended, say
from agentguard.cli.exec.secrets import Supply
from agentguard.credentials.sources import whole
from agentguard.errors import AgentGuardError, ConfigurationError
from agentguard.model import Secret

if TYPE_CHECKING:
    from agentguard.cli.exec.openbao import Bao

__all__ = ["HELP", "Divided", "command"]

_FAILED = 125  # as env and timeout have it


class Divided(TyperCommand):
    """A command whose arguments end at ``--``; what is behind it is not looked at."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the child's command away before options are looked for."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["agentguard.argv"] = args[at + 1 :]
        return list(super().parse_args(ctx, args[:at]))


def command(
    context: typer.Context,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SOURCE", help="A variable and its source; repeat it for more."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A variable that the child inherits as well.")
    ] = None,
    renew: Annotated[Renew, typer.Option(help="How a new value reaches the child.")] = Renew.NONE,
    refresh: Annotated[
        float, typer.Option(min=1.0, help="Seconds after which a stored secret is read again.")
    ] = 300.0,
    state: Annotated[
        Path | None, typer.Option(help="Where the record is.", show_default="~/.local/state/agentguard")
    ] = None,
) -> None:
    """Run a command with secrets: agentguard exec --secret NAME=SOURCE -- COMMAND ARGUMENTS.

    A SOURCE is openbao:PATH, aws:ID, gcp:ID, azure:NAME, keyring:SERVICE/NAME, file:PATH or env:NAME,
    and #json.path picks a part: --secret PGUSER=openbao:database/creds/ro#username. Parts of one place
    are read once. The form of MCP Secret Wrapper does as well: --vault-type=aws NAME=ID#path -- COMMAND.

    There is no shell. The child inherits PATH, HOME, USER, SHELL, TERM, TMPDIR, TZ, the locale and what
    --keep names; never what opens the vault. Its streams are ours, untouched, and its exit status is
    passed on (128+n for signal n; 125: we failed, 126 and 127: it cannot be run, is not found). What
    OpenBao mints is extended while the child lives and revoked when it ends; after a kill -9 by the next
    run, and on Linux the child then dies at once.

    A NEW VALUE, when a lease cannot be extended or a stored secret was changed, reaches the child by
    --renew=fd: AGENTGUARD_FD_NAME is the number of a descriptor whose content, from its start, is the
    value (NAME_FILE is its path), to be read anew for each use. --renew=restart: the child is ended and
    started again, which an MCP client does not expect. --renew=none: not at all.

    PREFER fd: a secret in the environment is read from /proc/PID/environ by every program of the same
    user, is inherited by all that the child starts, and is what crash reports collect. In a descriptor
    it still is readable by programs of the same user that may look into the child; this is no sandbox.
    """
    argv = context.meta["agentguard.argv"]
    try:
        if not argv:
            raise ConfigurationError("there is no command", hint="put it behind --")
        request = Request.of(secret or (), context.args, os.environ)
        status = _run(request, argv, set(keep or ()), renew, refresh, _state(state))
    except AgentGuardError as error:
        say(str(error))
        status = _FAILED
    raise typer.Exit(status)


HELP = "\n\n".join(" ".join(each.split()) for each in (command.__doc__ or "").split("\n\n"))


def _run(request: Request, argv: list[str], keep: set[str], renew: Renew, refresh: float, state: Path) -> int:
    conceal()
    env = inherited(os.environ, keep, request.kinds)
    for key in sorted(request.exposed):
        say(f"--vault-{key} stands in the list of processes, for every user: use VAULT_{key.upper()}")
    sources = {name: str(reference) for name, reference in request.wanted.items()}
    with ExitStack() as stack:
        journal = Journal(state / "audit.jsonl", program=argv[0], renew=renew.value, sources=sources)
        stack.callback(journal.close)
        watch = stack.enter_context(Watch())
        stored = {
            each.locator: whole(each, request.settings)
            for each in request.wanted.values()
            if each.kind not in BAO
        }
        lease = _bao(request.settings, state, stack).lease if request.kinds & BAO else None
        refreshed = math.inf if renew is Renew.NONE else refresh
        supply = Supply(request.wanted, stored, lease, refreshed, journal.tell)
        stack.callback(_revoked, supply, journal)
        supply.fetch()
        asked = watch.ending()  # while we read
        delivery = Delivery(env, supply, renew, stack)
        journal.status = 128 + asked if asked is not None else attended(argv, delivery, watch)
        return journal.status


def _revoked(supply: Supply, journal: Journal) -> None:
    problems = supply.end()
    for problem in problems:
        say(f"not known to be revoked, and left to the next run: {problem}")
    if problems or supply.leased:
        journal.tell("not revoked" if problems else "revoked", supply.leased)


def _bao(settings: Mapping[str, str], state: Path, stack: ExitStack) -> Bao:
    # here, since they need extras that a key in a file does not
    from agentguard.cli.exec.openbao import Bao, Outbox
    from agentguard.credentials.openbao.session import OpenBaoSession
    from agentguard.identity.file import FileIdentity

    address = settings.get("addr") or settings.get("address") or ""
    given = Secret(settings["token"]) if settings.get("token") else None
    if not address or not (given or settings.get("jwtfile")):
        raise ConfigurationError(
            "OpenBao cannot be reached",
            hint="set BAO_ADDR, and BAO_JWT_FILE, BAO_ROLE, BAO_AUDIENCE to log in with, or BAO_TOKEN",
        )
    session = OpenBaoSession(
        address,
        identity=FileIdentity(settings.get("jwtfile", os.devnull)),
        role=settings.get("role", ""),
        audience=settings.get("audience", "openbao"),
        mount=settings.get("mount", "jwt"),
        namespace=settings.get("namespace"),
        verify=ssl.create_default_context(cafile=settings["cacert"]) if settings.get("cacert") else None,
    )
    stack.callback(session.close)
    outbox = Outbox(state, f"{address} {settings.get('namespace', '')}".strip())
    stack.callback(outbox.close)
    bao = Bao(session, given, outbox)
    for id in bao.sweep():
        say(f"what the run {id} left at OpenBao is not revoked yet")
    return bao


def _state(given: Path | None) -> Path:
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return given or Path(home).expanduser() / "agentguard"
