"""Where secrets come from that nobody mints for us: vaults, keyrings, files, the environment.

reading (what a source is), local (env, file), keychain, aws, gcp, azure, openbao: each of them
imports its vendor's library, and is imported when it is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentguard.credentials.sources.base import Part, Reference, SecretSource, Settings, pick
from agentguard.credentials.sources.local import EnvironmentSecret, FileSecret
from agentguard.errors import ConfigurationError

if TYPE_CHECKING:  # it needs an extra that a key in a file does not
    from agentguard.credentials.openbao.session import OpenBaoSession

_EXTRAS = dict.fromkeys(("openbao", "vault", "hashicorp"), "issuers")

__all__ = ["EnvironmentSecret", "FileSecret", "Part", "Reference", "SecretSource", "pick", "source", "whole"]


def source(
    text: str, settings: Settings | None = None, *, session: OpenBaoSession | None = None
) -> SecretSource:
    """Return the source that *text* names, such as ``aws:prod/api#key``; nothing is read yet.

    ``openbao:secret/data/api#key`` (or ``vault:``), ``aws:ARN-OR-NAME``, ``gcp:projects/P/secrets/S``,
    ``azure:NAME[/VERSION]``, ``keyring:SERVICE/NAME``, ``file:/PATH`` and ``env:NAME``, each with a
    ``#json.path`` if the secret is a JSON object. *settings* say how to reach a cloud's vault,
    *session* how to reach OpenBao.

    Raises:
        ConfigurationError: The text names no source, or the source lacks a library or a setting.
    """
    reference = Reference.of(text)
    found = whole(reference, settings or {}, session)
    return found if reference.path is None else Part(found, reference.path)


def whole(reference: Reference, settings: Settings, session: OpenBaoSession | None = None) -> SecretSource:
    """Do as `source`, for all of a secret; the path is left out."""
    if (local := _local(reference)) is not None:
        return local
    try:
        return _vault(reference, settings, session)
    except ImportError as error:
        raise ConfigurationError(
            f"{reference.kind}: the library {error.name} is missing",
            hint=f"pip install 'agentguard[{_EXTRAS.get(reference.kind, reference.kind)}]'",
        ) from None


def _local(reference: Reference) -> SecretSource | None:
    if reference.kind == "env":
        return EnvironmentSecret(reference.id)
    return FileSecret(reference.id) if reference.kind == "file" else None


def _vault(reference: Reference, settings: Settings, session: OpenBaoSession | None) -> SecretSource:
    match reference.kind:
        case "aws":
            from agentguard.credentials.sources.aws import AwsSecret

            return AwsSecret(reference.id, settings)
        case "gcp":
            from agentguard.credentials.sources.gcp import GcpSecret

            return GcpSecret(reference.id, settings)
        case "azure":
            from agentguard.credentials.sources.azure import AzureSecret

            return AzureSecret(reference.id, settings)
        case "keyring":
            from agentguard.credentials.sources.keychain import KeyringSecret

            return KeyringSecret(reference.id)
        case "openbao" | "vault" | "hashicorp":
            return _openbao(reference, session)
    raise ConfigurationError(
        f"{reference.kind!r} is no kind of source",
        hint="use one of openbao, aws, gcp, azure, keyring, file, env",
    )


def _openbao(reference: Reference, session: OpenBaoSession | None) -> SecretSource:
    from agentguard.credentials.sources.openbao import OpenBaoSecret

    if session is None:
        raise ConfigurationError(
            f"{reference.locator}: no OpenBao is configured", hint="give its address and a login"
        )
    return OpenBaoSecret(reference.id, session)
