"""What an authorization server misses of the user: known by its answer, with a page of its own or of ours."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from agentguard.errors import ConfigurationError, GrantMissing, IssueError
from agentguard.model import Grant
from tests.conftest import Mode
from tests.credentials.test_identity_assertion import OTHER, World, id_token_grant
from tests.doubles.authorization_server import ISSUER, AuthorizationServer, grant, own_grant

PAGE = "https://account.example/consents?client=support"
OURS = f"{ISSUER}/account/consents"


@pytest.fixture
def server() -> AuthorizationServer:
    return AuthorizationServer("jwt")


def refuse(server: AuthorizationServer, status: int = 400, **members: Any) -> None:
    server.faults["/token"] = lambda _request: httpx.Response(status, json=members)


async def refusal(mode: Mode, broker: Any, request: Grant) -> IssueError:
    with pytest.raises(IssueError) as caught:
        await mode.call(broker, "issue", request)
    return caught.value


@pytest.mark.parametrize(
    "code",
    [
        "account_selection_required",
        "consent_required",
        "insufficient_scope",
        "insufficient_user_authentication",
        "interaction_required",
        "login_required",
    ],
)
@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_server_that_asks_something_of_the_user_is_understood(
    server: AuthorizationServer, mode: Mode, code: str, status: int
) -> None:
    refuse(server, status, error=code, error_description="s3cret-of-the-server")
    error = await refusal(mode, server.broker(), grant())
    assert isinstance(error, GrantMissing)
    assert (error.code, error.issuer, error.url) == (code, ISSUER, None)
    assert str(error) == f"{ISSUER}: answered {status} {code}"


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        ("invalid_scope", "Missing consents for Token Exchange in client support", "consent_required"),
        ("invalid_client", "Client requires user consent", "consent_required"),
        (
            "invalid_grant",
            "AADSTS65001: The user or administrator has not consented to use the application",
            "consent_required",
        ),
        ("invalid_grant", "Re-authentication is needed", "login_required"),
        ("invalid_grant", "The user needs to log in", "login_required"),
        ("invalid_grant", "User interaction is required", "interaction_required"),
    ],
)
async def test_a_general_code_is_understood_by_its_words(
    server: AuthorizationServer, mode: Mode, error: str, words: str, code: str
) -> None:
    refuse(server, error=error, error_description=words)
    caught = await refusal(mode, server.broker(), grant())
    assert isinstance(caught, GrantMissing)
    assert caught.code == code
    assert words not in str(caught)


@pytest.mark.parametrize(
    "members",
    [
        {"error": "invalid_grant", "error_description": "Token is not active"},
        {"error": "invalid_grant", "error_description": "consent"},
        {"error": "invalid_grant", "error_description": ["consent required"]},
        {"error": "invalid_request", "error_description": "Missing parameter: login_hint"},
        {"error": "access_denied", "error_description": "The user has not consented"},
        {"error": "invalid_target", "error_description": "consent required"},
        {"error": "something_else", "error_description": "consent required"},
        {"error": ["consent_required"]},
        {"error_description": "consent required"},
        ["consent_required"],
    ],
)
async def test_another_refusal_stays_one(server: AuthorizationServer, mode: Mode, members: Any) -> None:
    server.faults["/token"] = lambda _request: httpx.Response(400, json=members)
    assert not isinstance(await refusal(mode, server.broker(), grant()), GrantMissing)


async def test_an_agent_that_acts_for_itself_has_no_user_to_ask(
    server: AuthorizationServer, mode: Mode
) -> None:
    refuse(server, error="consent_required")
    error = await refusal(mode, server.broker(), own_grant())
    assert not isinstance(error, GrantMissing)
    assert "consent_required" in str(error)


async def test_a_user_without_a_token_has_to_log_in(server: AuthorizationServer, mode: Mode) -> None:
    error = await refusal(mode, server.broker(grant_url=PAGE), grant(subject_token=None))
    assert isinstance(error, GrantMissing)
    assert (error.code, error.url) == ("login_required", PAGE)
    assert server.sent == []


@pytest.mark.promise("missing-grant-url")
async def test_the_page_of_the_configuration_has_precedence(server: AuthorizationServer, mode: Mode) -> None:
    refuse(server, error="consent_required", error_uri=OURS)
    error = await refusal(mode, server.broker(grant_url=PAGE), grant())
    assert isinstance(error, GrantMissing)
    assert error.url == PAGE


@pytest.mark.promise("missing-grant-url")
async def test_the_server_names_a_page_at_its_own_origin(server: AuthorizationServer, mode: Mode) -> None:
    refuse(server, error="consent_required", error_uri=OURS)
    error = await refusal(mode, server.broker(), grant())
    assert isinstance(error, GrantMissing)
    assert error.url == OURS


@pytest.mark.promise("missing-grant-url")
@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://as.example.evil.example/",
        "https://as.example@evil.example/",
        "https://evil.example\\@as.example/",
        "https://as.example:8443/",
        "http://as.example/",
        "//as.example/",
        "/account",
        "javascript:alert(1)",
        "data:text/html,as.example",
        f"{ISSUER}/\nhttps://evil.example",
        f"{ISSUER}/go/../../evil",
        f"{ISSUER}/account?token=eyJ",
        f"{ISSUER}/account#token=eyJ",
        f"{ISSUER}/{'a' * 3000}",
        "https://\uff41s.example/",
        "https://[::1",
        "",
        7,
        [OURS],
    ],
)
async def test_the_user_is_sent_to_no_other_page(
    server: AuthorizationServer, mode: Mode, url: object
) -> None:
    refuse(server, error="consent_required", error_uri=url)
    error = await refusal(mode, server.broker(), grant())
    assert isinstance(error, GrantMissing)
    assert error.url is None


@pytest.mark.parametrize("url", ["http://account.example", "javascript:alert(1)", "account", ""])
def test_a_page_that_is_no_https_url_is_a_configuration_error(server: AuthorizationServer, url: str) -> None:
    with pytest.raises(ConfigurationError, match="grant_url"):
        server.broker(grant_url=url)


async def test_of_two_servers_the_one_that_asks_is_named(mode: Mode) -> None:
    world = World()
    refuse(world.other, error="interaction_required")
    other = await refusal(mode, world.broker(), id_token_grant())
    refuse(world.idp, error="login_required", error_uri=OURS)
    idp = await refusal(mode, world.broker(), id_token_grant())
    assert isinstance(other, GrantMissing)
    assert isinstance(idp, GrantMissing)
    assert (other.issuer, other.code, other.url) == (OTHER, "interaction_required", None)
    assert (idp.issuer, idp.code, idp.url) == (ISSUER, "login_required", OURS)


async def test_a_refused_introspection_asks_nothing_of_the_user(mode: Mode) -> None:
    server = AuthorizationServer("opaque")
    server.faults["/introspection"] = lambda _request: httpx.Response(
        403, json={"error": "insufficient_scope"}
    )
    assert not isinstance(await refusal(mode, server.broker(), grant()), GrantMissing)
