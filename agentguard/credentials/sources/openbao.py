"""Secrets of OpenBao or HashiCorp Vault: stored ones (KV), and dynamic ones that come with a lease."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agentguard.concurrency.drive import drive
from agentguard.credentials.openbao.session import (
    Login,
    OpenBaoSession,
    RequestRefused,
    lease_seconds,
)
from agentguard.errors import IssueError
from agentguard.model import Secret

__all__ = ["LeasedSecret", "OpenBaoSecret"]


@dataclass(frozen=True, slots=True)
class LeasedSecret:
    """A secret and its lease. `lease` is empty for a stored secret; `seconds` is the lease's duration."""

    secret: Secret
    lease: str
    seconds: float


class OpenBaoSecret:
    """A `SecretSource`: the JSON object at an API path, such as ``secret/data/api`` of a KV engine.

    Of an answer of KV version 2, it is the data alone. Requests are sent with *login*, by default with
    the session's shared login.
    """

    def __init__(self, id: str, session: OpenBaoSession, login: Login | None = None) -> None:
        self.name, self._id, self._session, self._login = f"openbao:{id}", id, session, login

    def read(self) -> Secret:
        """Read a stored secret. A dynamic secret, which comes with a lease, is revoked again and refused.

        Raises:
            IssueError: OpenBao gave no secret, or a dynamic one, whose lease somebody must revoke.
        """
        leased = self.read_with_lease()
        if not leased.lease:
            return leased.secret
        try:
            self._revoke(leased.lease)
        except IssueError:
            raise IssueError(
                f"{self.name}: a dynamic secret; its lease could not be revoked and will expire"
            ) from None
        raise IssueError(f"{self.name}: a dynamic secret; use the openbao broker or agentguard exec")

    def read_with_lease(self) -> LeasedSecret:
        """Read a secret of either kind. The caller must revoke its lease, if there is one.

        Raises:
            IssueError: OpenBao gave no secret.
        """
        answer = drive(self._session.sync.request("GET", self._id, self._login))
        match answer:
            case {"data": {"data": dict(), "metadata": {"version": int()}}}:
                return LeasedSecret(_json_secret(answer["data"]["data"]), "", 0.0)
            case {"data": dict(), "lease_id": str(lease), "lease_duration": int(seconds)}:
                return LeasedSecret(
                    _json_secret(answer["data"]), lease, lease_seconds(seconds) if lease else 0.0
                )
        raise IssueError(f"{self.name}: the answer holds no data")

    def _revoke(self, lease: str) -> None:
        operations = self._session.sync
        login = self._login or drive(operations.shared_login())
        try:
            drive(operations.request("POST", "sys/leases/revoke", login, json={"lease_id": lease}))
        except RequestRefused:
            if self._login is not None:
                raise
            # the policy does not permit it: revoke the session's token, and the lease ends with it
            self._session.shared_login = None
            drive(operations.revoke(login))


def _json_secret(data: dict[str, Any]) -> Secret:
    return Secret(json.dumps(data))
