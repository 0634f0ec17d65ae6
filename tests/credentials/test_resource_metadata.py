"""A broker mints for an MCP server only while the server names the broker's issuer (RFC 9728)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from langchain_core.tools import StructuredTool

from agentguard.credentials.oauth import DiscoveringBroker, TokenBroker
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import ToolPath
from agentguard.outbound.client import Limits, Outbound
from agentguard.ports import BrokerTraits
from agentguard.testing.samples import sample_grant
from tests.conftest import Kit, Mode, tool_call

ISSUER = "https://login.example"
URL = "https://shop.example/mcp"
HERE = f"{URL.removesuffix('/mcp')}/.well-known/oauth-protected-resource/mcp"
ROOT = HERE.removesuffix("/mcp")
GOOD = {"resource": URL, "authorization_servers": [ISSUER]}


class Issuing(TokenBroker):
    """A broker of tokens that asks no server."""

    kind = "test"

    def __init__(self) -> None:
        self.issuer, self.paths, self.traits = ISSUER, frozenset(ToolPath), BrokerTraits()
        self.issued = 0

    def issue(self, grant: Any) -> Any:
        self.issued += 1
        return "credential"

    async def aissue(self, grant: Any) -> Any:
        return self.issue(grant)

    def close(self) -> None:
        """Close nothing."""

    async def _request(self, grant: Any) -> Any: ...
    async def _arequest(self, grant: Any) -> Any: ...


class World:
    def __init__(self) -> None:
        self.answers: dict[str, Any] = {HERE: GOOD}
        self.fetched: list[str] = []
        self.broker, self.now = Issuing(), 1000.0
        transport = httpx.MockTransport(self._answer)
        limits = Limits(timeout=2.0, attempts=1)
        http = Outbound("shop", URL, limits=limits, transport=transport, async_transport=transport)
        self.checked = DiscoveringBroker(self.broker, URL, http, clock=lambda: self.now)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.fetched.append(str(request.url))
        answer = self.answers.get(str(request.url))
        if isinstance(answer, tuple):
            status, headers, content = answer
            return httpx.Response(status, headers=headers, content=content)
        return httpx.Response(404) if answer is None else httpx.Response(200, json=answer)

    async def issue(self, mode: Mode) -> Any:
        return await mode.call(self.checked, "issue", sample_grant())


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.promise("mcp-issuer-is-the-servers")
@pytest.mark.parametrize(
    "metadata",
    [
        {"resource": URL, "authorization_servers": ["https://other.example"]},
        {"resource": URL, "authorization_servers": [f"{ISSUER}/", f"{ISSUER}.evil.example"]},
        {"resource": URL, "authorization_servers": []},
        {"resource": URL},
        {"resource": "https://other.example/mcp", "authorization_servers": [ISSUER]},
        {"resource": "https://shop.example", "authorization_servers": [ISSUER]},
        {"resource": URL, "authorization_servers": ISSUER},
        {"authorization_servers": [ISSUER]},
        [ISSUER],
        (200, {}, b"{"),
        (302, {"Location": "https://evil.example/"}, b""),
        (403, {}, b""),
    ],
)
async def test_nothing_is_minted_where_the_server_names_another_issuer_or_none(
    world: World, mode: Mode, metadata: Any
) -> None:
    world.answers[HERE] = metadata
    with pytest.raises(IssueError, match=r"metadata|authorization_servers"):
        await world.issue(mode)
    assert not world.broker.issued
    assert {httpx.URL(url).host for url in world.fetched} == {"shop.example"}


@pytest.mark.promise("mcp-issuer-is-the-servers")
async def test_the_operator_is_told_which_servers_are_named_and_no_control_characters(
    world: World, mode: Mode
) -> None:
    world.answers[HERE] = {"resource": URL, "authorization_servers": ["https://other.example", "\x1b[2J"]}
    with pytest.raises(IssueError) as raised:
        await world.issue(mode)
    assert ISSUER in str(raised.value)
    assert "https://other.example" in str(raised.value)
    assert "\x1b" not in str(raised.value)


async def test_a_server_that_names_the_issuer_is_asked_once_in_a_while(world: World, mode: Mode) -> None:
    for _ in range(3):
        assert await world.issue(mode) == "credential"
    assert world.fetched == [HERE]
    world.now += 301
    world.answers[HERE] = {**GOOD, "authorization_servers": ["https://other.example"]}
    with pytest.raises(IssueError):
        await world.issue(mode)
    assert world.broker.issued == 3


async def test_a_server_may_publish_at_the_root_alone(world: World, mode: Mode) -> None:
    world.answers = {ROOT: GOOD}
    assert await world.issue(mode) == "credential"
    assert world.fetched == [HERE, ROOT]


@pytest.mark.parametrize("url", ["http://shop.example/mcp", f"{URL}?x=1", f"{URL}#x", "shop"])
def test_the_url_of_the_server_is_a_plain_https_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="discover"):
        DiscoveringBroker(Issuing(), url)


@pytest.mark.promise("mcp-issuer-is-the-servers")
async def test_a_call_is_denied_and_the_operator_told_where_the_server_names_another_issuer(
    kit: Kit, task: Any, world: World, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    world.answers[HERE] = {**GOOD, "authorization_servers": ["https://other.example"]}
    kit.guard = kit.another(brokers={(None, path): world.checked for path in ToolPath})
    ran = []
    tool = kit.wrap(StructuredTool.from_function(lambda: ran.append(1), name="look", description="d"))
    message = await mode.invoke(tool, tool_call("look"))
    assert message.content.startswith("Denied:")
    assert "other.example" not in message.content
    assert "https://other.example" in caplog.text
    assert kit.decisions("look")[-1] == "no_credential"
    assert not ran
