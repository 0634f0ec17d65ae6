"""`agentguard exec`: run a command with the secrets that it needs, and without our other variables.

arguments  the command line, and which variables the child inherits
secrets    reads the secrets, renews them while the child lives, and revokes them at its end
reads      reads stored secrets in threads, since a vault may hang
files      the files in memory by which the child reads a secret
openbao    how OpenBao is reached, and the revocation of what killed runs have left
leases     one login at OpenBao and its leases
outbox     what must be revoked if this run dies
run        the audit record, the delivery of secrets to the child, and its restarts
child      the child process and the signals
"""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from typer.core import TyperCommand

from agentguard.cli.exec.arguments import OPENBAO_KINDS, ExecArguments, child_environment, list_reachable
from agentguard.cli.exec.child import SignalWatch
from agentguard.cli.exec.run import Delivery, Renew, RunRecord, run_child, warn
from agentguard.cli.exec.secrets import Secrets
from agentguard.concurrency.hiding import hide_process
from agentguard.credentials.sources import whole
from agentguard.errors import AgentGuardError, ConfigurationError, IssueError
from agentguard.model import Secret

if TYPE_CHECKING:
    from agentguard.cli.exec.openbao import OpenBaoClient
    from agentguard.credentials.openbao.session import OpenBaoSession

__all__ = ["HELP", "OPTIONS", "SplitCommand", "command"]

_FAILED = 125  # as in env and timeout
_TOKEN_LIMIT = 64 * 1024  # characters


_HELP = """Run a command with secrets: agentguard exec --secret NAME=SOURCE -- COMMAND ARGUMENTS.

A SOURCE is openbao:PATH, aws:ID, gcp:ID, azure:NAME, keyring:SERVICE/NAME, file:PATH or env:NAME.
#json.path picks a part: --secret PGUSER=openbao:database/creds/ro#username. Parts of one secret are
read together. The form of MCP Secret Wrapper works too: --vault-type=aws NAME=ID#path -- COMMAND.

There is no shell. The child inherits PATH, HOME, USER, SHELL, TERM, TMPDIR, TZ, the locale and the
variables of --keep, but never a variable that opens the vault. It uses our standard streams. Our exit
status is the child's (128+n for signal n; 125: agentguard failed, 126: the command cannot be run, 127:
it is not found). Leases of OpenBao are extended while the child lives, and revoked when it ends.

After a kill -9 of agentguard the child is killed at once on Linux, and the next run revokes its leases.
For that the accessor of the login is kept, and never a token. OpenBao has to permit the role of
BAO_REVOKER_ROLE, or else that of BAO_ROLE, auth/token/lookup-accessor and auth/token/revoke-accessor.
Otherwise the leases end with the login's ttl. Only a login of the same identity and role is revoked in
this way. The leases of a BAO_TOKEN are revoked by the next run with the same BAO_TOKEN.

If a lease cannot be extended or a stored secret has changed, there is a NEW VALUE. With --renew=fd the
child reads it from a descriptor: AGENTGUARD_FD_NAME is its number, NAME_FILE its path, and its content,
from the start, is the value. The child should read it again for each use. With --renew=restart the
child is ended and started again, which an MCP client does not expect. With --renew=none the child does
not get it.

PREFER fd. Every program of the same user can read a secret in the environment from /proc/PID/environ,
all programs that the child starts inherit it, and crash reports collect it. A secret in a descriptor
can still be read by programs of the same user that may inspect the child; on Linux nobody can write into it.

WHAT THE COMMAND CAN REACH. It runs as the same user. So it can read the user's files: BAO_JWT_FILE,
~/.vault-token, ~/.aws. It can end other runs of the user, and remove the notes by which the next run
would revoke; the leases then end by themselves. Our memory and environment it cannot read on Linux, but
for the moment in which Python starts: with BAO_TOKEN_FD=3 and 3< FILE a token stands in no environment.
This is no sandbox: to keep a command from all this, run it as another user.
"""
HELP = "\n\n".join(" ".join(text.split()) for text in _HELP.split("\n\n"))
"""The help of the command, a line for each paragraph."""


class SplitCommand(TyperCommand):
    """A command whose own arguments end at ``--``. The rest is the child's command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remove the child's command line before options are parsed."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["agentguard.argv"] = args[end + 1 :]
        return list(super().parse_args(ctx, args[:end]))


OPTIONS: dict[str, Any] = {
    "help": HELP,
    "cls": SplitCommand,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}
"""How the command line takes the command."""


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
    """Run a command with secrets; `HELP` is the text for the user."""
    argv = context.meta["agentguard.argv"]
    try:
        if not argv:
            raise ConfigurationError("there is no command", hint="put it behind --")
        arguments = ExecArguments.of(secret or (), context.args, os.environ)
        status = _run(arguments, argv, set(keep or ()), renew, refresh, _state_directory(state))
    except AgentGuardError as error:
        warn(str(error))
        status = _FAILED
    raise typer.Exit(status)


def _run(
    arguments: ExecArguments, argv: list[str], keep: set[str], renew: Renew, refresh: float, state: Path
) -> int:
    hide_process()
    env = child_environment(os.environ, keep, arguments.kinds)
    for key in sorted(arguments.exposed):
        warn(f"every user sees --vault-{key} in the list of processes: use VAULT_{key.upper()}")
    if files := list_reachable(arguments.kinds, arguments.settings, Path.home()):
        warn(f"the command runs as the same user, and can read what opens the vault: {', '.join(files)}")
    sources = {name: str(reference) for name, reference in arguments.references.items()}
    with ExitStack() as stack:
        record = RunRecord(state / "audit.jsonl", program=argv[0], renew=renew.value, sources=sources)
        stack.callback(record.close)
        watch = stack.enter_context(SignalWatch())
        stored = {
            reference.locator: whole(reference, arguments.settings)
            for reference in arguments.references.values()
            if reference.kind not in OPENBAO_KINDS
        }
        needs_openbao = arguments.kinds & OPENBAO_KINDS
        login = _openbao_client(arguments.settings, state, stack).login if needs_openbao else None
        interval = math.inf if renew is Renew.NONE else refresh
        secrets = Secrets(arguments.references, stored, login, interval, record.add)
        stack.callback(_revoke, secrets, record)
        secrets.fetch(watch.pending_end)
        end_signal = watch.pending_end()  # it may have arrived during the fetch
        delivery = Delivery(env, secrets, renew, stack)
        record.status = 128 + end_signal if end_signal is not None else run_child(argv, delivery, watch)
        return record.status


def _revoke(secrets: Secrets, record: RunRecord) -> None:
    problems = secrets.revoke()
    for problem in problems:
        warn(str(problem))
    unrevoked = any(isinstance(problem, IssueError) for problem in problems)
    if unrevoked or secrets.leased_names:
        record.add("not revoked" if unrevoked else "revoked", secrets.leased_names)


def _openbao_client(settings: Mapping[str, str], state: Path, stack: ExitStack) -> OpenBaoClient:
    # imported here, since they need an extra that other sources do not need
    from agentguard.cli.exec.openbao import OpenBaoClient
    from agentguard.cli.exec.outbox import Outbox

    address, token = settings.get("addr") or settings.get("address") or "", _token(settings)
    if not address or not (token or settings.get("jwtfile")):
        raise ConfigurationError(
            "OpenBao cannot be reached",
            hint="set BAO_ADDR, and BAO_JWT_FILE, BAO_ROLE, BAO_AUDIENCE to log in with, or BAO_TOKEN",
        )
    session = _session(address, settings, settings.get("role", ""))
    stack.callback(session.close)
    revoker = session
    if settings.get("revokerrole"):
        revoker = _session(address, settings, settings["revokerrole"])
        stack.callback(revoker.close)
    namespace = settings.get("namespace", "")
    place = f"{_normalize(address)} {namespace}"
    outbox = Outbox(state, place if token is not None else f"{place} {session.mount}/{session.role}", token)
    stack.callback(outbox.close)
    client = OpenBaoClient(session, revoker, token, outbox)
    for problem in client.sweep():
        warn(problem)
    return client


def _normalize(address: str) -> str:
    """Return the address in one spelling, so that each run finds the notes of the others."""
    parts = urlsplit(address)  # its scheme is in small letters
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _session(address: str, settings: Mapping[str, str], role: str) -> OpenBaoSession:
    from agentguard.credentials.openbao.session import OpenBaoSession
    from agentguard.identity.file import FileIdentity

    return OpenBaoSession(
        address,
        identity=FileIdentity(settings.get("jwtfile", os.devnull)),
        role=role,
        audience=settings.get("audience", "openbao"),
        mount=settings.get("mount", "jwt"),
        namespace=settings.get("namespace"),
        verify=ssl.create_default_context(cafile=settings["cacert"]) if settings.get("cacert") else True,
    )


def _token(settings: Mapping[str, str]) -> Secret | None:
    """Return the token that the user passed, in a variable or in a descriptor, if there is one."""
    if not settings.get("tokenfd"):
        return Secret(settings["token"]) if settings.get("token") else None
    try:
        with os.fdopen(int(settings["tokenfd"]), encoding="utf-8") as stream:  # the child does not inherit it
            token = stream.read(_TOKEN_LIMIT).strip()
    except (OSError, ValueError):
        token = ""
    if not token:
        raise ConfigurationError(
            "no token can be read from the descriptor of BAO_TOKEN_FD",
            hint="write BAO_TOKEN_FD=3 ... 3< FILE",
        )
    return Secret(token)


def _state_directory(option: Path | None) -> Path:
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return option or Path(home).expanduser() / "agentguard"
