"""From settings to identity sources, brokers and transmitters.

An adapter is imported only when the settings name its kind, since it may need an extra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentguard.config.adapter_settings import (
    AwsSettings,
    BrokerSettings,
    FileIdentitySettings,
    GitHubSettings,
    IdentityAssertionSettings,
    IdentitySettings,
    OpenBaoSettings,
    SecretSettings,
    SignalSettings,
    SourceSettings,
    SpiffeIdentitySettings,
    TokenExchangeSettings,
)
from agentguard.config.oauth import identity_assertion_brokers, token_exchange_brokers
from agentguard.config.signal_keys import load_signal_key
from agentguard.config.tls import tls_context
from agentguard.credentials.local_issuer import load_key
from agentguard.errors import ConfigurationError
from agentguard.files import read_trusted
from agentguard.identity.local import LocalIdentity
from agentguard.jose import Json, strict_json
from agentguard.jose.key_source import KeySource
from agentguard.model import ToolPath
from agentguard.ports import Broker, IdentitySource, Store, Transmitter

if TYPE_CHECKING:  # each needs an extra
    from agentguard.credentials.openbao import OpenBaoSession
    from agentguard.signals.sources import Source

__all__ = ["AdapterFactory", "extra", "identity_of"]

ByPath = dict[ToolPath, Broker]


def identity_of(
    settings: IdentitySettings, name: str, file_of: Callable[[str], Path], clock: Callable[[], float]
) -> IdentitySource:
    """Make the identity source. *name* is the agent's; *file_of* returns the path of a named file."""
    if isinstance(settings, FileIdentitySettings):
        from agentguard.identity.file import FileIdentity

        return FileIdentity(file_of(settings.path), audience=settings.audience, clock=clock)
    with extra("spiffe"):
        if isinstance(settings, SpiffeIdentitySettings):
            from agentguard.identity.spiffe import SpiffeIdentity

            return SpiffeIdentity(settings.socket, spiffe_id=settings.id, clock=clock)
    with extra("issuers"):
        if settings.kind == "github_actions":
            from agentguard.identity.github_actions import GitHubActionsIdentity

            return GitHubActionsIdentity(clock=clock)
    key = None if settings.key is None else load_key(file_of(settings.key))
    return LocalIdentity(name, key, clock=clock)


class extra:
    """A context that turns an ImportError into a ConfigurationError with the name of the missing extra."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, ImportError):
            raise ConfigurationError(
                f"the library {error.name} is missing", hint=f"pip install 'agentguard[{self._name}]'"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFactory:
    """Makes brokers and transmitters from their settings."""

    identity: IdentitySource
    store: Store
    file_of: Callable[[str], Path]
    clock: Callable[[], float]

    def brokers(self, settings: BrokerSettings) -> ByPath:
        """Return a broker for each path of the settings.

        Raises:
            ConfigurationError: A setting is wrong, or an extra is missing.
        """
        match settings:
            case TokenExchangeSettings():
                with extra("issuers"):
                    return token_exchange_brokers(settings, self)
            case IdentityAssertionSettings():
                with extra("issuers"):
                    return identity_assertion_brokers(settings, self)
            case OpenBaoSettings():
                with extra("issuers"):
                    return self._openbao(settings)
            case AwsSettings():
                with extra("aws"):
                    return self._aws(settings)
            case GitHubSettings():
                with extra("issuers"):
                    return self._github(settings)
            case SecretSettings():
                with extra("issuers"):
                    return self._secret(settings)

    def transmitter(self, settings: SignalSettings, issuer: str) -> Transmitter:
        """Make the transmitter for one receiver. *issuer* is the issuer of the tasks' tokens.

        Raises:
            ConfigurationError: A setting is wrong, or an extra is missing.
        """
        with extra("issuers"):
            from agentguard.credentials.sources import source
            from agentguard.signals.transmitter import Transmitter as SignalTransmitter

            header = None if settings.authorization is None else source(settings.authorization).read()
            return SignalTransmitter(
                settings.url,
                audience=settings.audience,
                issuer=issuer,
                signer=load_signal_key(self.file_of(settings.key), settings.algorithm),
                authorization=header,
                verify=tls_context(self.file_of, ca=settings.ca),
                clock=self.clock,
            )

    def source(self, settings: SourceSettings) -> Source:
        """Make a source of signals.

        Raises:
            ConfigurationError: A setting or the JWK Set is wrong, or an extra is missing.
        """
        with extra("issuers"):
            from agentguard.credentials.sources import source
            from agentguard.signals.sources import Source as SignalSource

            header = None if settings.authorization is None else source(settings.authorization).read()
            return SignalSource(
                issuer=settings.issuer,
                keys=self.key_set(settings.keys, settings.issuer, settings.ca),
                speaks_for=frozenset(settings.speaks_for),
                authorization=header,
                subjects=settings.subjects,
            )

    def key_set(self, location: str, issuer: str, ca: str | None) -> Mapping[str, Json] | KeySource:
        """Return the JWK Set in a file, or a source that reads it from a URL.

        Raises:
            ConfigurationError: The file is no JWK Set, others may write it, or the URL is not https.
        """
        if "://" in location:
            return KeySource(location, issuer, verify=tls_context(self.file_of, ca=ca))
        file = self.file_of(location)
        try:
            keys: Mapping[str, Json] = strict_json(read_trusted(file).encode())
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the JWK Set cannot be read: {type(error).__name__}",
                hint="save the issuer's jwks_uri in it",
                file=file,
            ) from error
        return keys

    def _openbao(self, settings: OpenBaoSettings) -> ByPath:
        from agentguard.credentials.openbao import OpenBao

        if settings.roles.keys() != settings.creds.keys():
            raise ConfigurationError(
                "roles and creds are not for the same paths", hint="name a role and its creds for each path"
            )
        revoker = None if settings.revoker is None else self._session(settings, settings.revoker)
        return {
            ToolPath(path): OpenBao(
                ToolPath(path),
                self._session(settings, role),
                creds=settings.creds[path],
                revoker=revoker,
                server=settings.server,
                reuse=path in settings.reuse,
                wrap=settings.wrap,
            )
            for path, role in settings.roles.items()
        }

    def _session(self, settings: OpenBaoSettings, role: str) -> OpenBaoSession:
        from agentguard.credentials.openbao import OpenBaoSession

        return OpenBaoSession(
            settings.address,
            identity=self.identity,
            role=role,
            audience=settings.audience,
            mount=settings.mount,
            namespace=settings.namespace,
            verify=tls_context(self.file_of, ca=settings.ca),
            clock=self.clock,
        )

    def _aws(self, settings: AwsSettings) -> ByPath:
        from agentguard.credentials.aws import AwsConnection, AwsRole, Statement

        connection = AwsConnection(
            region=settings.region,
            identity=self.identity,
            revoker=settings.revoker,
            endpoint=settings.endpoint,
        )
        broker = AwsRole(
            {ToolPath(path): role for path, role in settings.roles.items()},
            connection,
            statements={
                scope: [Statement(**statement.model_dump()) for statement in statements]
                for scope, statements in settings.statements.items()
            },
            clock=self.clock,
        )
        return dict.fromkeys(broker.paths, broker)

    def _github(self, settings: GitHubSettings) -> ByPath:
        from agentguard.credentials.github import AppKey, GitHubApp
        from agentguard.credentials.sealing import SealingKey

        broker = GitHubApp(
            settings.client_id,
            settings.installation,
            AppKey.from_file(self.file_of(settings.key)),
            permissions={ToolPath(path): levels for path, levels in settings.permissions.items()},
            repositories=settings.repositories,
            seal=SealingKey.from_file(self.file_of(settings.seal)),
            clock=self.clock,
        )
        return dict.fromkeys(broker.paths, broker)

    def _secret(self, settings: SecretSettings) -> ByPath:
        from agentguard.credentials.long_lived import LegacySecret
        from agentguard.credentials.openbao import OpenBaoSession
        from agentguard.credentials.sources import source

        session = None
        if settings.address is not None:
            session = OpenBaoSession(
                settings.address,
                identity=self.identity,
                role=settings.role or "",
                audience=settings.audience or "",
                verify=tls_context(self.file_of, ca=settings.ca),
                clock=self.clock,
            )
        broker = LegacySecret(
            source(settings.source, settings.settings, session=session),
            paths=map(ToolPath, settings.paths),
            header=settings.header,
            scheme=settings.scheme,
            refresh=settings.refresh,
            clock=self.clock,
        )
        return dict.fromkeys(broker.paths, broker)
