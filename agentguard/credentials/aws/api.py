"""Calls to AWS with time limits, and with explicit credentials only.

By default botocore looks for keys in the environment, in files and at the metadata service, and for
proxies and endpoints in the environment. A session from `bare_session` looks in none of these places.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    SSLError,
    ValidationError,
)
from botocore.loaders import Loader

from agentguard.concurrency.abandonable import AbandonableThreads, NoThread
from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.fork import in_child
from agentguard.concurrency.party import current_party
from agentguard.errors import ConfigurationError, IdentityError, IssueError
from agentguard.model import Secret
from agentguard.outbound.breakers import Breakers, Cause
from agentguard.ports import IdentitySource

__all__ = ["Api", "AwsConnection", "Refusal", "bare_session"]

_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_UNREACHABLE = (ConnectTimeoutError, EndpointConnectionError, SSLError)
_NOT_SENT = (ParamValidationError, ValidationError, NoCredentialsError, NoThread)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsConnection:
    """How a broker reaches AWS: with *identity* and *revoker*, or with *session*.

    *identity* proves the workload to STS, and *revoker* is the ARN of the role that writes the denying
    policies; the broker then holds no key of AWS. *session* signs all requests, with a standing
    privilege. *endpoint* replaces AWS's endpoints, for STS and IAM. *timeout* is in seconds.

    Raises:
        ConfigurationError: The arguments are neither *identity* with *revoker* nor *session* alone.
    """

    region: str
    identity: IdentitySource | None = None
    revoker: str | None = None
    session: boto3.Session | None = field(default=None, repr=False)
    endpoint: str | None = None
    timeout: float = 2.0

    def __post_init__(self) -> None:
        has_identity = self.identity is not None
        if has_identity == (self.session is not None) or has_identity != (self.revoker is not None):
            raise ConfigurationError(
                "an AWS broker needs an identity and a revoker, or else a session",
                hint="give identity= and revoker=, which need no standing key, or give session=",
            )


class Refusal(IssueError):
    """AWS answered with the error *code*."""

    def __init__(self, service: str, operation: str, code: str) -> None:
        super().__init__(f"aws: {service} answered {operation} with {code}")
        self.code = code


class Api:
    """One service of AWS, such as ``sts``. Requests are signed with the session's keys, or unsigned.

    The connection's timeout holds for connecting and for each read, and twice that for each sending of a
    request, however slowly AWS answers: botocore waits in a thread that is then given up. A request is sent
    twice, with jitter (botocore's standard mode), but one to ``sts`` once: it mints a session, and botocore
    would repeat it also where STS may have minted and its answer was lost.

    After five failures in a row nothing is sent for ten seconds. Silence counts for the user alone for whom
    the guard asks, and a request that botocore does not send for nobody.
    """

    def __init__(
        self,
        service: str,
        session: boto3.Session,
        connection: AwsConnection,
        *,
        unsigned: bool = False,
    ) -> None:
        attempts = 1 if service == "sts" else 2
        config = Config(
            connect_timeout=connection.timeout,
            read_timeout=connection.timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
            proxies={},
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # its stubs are older
        )
        if unsigned:
            config = config.merge(Config(signature_version=UNSIGNED))
        make: Any = session.client  # its stubs know each service by a package of its own
        self._make = partial(
            make,
            service,
            region_name=connection.region,
            endpoint_url=connection.endpoint,
            config=config,
            verify=True,
        )
        self._client: Any = self._make()
        self._of_parents: list[object] = []
        in_child(self._leave_client)
        self._service = service
        self._limit = 2 * attempts * connection.timeout
        self._threads = AbandonableThreads(f"aws {service}")
        self._breakers = Breakers(f"aws {service}", 5, 10.0)

    def ask(self, operation: str, **parameters: Any) -> Mapping[str, Any]:
        """Call *operation*, by boto3's name for it. A `Secret` among the parameters is revealed.

        Raises:
            Refusal: AWS answered with an error.
            IssueError: AWS did not answer, or not in its own form.
            IdentityError: There are no keys to sign with.
        """
        party = current_party()
        if self._breakers.seconds_open(party):
            raise IssueError(f"aws: {self._service} is not asked after repeated failures")
        failure: IssueError | IdentityError
        call = partial(self._call, operation, parameters)
        try:
            answer: Mapping[str, Any] = self._threads.run(seconds_left(self._limit), call, party=party)
            self._breakers.succeed(party)
            return answer
        except ClientError as error:
            self._breakers.succeed(party)  # it has answered
            failure = Refusal(self._service, operation, _code(error))
        except (IssueError, IdentityError) as error:  # no keys to sign with
            failure = error
        except Exception as error:  # noqa: BLE001  botocore may raise anything, and its text may repeat a secret
            self._breakers.fail(party, _cause(error))
            failure = IssueError(f"aws: {self._service} gave {operation} no answer ({type(error).__name__})")
        # raised outside the handlers: botocore's errors hold stack frames with the request
        raise failure

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def _call(self, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = getattr(self._own_client(), operation)(**_reveal(parameters))
        return answer

    def _own_client(self) -> Any:
        if self._client is None:
            self._client = self._make()
        return self._client

    def _leave_client(self) -> None:
        # the parent goes on with its connections: a child neither sends on them nor closes them
        self._of_parents.append(self._client)
        self._client = None


def bare_session(credentials: Credentials | None = None) -> boto3.Session:
    """Return a session with *credentials* or none, which reads no files and no environment."""
    nowhere = (None, None, os.devnull, None)
    session = botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": nowhere,
            "credentials_file": nowhere,
        }
    )
    session.register_component("credential_provider", _FixedCredentials(credentials))
    session.register_component("data_loader", _loader())
    return boto3.Session(botocore_session=session)


@cache
def _loader() -> Loader:
    """Return one loader for all sessions: it caches botocore's own files, which are megabytes of JSON."""
    return Loader()


class _FixedCredentials:
    """Replaces botocore's search for credentials."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Credentials | None:
        return self._credentials


def _reveal(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.reveal() if isinstance(value, Secret) else value for name, value in parameters.items()
    }


def _cause(error: Exception) -> Cause:
    if isinstance(error, _NOT_SENT):
        return Cause.REQUEST
    return Cause.SERVICE if isinstance(error, _UNREACHABLE) else Cause.PARTY


def _code(error: ClientError) -> str:
    code = error.response.get("Error", {}).get("Code", "")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else "an error without a code"
