"""Secrets of AWS Secrets Manager, through boto3."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from agentguard.credentials.sources.base import TIMEOUT, Settings, mute
from agentguard.errors import IssueError
from agentguard.model import Secret

__all__ = ["AwsSecret"]


class AwsSecret:
    """A `SecretSource`: a secret by its ARN or name, in its current version (``AWSCURRENT``).

    *settings* may have ``profile``, ``region``, ``accesskeyid``, ``secretaccesskey`` and
    ``sessiontoken``. boto3 finds missing ones where AWS's own programs do, and the region in the ARN.
    Connecting and answering take at most *timeout* seconds each, in two attempts.
    """

    def __init__(self, id: str, settings: Settings, *, timeout: float = TIMEOUT) -> None:
        self.name, self._id, self._settings, self._timeout = f"aws:{id}", id, settings, timeout

    def read(self) -> Secret:
        """Call GetSecretValue."""
        failure = "nothing"
        try:
            with mute("botocore.parsers", "botocore.endpoint"):
                answer = self._client().get_secret_value(SecretId=self._id)
                if (secret := _secret(answer)) is not None:
                    return secret
        except ClientError as error:
            failure = error.response.get("Error", {}).get("Code", "an error without a code")
        except (BotoCoreError, ValueError) as error:
            failure = type(error).__name__
        raise IssueError(f"{self.name}: AWS gave {failure}")

    def _client(self) -> Any:
        get = self._settings.get
        session = boto3.Session(
            profile_name=get("profile"),
            region_name=get("region") or _region(self._id),
            aws_access_key_id=get("accesskeyid"),
            aws_secret_access_key=get("secretaccesskey"),
            aws_session_token=get("sessiontoken"),
        )
        retries = {"mode": "standard", "total_max_attempts": 2}
        limits: Any = {"connect_timeout": self._timeout, "read_timeout": self._timeout, "retries": retries}
        return session.client("secretsmanager", config=Config(**limits))


def _region(id: str) -> str | None:
    parts = id.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) > 3 else None


def _secret(answer: Any) -> Secret | None:
    text = answer.get("SecretString") or answer.get("SecretBinary", b"").decode()
    return Secret(text) if text else None
