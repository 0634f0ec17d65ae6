"""OpenBao answers oddly when `exec` extends a lease: the run ends in order, and everything is revoked."""

from __future__ import annotations

import time
from contextlib import suppress
from math import isfinite
from pathlib import Path

import httpx
import pytest

from agentguard.cli.exec.openbao import OpenBaoClient
from agentguard.cli.exec.outbox import Outbox
from agentguard.credentials.openbao.session import OpenBaoSession, lease_seconds
from agentguard.errors import IssueError, StoreError
from agentguard.model import Secret
from agentguard.outbound.client import Outbound

URL = "http://127.0.0.1:1"
YEAR = 366 * 24 * 3600
VALUES = ['"x"', "[1]", "9" * 400, "-5", "true", "null", str(10**18)]


class Workload:
    inline = True

    def actor(self) -> str:
        return "agent://a"

    def token(self, _audience: str) -> Secret:
        return Secret("jwt")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "form", ['{"auth": %s, "lease_duration": %s}', '{"auth": {"lease_duration": %s}, "lease_duration": %s}']
)
def test_an_odd_answer_to_a_renewal_breaks_nothing(tmp_path: Path, form: str, value: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/login"):
            auth = {"client_token": "t", "accessor": "a", "lease_duration": 100}
            return httpx.Response(200, json={"auth": auth})
        if "creds" in request.url.path:
            data = {"username": "u", "password": "p"}
            return httpx.Response(200, json={"lease_id": "l", "lease_duration": 50, "data": data})
        if "renew" in request.url.path:
            return httpx.Response(200, content=form % (value, value))
        return httpx.Response(204)

    http = Outbound("openbao", f"{URL}/v1", transport=httpx.MockTransport(answer))
    session = OpenBaoSession(URL, identity=Workload(), role="r", audience="a", http=http)
    leases = OpenBaoClient(session, session, None, Outbox(tmp_path, "p", None)).login()
    leases.read("database/creds/ro")
    with suppress(IssueError, StoreError):
        leases.extend()
    assert isfinite(leases.due)
    assert leases.due < time.time() + YEAR
    assert leases.revoke() == []


def test_the_seconds_of_a_lease_are_bounded() -> None:
    assert [lease_seconds(value) for value in (50, 10**400, "x", None, 1.5)] == [50.0, YEAR, 0.0, 0.0, 0.0]
