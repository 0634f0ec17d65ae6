"""A request that mints is sent again only where it certainly had no effect, with each broker that mints.

The service mints, and then its answer is lost: a proxy says 503, or the connection ends. A second request
would mint a second credential, of which nobody would know the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from agentguard.credentials.aws import AwsConnection, AwsRole
from agentguard.errors import IssueError
from agentguard.model import ToolPath
from agentguard.testing.samples import sample_grant
from tests.conftest import Mode
from tests.credentials import test_aws, test_github, test_openbao
from tests.doubles import authorization_server
from tests.doubles.aws import Aws, error, serving

Respond = Callable[[], httpx.Response]

LOST: dict[str, Respond | type[httpx.HTTPError]] = {
    **{str(status): lambda status=status: httpx.Response(status) for status in (500, 502, 503, 504)},  # type: ignore[misc]  # mypy infers no type of a lambda with a default
    "503, again in a second": lambda: httpx.Response(503, headers={"Retry-After": "0"}),
    "a read that times out": httpx.ReadTimeout,
    "a write that times out": httpx.WriteTimeout,
    "a reset": httpx.ReadError,
    "a write that fails": httpx.WriteError,
    "an answer that is cut": httpx.RemoteProtocolError,
    "a compressed answer": lambda: httpx.Response(200, headers={"Content-Encoding": "br"}, content=b"x"),
    "an endless answer": lambda: httpx.Response(200, content=b"x" * 1_100_000),
}
UNSENT: dict[str, Respond | type[httpx.HTTPError]] = {
    "429": lambda: httpx.Response(429),
    "no connection": httpx.ConnectError,
    "a connection that times out": httpx.ConnectTimeout,
    "no free connection": httpx.PoolTimeout,
}


class Line:
    """Between a broker and the double of its service; *path* is the end of the path that mints.

    `lose` is put in place of one answer to such a request: where `after`, of the first that has minted, or
    else of the first, which then does not reach the service.
    """

    def __init__(self, service: Callable[[httpx.Request], httpx.Response], path: str) -> None:
        self.service, self.path = service, path
        self.minted = 0
        self.lose: Respond | type[httpx.HTTPError] | None = None
        self.after = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith(self.path):
            return self.service(request)
        if self.lose is not None and not self.after:
            return self._lost()
        answer = self.service(request)
        self.minted += answer.is_success  # a server that wants a nonce has minted nothing
        return self._lost() if answer.is_success and self.lose is not None else answer

    def _lost(self) -> httpx.Response:
        lose, self.lose = self.lose, None
        assert lose is not None
        if isinstance(lose, type):
            raise lose("lost")
        return lose()


def token_exchange(form: str) -> tuple[Any, Line, Any]:
    server = authorization_server.AuthorizationServer(form)
    line = Line(server.handle, "/token")
    server.handle = line  # type: ignore[method-assign]  # the double makes its transport of it
    return server.broker(), line, authorization_server.grant()


def github() -> tuple[Any, Line, Any]:
    line = Line(test_github.served(), "/access_tokens")
    return test_github.app(line), line, test_github.grant()


def openbao(path: str, **changes: Any) -> tuple[Any, Line, Any]:
    line = Line(test_openbao.Double(), path)
    broker = test_openbao.broker(line, **changes)  # type: ignore[arg-type]  # it answers as the double does
    return broker, line, sample_grant(path=ToolPath.WRITE)


BROKERS: dict[str, Callable[[], tuple[Any, Line, Any]]] = {
    "token exchange, opaque": lambda: token_exchange("opaque"),
    "token exchange, JWT": lambda: token_exchange("jwt"),
    "GitHub": github,
    "OpenBao's login": lambda: openbao("/login"),
    "OpenBao's credentials": lambda: openbao(test_openbao.CREDS),
    "OpenBao's wrapped credentials": lambda: openbao(test_openbao.CREDS, wrap=True),
}


@pytest.mark.promise("minted-once")
@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("name", BROKERS)
async def test_where_the_answer_is_lost_nothing_is_minted_again(mode: Mode, name: str, how: str) -> None:
    broker, line, grant = BROKERS[name]()
    line.lose = LOST[how]
    with pytest.raises(IssueError):
        await mode.call(broker, "issue", grant)
    assert line.minted == 1


@pytest.mark.promise("minted-once")
@pytest.mark.parametrize("how", UNSENT)
@pytest.mark.parametrize("name", BROKERS)
async def test_what_has_certainly_had_no_effect_is_sent_again(mode: Mode, name: str, how: str) -> None:
    broker, line, grant = BROKERS[name]()
    line.lose, line.after = UNSENT[how], False
    credential = await mode.call(broker, "issue", grant)
    assert credential is not None
    assert line.minted == 1


# --- AWS, by botocore, which repeats by itself


@pytest.fixture(params=["session", "workload"])
def role(request: pytest.FixtureRequest) -> Iterator[tuple[Aws, AwsRole]]:
    with serving(Aws()) as aws:
        facts: dict[str, Any] = {"region": "eu-central-1", "endpoint": aws.url, "timeout": 0.3}
        if request.param == "session":
            facts["session"] = test_aws.keyed()
        else:
            facts |= test_aws.workload()
        broker = AwsRole(test_aws.ROLES, AwsConnection(**facts), statements=test_aws.STATEMENTS)
        yield aws, broker
        broker.close()


@pytest.mark.promise("minted-once")
@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalFailure"), (503, "ServiceUnavailable"), (400, "IDPCommunicationError")],
)
def test_aws_mints_no_second_session_where_its_answer_is_lost(
    role: tuple[Aws, AwsRole], status: int, code: str
) -> None:
    aws, broker = role
    aws.fault = lambda action: error(status, code) if action.startswith("AssumeRole") else None
    with pytest.raises(IssueError):
        broker.issue(test_aws.grant(path=ToolPath.READ))
    assert [request["Action"][:10] for request in aws.requests] == ["AssumeRole"]
