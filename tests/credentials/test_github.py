"""GitHub gives each call a token for its own repositories and permissions, and takes it back."""

from __future__ import annotations

import copy
import json
import pickle
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.credentials.github import AppKey, GitHubApp
from agentguard.credentials.sealing import SealingKey
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Credential, Grant, Resource, ToolPath
from agentguard.outbound.client import Limits, Outbound
from agentguard.ports import Broker
from agentguard.testing import BrokerContract
from agentguard.testing.samples import sample_grant
from tests.conftest import Mode
from tests.doubles.github import GitHub
from tests.doubles.texts import CHARACTERS
from tests.tiers import examples

SEAL = SealingKey(b"k" * 32)
PERMISSIONS = {
    ToolPath.READ: {"contents": "read", "issues": "read"},
    ToolPath.WRITE: {"contents": "read", "issues": "write"},
}


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def served(**changes: Any) -> GitHub:
    return GitHub(private_key().public_key(), **changes)


def app(github: Callable[[httpx.Request], httpx.Response], **changes: Any) -> GitHubApp:
    transport = httpx.MockTransport(github)
    http = Outbound(
        "github",
        "https://api.github.com",
        limits=Limits(timeout=1.0),
        transport=transport,
        async_transport=transport,
    )
    options: dict[str, Any] = {
        "permissions": PERMISSIONS,
        "repositories": {"payments": ["website", "docs"]},
        "seal": SEAL,
        "http": http,
    }
    return GitHubApp("Iv1.app", 42, AppKey(private_key()), **(options | changes))


def grant(id: str = "call-1", *scopes: str, path: ToolPath = ToolPath.READ) -> Grant:
    return sample_grant(id, path=path, scopes=frozenset(scopes or ("contents:read",)))


def use(github: GitHub, credential: Credential, method: str, url: str) -> int:
    headers = credential.headers(method, url, None)
    with httpx.Client(transport=httpx.MockTransport(github), base_url="https://api.github.com") as client:
        return client.request(method, url, headers=headers).status_code


class TestSealed(BrokerContract):
    def make(self) -> GitHubApp:
        return app(served())

    def grant(self, id: str, path: ToolPath) -> Grant:
        return grant(id, path=path)


class TestUnsealed(TestSealed):
    def make(self) -> GitHubApp:
        return app(served(), seal=None)


def test_it_is_a_broker() -> None:
    assert isinstance(app(served()), Broker)


async def test_a_request_names_the_calls_repositories_and_permissions_alone(mode: Mode) -> None:
    github = served(clock=lambda: 1_800_000_000.9)
    broker = app(github, clock=lambda: 1_800_000_000.9)
    credential = await mode.call(broker, "issue", grant("c", "issues:write", path=ToolPath.WRITE))
    assert github.token_requests == [
        {"repositories": ["docs", "website"], "permissions": {"issues": "write"}}
    ]
    headers = github.requests[0].headers
    assert headers["x-github-api-version"] == "2022-11-28"
    token = headers["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims == {"iat": 1_799_999_940, "exp": 1_800_000_120, "iss": "Iv1.app"}
    assert (credential.id, credential.expires_at) == ("c", 1_800_003_600.0)
    assert credential.fields() == {"username": "x-access-token", "password": credential.reveal()}
    assert credential.env() == {"GH_TOKEN": credential.reveal()}


@pytest.mark.promise("github-scopes")
async def test_a_token_is_good_for_nothing_but_its_call(mode: Mode) -> None:
    github = served()
    broker = app(github)
    credential = await mode.call(broker, "issue", grant())
    assert use(github, credential, "GET", "/repos/acme/website/contents") == 200
    assert use(github, credential, "PUT", "/repos/acme/website/contents") == 403
    assert use(github, credential, "GET", "/repos/acme/website/issues") == 403
    assert use(github, credential, "GET", "/repos/acme/secrets/contents") == 404
    await mode.call(broker, "revoke", credential.handle, credential.expires_at)
    assert use(github, credential, "GET", "/repos/acme/website/contents") == 401


@pytest.mark.promise("github-scopes")
@pytest.mark.parametrize(
    ("given_scopes", "path", "why"),
    [
        (["contents:write"], ToolPath.READ, "is beyond the permissions"),
        (["issues:read", "issues:write"], ToolPath.READ, "is beyond the permissions"),
        (["contents:write"], ToolPath.WRITE, "is beyond the permissions"),
        (["administration:read"], ToolPath.WRITE, "is beyond the permissions"),
        (["contents:admin"], ToolPath.WRITE, "is beyond the permissions"),
        (["contents"], ToolPath.READ, "a permission and a level"),
        (["contents:read "], ToolPath.READ, "a permission and a level"),
        (["Contents:read"], ToolPath.READ, "a permission and a level"),
        (["contents:read"], ToolPath.ESCALATION, "there are no permissions"),
    ],
)
async def test_a_scope_beyond_its_path_is_refused_before_github_is_asked(
    mode: Mode, given_scopes: list[str], path: ToolPath, why: str
) -> None:
    github = served()
    with pytest.raises(IssueError, match=why):
        await mode.call(app(github), "issue", grant("c", *given_scopes, path=path))
    assert not github.requests


async def test_without_scopes_or_repositories_nothing_is_asked_for_it_would_be_everything(mode: Mode) -> None:
    github = served()
    with pytest.raises(IssueError, match="without scopes"):
        await mode.call(app(github), "issue", sample_grant(path=ToolPath.READ, scopes=frozenset()))
    elsewhere = sample_grant(path=ToolPath.READ, scopes={"contents:read"}, resource=Resource(name="other"))
    with pytest.raises(IssueError, match="no repositories belong to other"):
        await mode.call(app(github), "issue", elsewhere)
    assert not github.requests


@pytest.mark.promise("github-scopes")
@settings(deadline=None, max_examples=examples(60))
@given(
    st.sets(
        st.from_regex(
            r"(contents|issues|administration):(read|write|admin)", fullmatch=True, alphabet=CHARACTERS
        )
    ),
    st.sampled_from(list(ToolPath)),
)
def test_what_is_asked_is_never_more_than_scopes_and_path_permit(scopes: set[str], path: ToolPath) -> None:
    github = served()
    try:
        app(github).issue(sample_grant(path=path, scopes=frozenset(scopes)))
    except IssueError:
        assert not github.token_requests
        return
    (body,) = github.token_requests
    assert {f"{name}:{level}" for name, level in body["permissions"].items()} <= scopes
    assert path is not ToolPath.READ or set(body["permissions"].values()) == {"read"}
    assert set(body["permissions"]) <= set(PERMISSIONS[path])


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda answer: {key: value for key, value in answer.items() if key != name}


def but(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda answer: answer | changes


WIDER = {
    "another permission": but(permissions={"contents": "read", "issues": "read"}),
    "a higher level": but(permissions={"contents": "write"}),
    "an unknown level": but(permissions={"contents": "everything"}),
    "more metadata": but(permissions={"contents": "read", "metadata": "write"}),
    "permissions unsaid": without("permissions"),
    "permissions of another form": but(permissions=["contents"]),
    "another repository": but(repositories=[{"name": "website"}, {"name": "secrets"}]),
    "a nameless repository": but(repositories=[None]),
    "all repositories": but(repository_selection="all"),
    "selection unsaid": without("repository_selection"),
    "repositories unsaid": without("repositories"),
    "a longer time": but(expires_at="2099-01-01T00:00:00Z"),
    "no time": without("expires_at"),
    "a time without a zone": but(expires_at="2026-11-25T00:00:00"),
    "a past time": but(expires_at="2001-01-01T00:00:00Z"),
}


@pytest.mark.promise("github-scopes")
@pytest.mark.parametrize("distort", WIDER.values(), ids=WIDER)
async def test_a_token_for_more_than_was_asked_is_revoked_at_once(
    mode: Mode, distort: Callable[[dict[str, Any]], Any]
) -> None:
    github = served(distort=distort)
    with pytest.raises(IssueError, match="more rights, or a longer life") as caught:
        await mode.call(app(github), "issue", grant())
    assert not github.tokens
    assert "ghs_" not in str(caught.value)


async def test_a_token_for_more_that_could_not_be_revoked_is_not_lost_track_of(mode: Mode) -> None:
    github = served(distort=WIDER["a higher level"], fail_delete=403)
    broker = app(github)
    with pytest.raises(IssueError, match="not known to be revoked: answered 403"):
        await mode.call(broker, "issue", grant("call-9"))
    assert len(github.tokens) == 1
    github.fail_delete = None
    await mode.call(broker, "revoke", "call-9", time.time() + 60)
    assert not github.tokens


@pytest.mark.promise("github-scopes")
async def test_another_process_revokes_by_the_sealed_handle_alone(mode: Mode) -> None:
    github = served()
    credential = await mode.call(app(github), "issue", grant())
    assert credential.reveal() not in credential.handle
    await mode.call(app(github), "revoke", credential.handle, credential.expires_at)
    assert not github.tokens


@pytest.mark.promise("github-scopes")
@pytest.mark.parametrize("code", [500, 503, 403, 404, 302])
async def test_what_github_has_not_confirmed_is_not_revoked_and_may_be_tried_again(
    mode: Mode, code: int
) -> None:
    github = served(fail_delete=code)
    for seal in (SEAL, None):
        broker = app(github, seal=seal)
        credential = await mode.call(broker, "issue", grant())
        github.fail_delete = code
        with pytest.raises(IssueError):
            await mode.call(broker, "revoke", credential.handle, credential.expires_at)
        github.fail_delete = None
        await mode.call(broker, "revoke", credential.handle, credential.expires_at)
        assert not github.tokens


async def test_a_handle_that_nobody_here_can_open_is_not_said_to_be_revoked(mode: Mode) -> None:
    github = served()
    sealed = await mode.call(app(github), "issue", grant())
    local = await mode.call(app(github, seal=None), "issue", grant())
    strangers = [(app(github, seal=SealingKey(b"z" * 32)), sealed), (app(github, seal=None), local)]
    later = time.time() + 7200
    for stranger, credential in [*strangers, (app(github, seal=None), sealed)]:
        with pytest.raises(IssueError, match="not known to be revoked"):
            await mode.call(stranger, "revoke", credential.handle, credential.expires_at)
    for kind, credential in ((SealingKey(b"z" * 32), sealed), (None, local)):
        await mode.call(
            app(github, seal=kind, clock=lambda: later), "revoke", credential.handle, credential.expires_at
        )
    assert len(github.tokens) == 2


async def test_a_forked_process_does_not_say_that_it_revoked_what_its_sibling_holds(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential = app(served(), seal=None, entropy=lambda count: b"\0" * count).issue(grant())
    sibling = app(served(), seal=None, entropy=lambda count: b"\0" * count)
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(IssueError, match="only another process"):
        await mode.call(sibling, "revoke", credential.handle, credential.expires_at)


def raising(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    return answer


def answering(status: int, content: bytes = b"the-body", **headers: str) -> Callable[..., httpx.Response]:
    return lambda _request: httpx.Response(status, content=content, headers=headers)


FAULTS = {
    "down": (raising(httpx.ConnectError("refused ghs_x")), "no connection"),
    "slow": (raising(httpx.ReadTimeout("slow ghs_x")), "no answer"),
    "failing": (answering(500), "answered 500"),
    "throttled": (answering(429), "answered 429"),
    "not an app": (answering(401), "answered 401"),
    "not installed": (answering(404), "answered 404"),
    "not granted": (answering(422), "answered 422"),
    "another success": (answering(200, b'{"token": "ghs_x"}'), "answered 200"),
    "redirected": (answering(307, location="https://evil.example"), "answered 307"),
    "garbage": (answering(201, b"<html>"), "without a token"),
    "no object": (answering(201, b'["ghs_x"]'), "without a token"),
    "two tokens": (answering(201, b'{"token": "ghs_x", "token": "ghs_y"}'), "without a token"),
    "a header in it": (answering(201, b'{"token": "ghs_x\\r\\nX: y"}'), "without a token"),
    "too long": (answering(201, b" " * 2_000_000), "no answer"),
}


@pytest.mark.parametrize(("fault", "why"), FAULTS.values(), ids=FAULTS)
async def test_whatever_goes_wrong_at_github_is_an_issue_error_that_says_why(
    mode: Mode, fault: Callable[[httpx.Request], httpx.Response], why: str
) -> None:
    with pytest.raises(IssueError, match=why) as caught:
        await mode.call(app(fault), "issue", grant())
    for secret in ("ghs_", "the-body", "eyJ"):
        assert secret not in str(caught.value)


async def test_a_token_is_taken_in_whatever_form_and_length_it_comes(mode: Mode) -> None:
    for token in ("ghs_16C7e42F292c6912E7710c838347Ae178B4a", "v1.1f699f1069f60xxx", "g" * 3000):
        credential = await mode.call(app(served(distort=but(token=token))), "issue", grant())
        assert credential.reveal() == token


@pytest.mark.parametrize(
    "changes",
    [
        {"permissions": {ToolPath.READ: {"contents": "write"}}},
        {"permissions": {ToolPath.READ: {}}},
        {"permissions": {ToolPath.WRITE: {"contents": "all"}}},
        {"repositories": {"payments": []}},
        {"repositories": {"payments": "website"}},
        {"repositories": {"payments": ["acme/website"]}},
        {"repositories": {"payments": [f"r{number}" for number in range(501)]}},
    ],
    ids=lambda changes: json.dumps({k: len(str(v)) for k, v in changes.items()}),
)
def test_a_configuration_that_would_give_too_much_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        app(served(), **changes)


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))


def test_an_apps_key_is_read_from_a_file_that_nobody_else_may_read(tmp_path: Path) -> None:
    file = tmp_path / "app.pem"
    file.touch(mode=0o600)
    file.write_bytes(pem(private_key()))
    assert jwt.decode(AppKey.from_file(file).sign({"a": 1}), private_key().public_key(), ["RS256"]) == {
        "a": 1
    }
    file.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        AppKey.from_file(file)


def test_an_apps_key_of_another_kind_or_none_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        AppKey.from_file(tmp_path / "absent.pem")
    assert not list(tmp_path.iterdir())
    file = tmp_path / "app.pem"
    file.touch(mode=0o600)
    for content in (b"", b"noise", pem(ec.generate_private_key(ec.SECP256R1()))):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="RSA"):
            AppKey.from_file(file)
    with pytest.raises(ConfigurationError, match="too short"):
        AppKey(rsa.generate_private_key(65537, 1024))  # noqa: S505  what is refused here


def test_neither_key_nor_credential_shows_or_copies_its_secret() -> None:
    broker = app(served())
    credential = broker.issue(grant())
    for thing in (AppKey(private_key()), credential, credential.headers, broker):
        assert credential.reveal() not in f"{thing!r}{thing!s}"
    for thing in (AppKey(private_key()), credential, credential.headers):
        for leak in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError):
                leak(thing)
