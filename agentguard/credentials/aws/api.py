"""Calls to AWS: bounded in time, from no credentials but those that were given.

botocore looks for keys in the environment, in files and at the metadata service, for proxies and
endpoints in the environment. A `Session` made here looks nowhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader
from circuitbreaker import CircuitBreaker

from agentguard.errors import IdentityError, IssueError
from agentguard.model import Secret

__all__ = ["Api", "Refusal", "bare_session"]

_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")


class Refusal(IssueError):
    """AWS has answered, and with the error *code*."""

    def __init__(self, service: str, operation: str, code: str) -> None:
        super().__init__(f"aws: {service} answered {operation} with {code}")
        self.code = code


class Api:
    """One service of AWS, such as ``sts``, spoken to with what *session* holds, or unsigned.

    *timeout* is for connecting and for each read, in seconds; what certainly had no effect and what
    may be repeated is tried twice, with jitter (botocore's standard mode). After five failures in a row
    nothing is sent for ten seconds.
    """

    def __init__(
        self,
        service: str,
        session: boto3.Session,
        *,
        region: str,
        endpoint: str | None,
        timeout: float,
        unsigned: bool = False,
    ) -> None:
        config = Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"mode": "standard", "total_max_attempts": 2},
            proxies={},
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # its stubs are older
        )
        if unsigned:
            config = config.merge(Config(signature_version=UNSIGNED))
        make: Any = session.client  # its stubs know each service by a package of its own
        self._client = make(service, region_name=region, endpoint_url=endpoint, config=config, verify=True)
        self._service = service
        self._breaker = CircuitBreaker(5, 10.0, BotoCoreError, f"aws {service}")

    def ask(self, operation: str, **parameters: Any) -> Mapping[str, Any]:
        """Call *operation*, by the client's name for it; a `Secret` among the parameters is revealed.

        Raises:
            Refusal: AWS has answered with an error.
            IssueError: It has not answered, or not in its own form.
            IdentityError: There are no keys to sign with.
        """
        if self._breaker.opened:
            raise IssueError(f"aws: {self._service} is left alone after failing repeatedly")
        failure: IssueError | IdentityError
        try:
            with self._breaker:
                answer: Mapping[str, Any] = getattr(self._client, operation)(**_plain(parameters))
                return answer
        except ClientError as error:
            failure = Refusal(self._service, operation, _code(error))
        except (IssueError, IdentityError) as error:  # no keys to sign with
            failure = error
        except Exception as error:  # noqa: BLE001  whatever botocore raises, its text may repeat a secret
            failure = IssueError(f"aws: {self._service} gave {operation} no answer ({type(error).__name__})")
        # raised out here, for botocore's errors hold frames that hold what was sent
        raise failure

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


def bare_session(credentials: Credentials | None = None) -> boto3.Session:
    """Return a session with these credentials or none, which reads neither files nor environment."""
    nowhere = (None, None, os.devnull, None)
    session = botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": nowhere,
            "credentials_file": nowhere,
        }
    )
    session.register_component("credential_provider", _Given(credentials))
    session.register_component("data_loader", _loader())
    return boto3.Session(botocore_session=session)


@cache
def _loader() -> Loader:
    """Return what reads botocore's own files, and keeps what it has read: megabytes of JSON."""
    return Loader()


class _Given:
    """Stands where botocore would look for credentials."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Credentials | None:
        return self._credentials


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each.reveal() if isinstance(each, Secret) else each for name, each in parameters.items()}


def _code(error: ClientError) -> str:
    code = error.response.get("Error", {}).get("Code", "")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else "an error without a code"
