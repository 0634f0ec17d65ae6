"""Sources of long-lived secrets: vaults, the keyring, files and the environment.

base      what a source is, how a text names one, and how a part of a JSON secret is picked
local     a file or an environment variable
keychain  the user's keyring; the extra ``keyring``
aws       AWS Secrets Manager; the extra ``aws``
gcp       Google Cloud Secret Manager; the extra ``gcp``
azure     Azure Key Vault; the extra ``azure``
openbao   OpenBao or HashiCorp Vault; the extra ``issuers``

A module that needs an extra is imported only when a text names its kind of source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentguard.credentials.sources.base import Part, Reference, SecretSource, Settings, pick
from agentguard.credentials.sources.local import EnvironmentSecret, FileSecret
from agentguard.errors import ConfigurationError

if TYPE_CHECKING:  # it needs an extra
    from agentguard.credentials.openbao.session import OpenBaoSession

_EXTRAS = dict.fromkeys(("openbao", "vault", "hashicorp"), "issuers")

__all__ = ["EnvironmentSecret", "FileSecret", "Part", "Reference", "SecretSource", "pick", "source", "whole"]


def source(
    text: str, settings: Settings | None = None, *, session: OpenBaoSession | None = None
) -> SecretSource:
    """Return the source that *text* names, such as ``aws:prod/api#key``. Nothing is read yet.

    The forms are ``openbao:secret/data/api#key`` (or ``vault:``), ``aws:ARN-OR-NAME``,
    ``gcp:projects/P/secrets/S``, ``azure:NAME[/VERSION]``, ``keyring:SERVICE/NAME``, ``file:/PATH``
    and ``env:NAME``. If the secret is a JSON object, ``#json.path`` picks a part of it. *settings* say
    how to reach a cloud's vault, and *session* reaches OpenBao.

    Raises:
        ConfigurationError: The text names no source, or the source lacks a library or a setting.
    """
    reference = Reference.of(text)
    complete = whole(reference, settings or {}, session)
    return complete if reference.path is None else Part(complete, reference.path)


def whole(reference: Reference, settings: Settings, session: OpenBaoSession | None = None) -> SecretSource:
    """Return the source of the complete secret. The reference's path is not used."""
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
