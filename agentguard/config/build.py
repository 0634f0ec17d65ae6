"""From `Settings` to the parts of a guard. Without further settings, they need no server and no extra."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentguard.catalog import Catalog, spec_of
from agentguard.config.adapters import AdapterFactory, extra, identity_of
from agentguard.config.audit import audit_of
from agentguard.config.introspection import caller_of
from agentguard.config.issuer import key_folder_of
from agentguard.config.load import position_of
from agentguard.config.lock import lock_of, read_pins
from agentguard.config.oauth import discovering
from agentguard.config.settings import Settings, schema_of
from agentguard.config.store import store_of
from agentguard.credentials.callers import Caller
from agentguard.credentials.key_ring import KeyRing
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.credentials.presentation import ProofKey
from agentguard.enforcement.setup import Options, Ports
from agentguard.errors import AuditError, ConfigurationError, StoreError
from agentguard.files import make_private_folder
from agentguard.intent.templates import Template
from agentguard.model import ToolPath
from agentguard.policies.cedar.policy import CedarPolicy
from agentguard.policies.cedar.reload import ReloadingCedar
from agentguard.policies.combine import Combine
from agentguard.ports import Broker, DeclaredFact, IdentitySource, Policy, Store, Transmitter

if TYPE_CHECKING:  # needs an extra
    from agentguard.signals import Source

__all__ = ["Parts", "build"]

Clock = Callable[[], float]
_OF_SERVERS = ("issuer", "sources", "callers", "introspection_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What agentguard.toml makes of a guard: its adapters, its options, and its templates and tracing.

    `issuer` and `sources` are for `Guard.receiver`, `callers`, which reads their secrets, and
    `introspection_rate` for `Guard.introspection`.
    """

    ports: Ports
    options: Options
    templates: tuple[Template, ...] = ()
    trace_arguments: bool = False
    trace_stages: bool = False
    issuer: str = ""
    sources: tuple[Source, ...] = ()
    callers: Callable[..., tuple[Caller, ...]] = tuple
    introspection_rate: float = 500.0

    def arguments(self) -> dict[str, Any]:
        """Return the parts by name, as a guard's constructor takes them."""
        ports = {name: getattr(self.ports, name) for name in _names(Ports) - {"approvers", "entitlements"}}
        options = {name: getattr(self.options, name) for name in _names(Options) - {"new_id", "outcome_of"}}
        rest = {name: getattr(self, name) for name in _names(Parts) - {"ports", "options", *_OF_SERVERS}}
        return {**ports, **options, **rest}


def _names(kind: type[Ports | Options | Parts]) -> set[str]:
    return {field.name for field in fields(kind)}


def build(settings: Settings, *, clock: Clock = time.time) -> Parts:
    """Make the parts: open the store and the audit log, and make missing keys and directories.

    The policies are parsed here. They are checked against the tools when the guard binds them.

    Raises:
        ConfigurationError: A file is missing or wrong. The error has the line in agentguard.toml or in
            the file itself.
    """
    with _with_position(settings, "tools"):
        catalog = _catalog(settings)
    with _with_position(settings, "policy", "cedar"):
        policy = _policy(settings)
    identity = _identity(settings, clock)
    with _with_position(settings, "store", "path" if settings.store.url is None else "url"):
        store = store_of(settings.store, partial(_writable, settings), clock)
    issuers = _issuers(settings, store, clock)
    with _with_position(settings, "audit", "path" if settings.audit.url is None else "url"):
        audit = audit_of(settings.audit, partial(_writable, settings), clock)
    adapters = AdapterFactory(
        identity=identity, store=store, file_of=partial(_writable, settings), clock=clock
    )
    ports = Ports(
        catalog=catalog,
        policy=policy,
        identity=identity,
        brokers={(None, issuer.path): issuer for issuer in issuers} | _brokers(settings, adapters),
        store=store,
        audit=audit,
        signals=_signals(settings, adapters),
        facts=_facts(settings),
    )
    return Parts(
        ports=ports,
        options=_options(settings, clock),
        templates=tuple(task.template(name) for name, task in settings.tasks.items()),
        trace_arguments=settings.telemetry.arguments,
        trace_stages=settings.telemetry.stages == "spans",
        issuer=settings.issuer.issuer,
        sources=_sources(settings, adapters),
        callers=partial(_callers, settings, adapters),
        introspection_rate=settings.introspection.rate,
    )


def _options(settings: Settings, clock: Clock) -> Options:
    return Options(
        environment=dict(settings.environment),
        ceiling=settings.ceiling,
        lifetime=settings.issuer.lifetime,
        approval_lifetime=settings.approval.expires,
        limits=settings.limits.limits(),
        clock=clock,
        observe=settings.policy.mode == "observe",
        record_requests=settings.audit.requests,
    )


@contextmanager
def _with_position(settings: Settings, *keys: str) -> Iterator[None]:
    """Add the line in agentguard.toml to an error, unless it names another file already."""
    try:
        yield
    except ConfigurationError as error:
        if error.file is not None:
            raise
        file, line = position_of(settings, *keys)
        raise ConfigurationError(error.problem, hint=error.hint, file=file, line=line) from error
    except (OSError, ValueError, StoreError, AuditError) as error:
        file, line = position_of(settings, *keys)
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"{'.'.join(keys)} cannot be used: {reason}",
            hint=getattr(error, "hint", "") or "correct the path, or the permissions of its directory",
            file=file,
            line=line,
        ) from error


def _catalog(settings: Settings) -> Catalog:
    resources = [resource.resource(name) for name, resource in settings.resources.items()]
    specs = [
        spec_of(name, tool.model_dump(exclude={"args"}), schema_of(name, tool.args))
        for name, tool in settings.tools.items()
    ]
    return Catalog(specs, resources, read_pins(lock_of(settings.file)))


def _policy(settings: Settings) -> Policy:
    """Return the one policy that the settings name, or all of them, combined by the rule."""
    policies: list[Policy] = []
    if settings.policy.cedar or not settings.policy.pdps:
        policies.append(ReloadingCedar(partial(_cedar, settings)))
    for name in settings.policy.pdps:
        with _with_position(settings, "pdps", name, "url"):
            policies.append(settings.pdps[name].policy(settings.file.parent.joinpath))
    return policies[0] if len(policies) == 1 else Combine(policies, settings.policy.rule)


def _cedar(settings: Settings) -> CedarPolicy:
    files: set[Path] = set()
    for pattern in settings.policy.cedar:
        # a name of a file is not a pattern, although it may contain [ or *
        file = settings.file.parent / pattern
        names = [pattern] if file.is_file() else glob(pattern, root_dir=settings.file.parent, recursive=True)
        if not names:
            raise ConfigurationError(
                f"no policy file matches {pattern!r}",
                hint=f"correct it, or remove it; it is relative to {settings.file.parent.absolute()}",
            )
        files |= {settings.file.parent / name for name in names}
    return CedarPolicy.from_files(sorted(files), environment=settings.environment)


def _brokers(settings: Settings, adapters: AdapterFactory) -> dict[tuple[str | None, ToolPath], Broker]:
    """Return the brokers of the resources that name one, for the paths that the broker serves."""
    by_name = {}
    for name, broker in settings.brokers.items():
        with _with_position(settings, "brokers", name):
            by_name[name] = adapters.brokers(broker)
    brokers: dict[tuple[str | None, ToolPath], Broker] = {
        (resource, ToolPath(path)): _discovering(settings, resource, by_name[name][ToolPath(path)], adapters)
        for resource, table in settings.resources.items()
        for path, name in (table.broker or {}).items()
        if ToolPath(path) in by_name[name]
    }
    for tool, spec in settings.tools.items():
        resource = settings.resources.get(spec.resource or "")
        if resource is not None and resource.broker and (spec.resource, ToolPath(spec.path)) not in brokers:
            with _with_position(settings, "tools", tool, "path"):
                raise ConfigurationError(
                    f"the resource {spec.resource} has no broker that serves {spec.path}",
                    hint=f"name one in [resources.{spec.resource}] broker",
                )
    return brokers


def _discovering(settings: Settings, resource: str, broker: Broker, adapters: AdapterFactory) -> Broker:
    table = settings.resources[resource]
    if table.discover is None:
        return broker
    with _with_position(settings, "resources", resource, "discover"), extra("issuers"):
        return discovering(broker, table.discover, table.resource(resource), adapters.clock)


def _signals(settings: Settings, adapters: AdapterFactory) -> dict[str, Transmitter]:
    transmitters = {}
    for name, receiver in settings.signals.items():
        with _with_position(settings, "signals", name):
            transmitters[name] = adapters.transmitter(receiver, settings.issuer.issuer)
    return transmitters


def _facts(settings: Settings) -> tuple[DeclaredFact, ...]:
    facts = []
    for name, table in settings.facts.items():
        with _with_position(settings, "facts", name):
            facts.append(table.fact(name, settings.file.parent.joinpath))
    return tuple(facts)


def _sources(settings: Settings, adapters: AdapterFactory) -> tuple[Source, ...]:
    sources = []
    for name, table in settings.sources.items():
        with _with_position(settings, "sources", name):
            sources.append(adapters.source(table))
    return tuple(sources)


def _callers(settings: Settings, adapters: AdapterFactory, only: str | None = None) -> tuple[Caller, ...]:
    resources = {name: resource.resource(name) for name, resource in settings.resources.items()}
    callers = []
    for name, table in settings.introspection.callers.items():
        if only in (None, name):
            with _with_position(settings, "introspection", "callers", name, table.credential_key):
                callers.append(caller_of(name, table, resources, adapters))
    return tuple(callers)


def _identity(settings: Settings, clock: Clock) -> IdentitySource:
    keys = ("agent", "id") if settings.identity.kind == "local" else ("identity",)
    with _with_position(settings, *keys):
        return identity_of(settings.identity, settings.agent.id, partial(_writable, settings), clock)


def _issuers(settings: Settings, store: Store, clock: Clock) -> list[LocalIssuer]:
    with _with_position(settings, "issuer", "keys"):
        folder = key_folder_of(settings.issuer, partial(_writable, settings))
    with _with_position(settings, "issuer", "keys" if settings.issuer.jwks is None else "jwks"):
        folder.prepare()
    with _with_position(settings, "issuer", "keys"):
        rings = {path: KeyRing(folder, path) for path in ToolPath}
    return [
        LocalIssuer(
            path,
            issuer=settings.issuer.issuer,
            store=store,
            proof_key=ProofKey(settings.issuer.algorithm, clock=clock),
            key=ring,
            clock=clock,
        )
        for path, ring in rings.items()
    ]


def _writable(settings: Settings, name: str) -> Path:
    """Return the path of a file that we write, and make its directory. Only the owner can enter that."""
    path = settings.file.parent / name
    make_private_folder(path.parent)
    return path
