"""Secrets of Google Cloud's Secret Manager, through google-cloud-secret-manager."""

from __future__ import annotations

import json
from typing import Any

from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.cloud.secretmanager_v1 import SecretManagerServiceClient
from google.oauth2 import service_account

from agentguard.credentials.sources.base import TIMEOUT, Settings, mute
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Secret

__all__ = ["GcpSecret"]

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_TRANSPORT = "google.cloud.secretmanager_v1.services.secret_manager_service.transports.rest"


class GcpSecret:
    """A `SecretSource`: ``projects/P/secrets/S``, in its latest version or in ``/versions/V``.

    *settings* has ``keyfilename``, a service account's key file, or ``credentials``, the content of
    one; without them Application Default Credentials are used. It uses REST, since gRPC's threads do
    not survive a fork. The answer takes at most *timeout* seconds, and a token for it as long again.

    Raises:
        ConfigurationError: The id has another form.
    """

    def __init__(self, id: str, settings: Settings, *, timeout: float = TIMEOUT) -> None:
        if not id.startswith("projects/"):
            raise ConfigurationError(
                f"gcp:{id} names no secret", hint="write gcp:projects/PROJECT/secrets/SECRET"
            )
        self.name, self._settings, self._timeout = f"gcp:{id}", settings, timeout
        self._version = id if "/versions/" in id else f"{id}/versions/latest"

    def read(self) -> Secret:
        """Call accessSecretVersion."""
        failure = "nothing"
        try:
            with mute(_TRANSPORT, "google.auth.transport.requests"):
                secret = _secret(self._client(), self._version, self._timeout)
                if secret is not None:
                    return secret
        except (GoogleAPIError, GoogleAuthError, OSError, ValueError, KeyError) as error:
            failure = type(error).__name__
        raise IssueError(f"{self.name}: Google gave {failure}")

    def _client(self) -> SecretManagerServiceClient:
        accounts: Any = service_account.Credentials  # its methods have no types
        if file := self._settings.get("keyfilename"):
            account = accounts.from_service_account_file(file, scopes=_SCOPES)
        elif inline := self._settings.get("credentials"):
            account = accounts.from_service_account_info(json.loads(inline), scopes=_SCOPES)
        else:
            account = None
        return SecretManagerServiceClient(credentials=account, transport="rest")


def _secret(client: Any, version: str, timeout: float) -> Secret | None:
    with client:
        answer = client.access_secret_version(name=version, timeout=timeout, retry=None)
    text = answer.payload.data.decode()
    return Secret(text) if text else None
