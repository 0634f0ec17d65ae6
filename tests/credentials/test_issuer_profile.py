"""What a server lacks or names in its own way is said in its profile, and nothing else is believed for it."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest

from agentguard.credentials.oauth import IssuerProfile
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Grant, Secret
from tests.conftest import Mode
from tests.doubles.authorization_server import (
    AGENT,
    ISSUER,
    TYPE,
    AuthorizationServer,
    grant,
    own_grant,
    user_token,
)

NAMED = {"iss": ISSUER, "preferred_username": "ada"}


@pytest.fixture
def server() -> AuthorizationServer:
    return AuthorizationServer("jwt")


async def refusal(mode: Mode, server: AuthorizationServer, request: Grant, **profile: Any) -> str:
    with pytest.raises(IssueError) as caught:
        await mode.call(server.broker(**profile), "issue", request)
    return str(caught.value)


# the user's name


@pytest.mark.promise("no-impersonation")
@pytest.mark.parametrize(
    "claims",
    [
        {"iss": ISSUER, "preferred_username": "bob"},
        {"iss": ISSUER, "preferred_username": "ada "},
        {"iss": ISSUER, "preferred_username": ["ada"]},
        {"iss": ISSUER},
        {"preferred_username": "ada"},  # another issuer's ada
    ],
)
async def test_a_user_who_is_named_by_a_claim_is_the_one_of_that_claim_at_that_issuer(
    server: AuthorizationServer, mode: Mode, claims: dict[str, Any]
) -> None:
    request = grant(subject_token=user_token("7f3a", **claims))
    message = await refusal(mode, server, request, subject="user:{preferred_username}")
    assert "not of the task's subject" in message
    assert server.sent == []


@pytest.mark.promise("no-impersonation")
async def test_the_new_token_is_of_the_subject_of_the_users_token(
    server: AuthorizationServer, mode: Mode
) -> None:
    request, profile = grant(subject_token=user_token("7f3a", **NAMED)), "user:{preferred_username}"
    credential = await mode.call(server.broker(subject=profile), "issue", request)
    assert server.alive[credential.reveal()]["sub"] == "7f3a"
    for sub in ("user:ada", "ada", "other"):
        server.claims = {"sub": sub}
        assert "another subject" in await refusal(mode, server, request, subject=profile)


async def test_a_user_who_is_named_by_a_claim_needs_a_token_that_can_be_read(
    server: AuthorizationServer, mode: Mode
) -> None:
    profile = {"subject": "user:{sub}", "subject_token_type": f"{TYPE}access_token"}
    assert "no JWT" in await refusal(mode, server, grant(subject_token=Secret("opaque")), **profile)


@pytest.mark.parametrize("text", ["user:", "{a}{b}", "user:{}", "{a-b}", "user:{sub"])
def test_a_name_without_one_claim_in_it_is_a_mistake(text: str) -> None:
    with pytest.raises(ConfigurationError, match="does not say what users are called"):
        IssuerProfile(subject=text)


# the agent, known by its client id


@pytest.mark.promise("no-impersonation")
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"act": ...}, ""),
        ({"act": ..., "client_id": ..., "azp": "client-1"}, ""),
        ({"act": ..., "azp": "client-1"}, ""),
        ({"act": ..., "client_id": ...}, "another client"),
        ({"act": ..., "client_id": "client-2"}, "another client"),
        ({"act": ..., "azp": "client-2"}, "another client"),
        ({"client_id": "client-2"}, "another client"),
        ({"act": {"sub": "agent://other"}}, "another actor"),
        ({"act": {}}, "impersonates"),
    ],
)
async def test_an_agent_may_be_known_by_its_client_id_and_by_no_others(
    server: AuthorizationServer, mode: Mode, claims: dict[str, Any], reason: str
) -> None:
    server.claims = claims
    if not reason:
        await mode.call(server.broker(actor_client="client-1"), "issue", grant())
        return
    assert reason in await refusal(mode, server, grant(), actor_client="client-1")
    assert len(server.calls("revocation")) == 1


async def test_an_agent_without_a_user_may_have_client_credentials(
    server: AuthorizationServer, mode: Mode
) -> None:
    profile: dict[str, Any] = {"client_credentials": True, "agent_subject": "account-7"}
    credential = await mode.call(server.broker(**profile), "issue", own_grant())
    form = server.calls("token")[-1]
    assert form["grant_type"] == "client_credentials"
    assert not {"subject_token", "actor_token", "requested_token_type"} & form.keys()
    assert server.alive[credential.reveal()]["sub"] == "account-7"
    assert "another subject" in await refusal(mode, server, own_grant(), client_credentials=True)


@pytest.mark.promise("no-impersonation")
async def test_client_credentials_are_never_for_a_user(server: AuthorizationServer, mode: Mode) -> None:
    await mode.call(server.broker(client_credentials=True), "issue", grant())
    assert server.calls("token")[-1]["grant_type"].endswith("token-exchange")
    server.says = {"issued_token_type": ...}
    assert "another type" in await refusal(mode, server, grant(), client_credentials=True)


# the call, in a scope


@pytest.mark.promise("wrong-answer-revoked")
async def test_a_parameterized_scope_carries_the_call(server: AuthorizationServer, mode: Mode) -> None:
    request = grant()
    await mode.call(server.broker(details_scope="agentguard_call"), "issue", request)
    form = server.calls("token")[-1]
    assert "authorization_details" not in form
    plain, carrier = form["scope"].split(" ")
    name, _, text = carrier.partition(":")
    assert (plain, name, json.loads(text)) == ("orders:read", "agentguard_call", [request.detail()])
    server.claims = {"authorization_details": [{**request.detail(), "tool": "refund_order"}]}
    assert "another call" in await refusal(mode, server, request, details_scope="agentguard_call")
    server.claims = {"authorization_details": ...}
    server.says = {"authorization_details": ...}
    assert "exactly one call" in await refusal(mode, server, request, details_scope="agentguard_call")


async def test_a_call_that_a_scope_cannot_carry_is_not_asked_for(
    server: AuthorizationServer, mode: Mode
) -> None:
    message = await refusal(mode, server, grant(tool="get order"), details_scope="agentguard_call")
    assert "cannot stand in a scope" in message
    assert server.calls("token") == []


def test_a_scope_for_details_that_are_not_sent_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="details is false"):
        IssuerProfile(details=False, details_scope="agentguard_call")


# the server's own words


@pytest.mark.promise("issuer-failure-denies")
async def test_the_servers_own_words_are_in_the_log_at_debug_and_in_no_error(
    server: AuthorizationServer, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    words = "s3cret-of-the-server"
    wrong = grant(subject_token=user_token(aud="https://other.example"))
    assert words not in await refusal(mode, server, wrong)
    assert words not in caplog.text
    caplog.set_level(logging.DEBUG, "agentguard")
    assert words not in await refusal(mode, server, wrong)
    assert words in caplog.text


async def test_a_server_that_denies_access_says_so(server: AuthorizationServer, mode: Mode) -> None:
    server.faults["/token"] = lambda _: httpx.Response(403, json={"error": "access_denied"})
    assert "403 access_denied" in await refusal(mode, server, grant())


async def test_the_agent_is_named_as_before_without_a_profile(
    server: AuthorizationServer, mode: Mode
) -> None:
    credential = await mode.call(server.broker(), "issue", own_grant())
    assert server.alive[credential.reveal()]["sub"] == AGENT
