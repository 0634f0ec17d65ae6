"""Secrets of Azure Key Vault, through azure-keyvault-secrets and azure-identity."""

from __future__ import annotations

import os
from typing import Any

from azure.core.exceptions import AzureError
from azure.identity import ClientSecretCredential, DefaultAzureCredential
from azure.keyvault.secrets import SecretClient

from agentguard.credentials.sources.base import TIMEOUT, Settings
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Secret

__all__ = ["AzureSecret"]


class AzureSecret:
    """A `SecretSource`: ``name`` or ``name/version`` in one vault.

    *settings* has ``vaulturl`` or ``vaultname``; without them the environment variable
    AZURE_KEYVAULT_URL is used. It may have ``tenantid``, ``clientid`` and ``clientsecret``; without
    them Azure's default credential is used. Connecting and answering take at most *timeout* seconds
    each, in two attempts.

    Raises:
        ConfigurationError: Neither *settings* nor the environment names a vault.
    """

    def __init__(self, id: str, settings: Settings, *, timeout: float = TIMEOUT) -> None:
        self._id, _, self._version = id.partition("/")
        vault = settings.get("vaultname")
        self._url = settings.get("vaulturl") or (
            f"https://{vault}.vault.azure.net" if vault else os.environ.get("AZURE_KEYVAULT_URL", "")
        )
        if not self._url:
            raise ConfigurationError(
                f"azure:{id} is in no vault", hint="set VAULT_VAULTNAME, VAULT_VAULTURL or AZURE_KEYVAULT_URL"
            )
        self.name, self._settings, self._timeout = f"azure:{id}", settings, timeout

    def read(self) -> Secret:
        """Call Get Secret."""
        failure = "nothing"
        limits = {"connection_timeout": self._timeout, "read_timeout": self._timeout, "retry_total": 1}
        try:
            with (
                self._credential(limits) as credential,
                SecretClient(self._url, credential, **limits) as client,
            ):
                if (secret := _secret(client, self._id, self._version)) is not None:
                    return secret
        except (AzureError, OSError, ValueError) as error:
            failure = type(error).__name__
        raise IssueError(f"{self.name}: Azure gave {failure}")

    def _credential(self, limits: dict[str, Any]) -> ClientSecretCredential | DefaultAzureCredential:
        get = self._settings.get
        tenant, client, secret = get("tenantid"), get("clientid"), get("clientsecret")
        if tenant and client and secret:
            return ClientSecretCredential(tenant, client, secret, **limits)
        return DefaultAzureCredential(**limits)


def _secret(client: SecretClient, id: str, version: str) -> Secret | None:
    text = client.get_secret(id, version or None).value
    return Secret(text) if text else None
