"""`agentguard doctor`: does the configuration work with the real stores, issuers, PDPs and keys?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from agentguard import AgentGuardError, ConfigurationError, Guard
from agentguard.cli._console import note, out
from agentguard.concurrency.drive import drive
from agentguard.config import Settings, build, load
from agentguard.credentials.callers import Caller
from agentguard.jose.key_source import KeySource
from agentguard.model import Identity
from agentguard.policies.combine import Combine
from agentguard.testing.samples import sample_request

__all__ = ["Diagnosis", "command", "diagnoses"]


class Diagnosis(NamedTuple):
    """One line of the report; `word` is ok, warning or error."""

    word: str
    text: str


def command(
    config: Annotated[Path, typer.Option(help="The configuration to try.")] = Path("agentguard.toml"),
) -> None:
    """Try the configuration: read its keys, open its store and log, and ask its issuers and PDPs.

    As a guard does, it makes files that are missing. No credential is issued, and no record is written. Each
    broker proves its client to the issuer, by the revocation of a token that does not exist, or by a login
    that it revokes. Each PDP is asked about a user whom nobody is called, and each receiver of signals
    whether it answers. The secret or the keys of each table introspection.callers.NAME and sources.NAME are
    read, and the metadata that `discover` names. An issuer's own words about a refusal are shown: they are in
    no denial.

    Exit codes: 0 all works, though there may be warnings; 1 something does not.
    """
    console = out()
    report = list(diagnoses(config))
    for diagnosis in report:
        note(console, *diagnosis)
    raise typer.Exit(1 if any(diagnosis.word == "error" for diagnosis in report) else 0)


def diagnoses(config: Path) -> Iterator[Diagnosis]:
    """Yield what works and what does not, part by part."""
    try:
        settings = load(config)
        parts = build(settings)
        guard = Guard.from_parts(parts)
    except ConfigurationError as error:
        yield Diagnosis("error", str(error))
        return
    with closing(guard):
        yield Diagnosis("ok", f"{config} is well-formed")
        yield from _store(guard)
        yield _log(settings, guard)
        yield from _brokers(guard)
        yield from _pdps(guard)
        yield from _signals(guard)
        for name, source in zip(settings.sources, parts.sources, strict=True):
            yield _tried(f"the keys of the source {name}", partial(_read_keys, source.keys), "can be read")
        for name in settings.introspection.callers:
            credential = partial(_read_credentials, partial(parts.callers, name))
            yield _tried(f"the credential of the caller {name}", credential, "can be read")


def _store(guard: Guard) -> Iterator[Diagnosis]:
    store = guard.enforcement.ports.store
    yield _tried(f"the store, a {type(store).__name__},", partial(store.known, "agentguard doctor"))


def _log(settings: Settings, guard: Guard) -> Diagnosis:
    """Say whether the log can be written, without a record: that would be one of an event that never was."""
    if settings.audit.kind == "postgres":
        return _tried("the audit log in PostgreSQL", guard.enforcement.ports.audit.health, "can be written")  # type: ignore[attr-defined]  # of this kind
    path = settings.file.parent / settings.audit.path
    place = path if path.exists() else path.parent
    if os.access(place, os.W_OK):
        return Diagnosis("ok", f"the audit log {path} can be written")
    problem = f"the audit log {path} cannot be written"
    return Diagnosis("error", f"{problem}\nhint: make {place} writable for this user")


def _brokers(guard: Guard) -> Iterator[Diagnosis]:
    """Ask each broker's issuer, once for all paths and resources that it serves."""
    places: dict[int, tuple[Any, list[str]]] = {}
    for (resource, path), broker in guard.enforcement.ports.brokers.items():
        _, names = places.setdefault(id(broker), (broker, []))
        names.append(f"{resource or 'all other resources'} {path}")
    for broker, names in places.values():
        check = getattr(broker, "check", None)
        if check is not None:
            yield _tried(f"the broker {broker!r} for {', '.join(names)}", check)


def _signals(guard: Guard) -> Iterator[Diagnosis]:
    for name, transmitter in guard.enforcement.ports.signals.items():
        if (ask := getattr(transmitter, "health", None)) is not None:
            yield _tried(f"the receiver of signals {name}", ask)


def _read_credentials(callers: Callable[[], tuple[Caller, ...]]) -> None:
    for caller in callers():
        _read_keys(caller.keys)


def _read_keys(keys: object) -> None:
    """Read the keys that are at a URL. Others were read with the configuration."""
    if isinstance(keys, KeySource):
        drive(_load(keys))


async def _load(keys: KeySource) -> None:
    await keys.load.sync()


def _pdps(guard: Guard) -> Iterator[Diagnosis]:
    policy = guard.enforcement.ports.policy
    for part in policy.policies if isinstance(policy, Combine) else (policy,):
        subject = getattr(part, "example", "agentguard-doctor")
        if not hasattr(part, "close"):  # it is evaluated in this process
            yield Diagnosis("ok", f"the rules, version {part.version}, were read")
            continue
        question = sample_request(identity=Identity(subject=subject, actor="agentguard-doctor"))
        yield _tried(f"the PDP {part.version}", partial(part.decide, question))


def _tried(part: str, ask: Callable[[], object], success: str = "answers") -> Diagnosis:
    try:
        ask()
    except AgentGuardError as error:
        hint = f"\nhint: {error.hint}" if isinstance(error, ConfigurationError) and error.hint else ""
        return Diagnosis("error", f"{part}: {error}{hint}")
    except Exception as error:  # noqa: BLE001  an adapter may raise anything, and the next part is asked all the same
        return Diagnosis("error", f"{part}: {type(error).__name__}: {error}")
    return Diagnosis("ok", f"{part} {success}")
