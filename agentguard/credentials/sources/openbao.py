"""Secrets of OpenBao or HashiCorp Vault: stored (KV), or minted for the reader under a lease."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agentguard.concurrency.drive import drive
from agentguard.credentials.openbao.session import Login, OpenBaoSession, Refused
from agentguard.errors import IssueError
from agentguard.model import Secret

__all__ = ["Minted", "OpenBaoSecret"]


@dataclass(frozen=True, slots=True)
class Minted:
    """What OpenBao gave. `lease` is empty for what is only stored; `seconds` is how long it lives."""

    secret: Secret
    lease: str
    seconds: float


class OpenBaoSecret:
    """A `SecretSource`: the JSON object at an API path, such as ``secret/data/api`` of a KV engine.

    Of a KV version 2 answer it is the data alone. Requests are sent with *login*, or else with the one
    that *session* keeps.
    """

    def __init__(self, id: str, session: OpenBaoSession, login: Login | None = None) -> None:
        self.name, self._id, self._session, self._login = f"openbao:{id}", id, session, login

    def read(self) -> Secret:
        """Read what is stored. What is minted for each reader is revoked again, and refused.

        Raises:
            IssueError: It gave nothing, or a lease, which needs somebody who ends it.
        """
        minted = self.mint()
        if not minted.lease:
            return minted.secret
        try:
            self._end(minted.lease)
        except IssueError:
            raise IssueError(f"{self.name}: minted for each reader; a lease is left to expire") from None
        raise IssueError(f"{self.name}: minted for each reader; use the openbao broker, or agentguard exec")

    def mint(self) -> Minted:
        """Read, and take over the lease, if there is one.

        Raises:
            IssueError: It gave nothing.
        """
        answer = drive(self._session.sync.request("GET", self._id, self._login))
        match answer:
            case {"data": {"data": dict(), "metadata": {"version": int()}}}:
                minted = Minted(_text(answer["data"]["data"]), "", 0.0)
            case {"data": dict(), "lease_id": str(lease), "lease_duration": int(seconds)}:
                minted = Minted(_text(answer["data"]), lease, float(seconds) if lease else 0.0)
            case _:
                raise IssueError(f"{self.name}: the answer holds no data")
        return minted

    def _end(self, lease: str) -> None:
        login = self._login or self._session.held
        try:
            drive(self._session.sync.request("POST", "sys/leases/revoke", login, json={"lease_id": lease}))
        except Refused:
            if self._login is not None:
                raise
            # no policy for this: the session's token, which it belongs to, is given up with it
            self._session.held = None
            drive(self._session.sync.request("POST", "auth/token/revoke-self", login))


def _text(data: dict[str, Any]) -> Secret:
    return Secret(json.dumps(data))
