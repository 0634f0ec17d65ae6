"""AWS gives each call a session with a policy of its own, and denies it everything afterwards."""

from __future__ import annotations

import contextlib
import json
import random
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.credentials import Credentials
from botocore.stub import Stubber
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentguard.concurrency.deadline import within
from agentguard.concurrency.drive import operation_pair
from agentguard.concurrency.party import for_party
from agentguard.credentials.aws import AwsConnection, AwsRole, Statement
from agentguard.credentials.aws.api import Api, Refusal, bare_session
from agentguard.credentials.aws.policy import session_policy, session_tags, source_identity
from agentguard.credentials.aws.revocation import Revocations
from agentguard.errors import (
    ConfigurationError,
    CredentialUnavailable,
    IdentityError,
    IssueError,
    RevocationUnknown,
)
from agentguard.identity.local import LocalIdentity
from agentguard.jose import Signer, unb64url
from agentguard.model import Grant, Identity, Resource, ToolPath
from agentguard.ports import Broker
from agentguard.testing import BrokerContract
from agentguard.testing.samples import sample_grant
from tests.conftest import Mode
from tests.doubles import loopback
from tests.doubles.aws import Aws, denies, error, serving
from tests.doubles.loopback import Connection, interim_answers, trickle_body, trickle_header
from tests.doubles.texts import texts
from tests.tiers import examples

ROLES = {path: f"arn:aws:iam::123456789012:role/agents/{path}" for path in (ToolPath.READ, ToolPath.WRITE)}
REVOKER = "arn:aws:iam::123456789012:role/revoker"
STATEMENTS = {
    "orders:read": [
        Statement(actions=["s3:ListBucket"], resources=["arn:aws:s3:::orders"]),
        Statement(actions=["s3:GetObject"], resources=["arn:aws:s3:::orders/*"]),
    ],
    "orders:write": [
        Statement(
            actions=["s3:PutObject"],
            resources=["arn:aws:s3:::orders/*"],
            conditions={"StringEquals": {"s3:x-amz-acl": "private"}},
        )
    ],
    "refund": [Statement(actions=["dynamodb:PutItem"], resources=["arn:aws:dynamodb:*:*:table/refunds"])],
}


def keyed() -> boto3.Session:
    return bare_session(Credentials("AKIAIOSFODNN7EXAMPLE", "standing-secret"))


@pytest.fixture
def aws() -> Iterator[Aws]:
    with serving(Aws()) as double:
        yield double


@pytest.fixture
def brokers() -> Iterator[list[AwsRole]]:
    instances: list[AwsRole] = []
    yield instances
    for broker in instances:
        broker.close()


@pytest.fixture
def make(aws: Aws, brokers: list[AwsRole]) -> Callable[..., AwsRole]:
    def make(**changes: Any) -> AwsRole:
        options: dict[str, Any] = {
            "region": "eu-central-1",
            "session": keyed(),
            "endpoint": aws.url,
        }
        names = AwsConnection.__dataclass_fields__.keys() & changes.keys()
        connection = AwsConnection(**(options | {name: changes.pop(name) for name in names}))
        roles = changes.pop("roles", ROLES)
        brokers.append(AwsRole(roles, connection, **({"statements": STATEMENTS} | changes)))
        return brokers[-1]

    return make


def workload(**changes: Any) -> dict[str, Any]:
    source = LocalIdentity("agent://support", Signer.generate())
    return {"session": None, "identity": source, "revoker": REVOKER, **changes}


def grant(id: str = "call-1", *scopes: str, **changes: Any) -> Grant:
    facts: dict[str, Any] = {"path": ToolPath.READ, "scopes": frozenset(scopes or ("orders:read",))}
    return sample_grant(id, **(facts | changes))


class TestWithASession(BrokerContract):
    identity = False

    @pytest.fixture(autouse=True)
    def _served(self, aws: Aws, make: Callable[..., AwsRole]) -> None:
        self.made = make

    def make(self) -> AwsRole:
        return self.made(**(workload() if self.identity else {}))

    def grant(self, id: str, path: ToolPath) -> Grant:
        return grant(id, path=path)


class TestWithAnIdentity(TestWithASession):
    identity = True


def test_it_is_a_broker_that_an_event_loop_calls_in_a_thread(make: Callable[..., AwsRole]) -> None:
    broker = make()
    assert isinstance(broker, Broker)
    assert broker.paths == frozenset(ROLES)
    assert not getattr(broker, "inline", False)


# --- what is sent


def test_a_request_names_the_call_in_all_that_aws_records(make: Callable[..., AwsRole], aws: Aws) -> None:
    aws.clock = lambda: 1_800_000_000.0
    broker = make(clock=aws.clock, tags={"team": "payments"})
    credential = broker.issue(grant("call-1", "orders:read", lifetime=30.5))
    (request,) = aws.requests
    tags = {request[f"Tags.member.{n}.Key"]: request[f"Tags.member.{n}.Value"] for n in range(1, 7)}
    assert tags == {
        "team": "payments",
        "agentguard:task": "task-1",
        "agentguard:tool": "refund_order",
        "agentguard:path": "read",
        "agentguard:resource": "payments",
        "agentguard:actor": "spiffe://example.test/agent",
    }
    rest = {name: value for name, value in request.items() if not name.startswith("Tags.")}
    assert json.loads(rest.pop("Policy")) == {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::orders"]},
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::orders/*"]},
            {
                "Effect": "Deny",
                "Action": "*",
                "Resource": "*",
                "Condition": {"DateGreaterThan": {"aws:CurrentTime": "2027-01-15T08:00:31Z"}},
            },
        ],
    }
    assert rest == {
        "Action": "AssumeRole",
        "Version": "2011-06-15",
        "RoleArn": ROLES[ToolPath.READ],
        "RoleSessionName": "call-1",
        "DurationSeconds": "900",
        "SourceIdentity": "user=3Aada",
    }
    assert credential.expires_at == 1_800_000_900.0
    assert credential.handle == broker.prepare(grant("call-1")) == f"{ROLES[ToolPath.READ]} call-1"


@pytest.mark.promise("aws-without-keys")
def test_with_an_identity_the_token_is_exchanged_and_nothing_is_signed(
    make: Callable[..., AwsRole], aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFROMTHEENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from the environment")
    monkeypatch.setenv("AWS_PROFILE", "absent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    broker = make(**workload())
    credential = broker.issue(grant())
    (request,), (headers,) = aws.requests, aws.headers
    assert (request["Action"], request["RoleSessionName"]) == ("AssumeRoleWithWebIdentity", "call-1")
    assert '"aud":"sts.amazonaws.com"' in decoded(request["WebIdentityToken"])
    assert "Authorization" not in headers
    assert not [name for name in request if name.startswith(("Tags", "SourceIdentity"))]
    broker.revoke(credential.handle, credential.expires_at)
    assert "AKIA" not in str(aws.headers)
    fetched = aws.of("AssumeRoleWithWebIdentity")[1]
    assert fetched["RoleArn"] == REVOKER
    assert json.loads(fetched["Policy"])["Statement"][0] == {
        "Effect": "Allow",
        "Action": ["iam:PutRolePolicy", "iam:ListRolePolicies", "iam:DeleteRolePolicy"],
        "Resource": list(ROLES.values()),
    }
    put = aws.headers[aws.requests.index(aws.of("PutRolePolicy")[0])]
    assert "Credential=ASIA" in put["Authorization"]


def decoded(token: str) -> str:
    return unb64url(token.split(".")[1]).decode()


def test_a_credential_has_the_forms_that_sdks_read_and_is_no_http_credential(
    make: Callable[..., AwsRole],
) -> None:
    credential = make().issue(grant())
    env = credential.env()
    assert set(env) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    assert list(credential.fields().values()) == list(env.values())
    assert credential.secrets() == (env["AWS_SECRET_ACCESS_KEY"], env["AWS_SESSION_TOKEN"])
    assert credential.reveal() == env["AWS_SECRET_ACCESS_KEY"]
    with pytest.raises(CredentialUnavailable):
        credential.headers("GET", "https://s3.amazonaws.com", None)


@pytest.mark.parametrize(("lifetime", "duration"), [(1.0, 900), (900.2, 901), (50_000.0, 3600)])
def test_a_session_lives_no_longer_than_it_must(
    make: Callable[..., AwsRole], aws: Aws, lifetime: float, duration: int
) -> None:
    credential = make(longest=3600).issue(grant(lifetime=lifetime))
    assert aws.requests[0]["DurationSeconds"] == str(duration)
    assert abs(credential.expires_at - time.time() - duration) < 5


# --- what is refused before it is sent

LONG = [Statement(actions=["s3:GetObject"], resources=[f"arn:aws:s3:::{'b' * 60}/{n}" for n in range(30)])]
REFUSED = {
    "no scopes": (grant(scopes=frozenset()), "without scopes"),
    "an unknown scope": (grant("call", "orders:read", "orders:all"), "orders:all"),
    "an empty scope": (grant("call", "empty"), "empty"),
    "a long policy": (grant("call", "long"), "may have 2048"),
    "a short id": (grant("c"), "cannot name a session"),
    "a long id": (grant("c" * 65), "cannot name a session"),
    "a wildcard id": (grant("call-*"), "cannot name a session"),
    "a colon in the id": (grant("a:call"), "cannot name a session"),
    "a line's end in the id": (grant("call-1\n"), "cannot name a session"),
    "a long tag": (grant(tool="t" * 257), "agentguard:tool"),
    "a strange tag": (grant(tool="t{}"), "agentguard:tool"),
    "no time": (grant(lifetime=0.0), "lifetime"),
    "another path": (grant(path=ToolPath.ESCALATION), "no role"),
}


@pytest.mark.promise("aws-session-policy")
@pytest.mark.parametrize(("refused", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_beyond_the_limits_is_refused_before_anything_is_sent(
    make: Callable[..., AwsRole], aws: Aws, refused: Grant, why: str
) -> None:
    broker = make(statements={**STATEMENTS, "long": LONG, "empty": []})
    with pytest.raises(IssueError, match=why):
        broker.issue(refused)
    assert not aws.requests


def test_fifty_tags_are_enough(make: Callable[..., AwsRole], aws: Aws) -> None:
    with pytest.raises(IssueError, match="51 session tags"):
        make(tags={f"t{n}": "" for n in range(46)}).issue(grant())
    with pytest.raises(IssueError, match="refuses"):
        make(tags={"AWS:x": ""}).issue(grant())
    assert not aws.requests
    make(tags={f"t{n}": "" for n in range(45)}).issue(grant())


SCOPES = st.sets(st.sampled_from([*STATEMENTS, "long", "unknown"]))


@pytest.mark.promise("aws-session-policy")
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=examples(60),
)
@given(
    scopes=SCOPES,
    id=st.text(st.characters(max_codepoint=127), max_size=70),
    tool=texts(max_size=300),
    subject=texts(max_size=80),
)
def test_a_policy_never_has_a_statement_of_a_scope_that_is_not_granted(
    make: Callable[..., AwsRole],
    aws: Aws,
    brokers: list[AwsRole],
    scopes: set[str],
    id: str,
    tool: str,
    subject: str,
) -> None:
    broker = brokers[0] if brokers else make(statements={**STATEMENTS, "long": LONG})
    aws.requests.clear()
    long_grant = grant(
        id, scopes=frozenset(scopes), tool=tool, identity=Identity(subject=subject, actor="a://b")
    )
    try:
        broker.issue(long_grant)
    except IssueError:
        assert not aws.requests
        return
    (request,) = aws.requests
    granted = [statement.allow() for scope in scopes for statement in STATEMENTS[scope]]
    *allowed, last = json.loads(request["Policy"])["Statement"]
    assert last["Effect"] == "Deny"
    assert sorted(map(str, allowed)) == sorted(map(str, granted))
    assert len(request["Policy"]) <= 2048
    assert re.fullmatch(r"[\w+=,.@-]{2,64}", request["RoleSessionName"], re.ASCII)
    assert re.fullmatch(r"[\w+=,.@-]{2,64}", request["SourceIdentity"], re.ASCII)


@given(texts(max_size=90), texts(max_size=90))
def test_two_subjects_have_two_source_identities(one: str, other: str) -> None:
    assert (source_identity(one) == source_identity(other)) == (one == other)


@pytest.mark.promise("aws-session-policy")
def test_a_session_is_denied_everything_once_its_call_is_over() -> None:
    policy = json.loads(session_policy(["refund"], STATEMENTS, 1_800_000_060.0))
    assert not denies(policy, {"aws:CurrentTime": 1_800_000_060.0})
    assert denies(policy, {"aws:CurrentTime": 1_800_000_061.0})


def test_tags_that_name_the_call_cannot_be_replaced() -> None:
    tags = session_tags(grant(), {"agentguard:task": "another"})
    assert {"Key": "agentguard:task", "Value": "task-1"} in tags
    assert len(tags) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"session": None},
        {"revoker": REVOKER},
        {"identity": LocalIdentity("agent://a")},
        {"session": None, "identity": LocalIdentity("agent://a")},
        workload(revoker=ROLES[ToolPath.READ]),
        {"roles": {}},
        {"roles": dict.fromkeys(ToolPath, REVOKER)},
        {"roles": {ToolPath.READ: "reader"}},
        {"roles": {ToolPath.READ: "arn:aws:iam::123456789012:user/reader"}},
        {"roles": {ToolPath.READ: "arn:aws:iam::123456789012:role/a b"}},
        {"longest": 899},
        {"longest": 43_201},
    ],
    ids=lambda changes: "-".join(f"{k}{len(str(v))}" for k, v in changes.items()),
)
def test_a_configuration_that_cannot_hold_is_refused(
    make: Callable[..., AwsRole], changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError):
        make(**changes)
    for actions, resources in (([], ["*"]), (["s3:*"], []), ("s3:*", ["*"]), ([""], ["*"])):
        with pytest.raises(ConfigurationError):
            Statement(actions=actions, resources=resources)


# --- what goes wrong


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


async def test_a_service_that_is_down_or_slow_is_an_issue_error_in_time(
    mode: Mode, make: Callable[..., AwsRole], aws: Aws
) -> None:
    def slow(_action: str) -> None:
        time.sleep(0.6)

    aws.fault = slow
    for broker in (make(endpoint=closed_port(), timeout=0.2), make(timeout=0.2)):
        issue, revoke = operation_pair(broker, "issue"), operation_pair(broker, "revoke")
        began = time.monotonic()
        with pytest.raises(IssueError, match="no answer"):
            await (issue.async_ if mode.asynchronous else issue.sync)(grant())
        with pytest.raises(IssueError, match="no answer"):
            await (revoke.async_ if mode.asynchronous else revoke.sync)(
                broker.prepare(grant()), time.time() + 900
            )
        assert time.monotonic() - began < 6


FAULTS: Mapping[str, tuple[tuple[int, bytes], str]] = {
    "throttled": (error(400, "Throttling"), "Throttling"),
    "an expired token": (error(400, "ExpiredTokenException"), "ExpiredTokenException"),
    "not permitted": (error(403, "AccessDenied"), "AccessDenied"),
    "packed too large": (error(400, "PackedPolicyTooLarge"), "PackedPolicyTooLarge"),
    "a code that is none": (error(400, "secret-key in a code"), "without a code"),
    "failing": ((500, b""), "500|without a code"),
    "garbage": ((200, b"\x00<<not xml"), "no answer"),
    "another answer": ((200, b"<AssumeRoleResponse/>"), "without credentials|no answer"),
    "html": ((200, b"<html><body>Sign in</body></html>"), "without credentials|no answer"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("answer", "why"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("identity", [False, True], ids=["session", "identity"])
def test_whatever_goes_wrong_at_sts_is_an_issue_error_that_says_a_code(
    make: Callable[..., AwsRole], aws: Aws, answer: tuple[int, bytes], why: str, identity: bool
) -> None:
    aws.fault = lambda _action: answer
    with pytest.raises(IssueError, match=why) as caught:
        make(**(workload() if identity else {})).issue(grant())
    for secret in ("secret", "eyJ", "standing"):
        assert secret not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_session_that_is_not_the_one_asked_for_is_not_handed_out(
    make: Callable[..., AwsRole], aws: Aws
) -> None:
    for other in ("read/another", "write/call-1", "xread/call-1"):
        aws.session_arn = f"arn:aws:sts::123456789012:assumed-role/{other}"
        with pytest.raises(IssueError, match="another session"):
            make().issue(grant())


def test_a_session_that_outlives_what_its_revocation_reaches_is_not_handed_out(
    make: Callable[..., AwsRole], aws: Aws
) -> None:
    aws.longer = 50.0
    make().issue(grant())
    for longer in (70.0, 3600.0, -1000.0):
        aws.longer = longer
        with pytest.raises(IssueError, match="another time"):
            make().issue(grant())


def test_an_identity_without_a_token_is_told_as_such(make: Callable[..., AwsRole], aws: Aws) -> None:
    broker = make(**workload(identity=LocalIdentity("agent://support")))
    with pytest.raises(IdentityError):
        broker.issue(grant())
    with pytest.raises(IdentityError):
        broker.revoke(broker.prepare(grant()), time.time() + 900)
    assert not aws.requests


def test_a_service_that_keeps_failing_is_left_alone() -> None:
    session = keyed()
    api = Api(
        "sts",
        session,
        AwsConnection(region="eu-central-1", session=session, endpoint=closed_port(), timeout=2.0),
    )
    for _ in range(5):
        with pytest.raises(IssueError, match="no answer"):
            api.ask("get_caller_identity")
    with pytest.raises(IssueError, match="not asked after repeated failures"):
        api.ask("get_caller_identity")
    api.close()


@pytest.mark.promise("service-failures-bounded")
@pytest.mark.parametrize("respond", [trickle_header, trickle_body, interim_answers])
@pytest.mark.parametrize("service", ["sts", "iam"])
def test_a_service_that_never_comes_to_its_answer_holds_no_thread(
    respond: Callable[[Connection], None], service: str
) -> None:
    with loopback.serving(respond) as server:
        operation = "get_caller_identity" if service == "sts" else "list_roles"
        began = time.monotonic()
        with pytest.raises(IssueError, match="no answer"):
            api_at(server.url, service, timeout=0.1).ask(operation)
        assert time.monotonic() - began < 1.0
        began = time.monotonic()
        with within(0.05), pytest.raises(IssueError, match="no answer"):
            api_at(server.url, service, timeout=5.0).ask(
                "get_caller_identity" if service == "sts" else "list_roles"
            )
        assert time.monotonic() - began < 1.0, "its caller waits no longer"


@pytest.mark.promise("arguments-stop-nobody")
def test_silence_for_one_user_and_what_is_not_sent_stop_no_other_user(aws: Aws) -> None:
    def slow(_action: str) -> None:
        time.sleep(0.15)

    api = api_at(aws.url, "sts", timeout=0.05)
    request: dict[str, Any] = {"RoleArn": ROLES[ToolPath.READ], "DurationSeconds": 900}
    for _ in range(6):
        with pytest.raises(IssueError, match="ParamValidationError"):
            api.ask("assume_role", **request, RoleSessionName=["no text"])
    aws.fault = slow
    with for_party("user:eve"):
        for _ in range(5):
            with pytest.raises(IssueError, match="no answer"):
                api.ask("assume_role", **request, RoleSessionName="call-1")
        with pytest.raises(IssueError, match="not asked"):
            api.ask("assume_role", **request, RoleSessionName="call-1")
    with for_party("user:ada"), pytest.raises(IssueError, match="no answer"):
        api.ask("assume_role", **request, RoleSessionName="call-1")


def api_at(url: str, service: str, *, timeout: float) -> Api:
    session = keyed()
    connection = AwsConnection(region="eu-central-1", session=session, endpoint=url, timeout=timeout)
    return Api(service, session, connection)


def test_what_botocore_reads_as_an_error_is_told_by_its_code_alone() -> None:
    session = keyed()
    api = Api("sts", session, AwsConnection(region="eu-central-1", session=session, timeout=1.0))
    with Stubber(api._client) as stub:
        stub.add_client_error("assume_role", "ExpiredTokenException", "the token abc.def is expired", 400)
        with pytest.raises(Refusal, match="assume_role with ExpiredTokenException") as caught:
            api.ask("assume_role", RoleArn=REVOKER, RoleSessionName="call-1")
    assert caught.value.code == "ExpiredTokenException"
    assert "abc.def" not in str(caught.value)
    api.close()


# --- revocation


@pytest.mark.promise("aws-revocation")
def test_a_revoked_session_is_denied_everything_and_no_other_is(
    make: Callable[..., AwsRole], aws: Aws
) -> None:
    broker = make()
    one, other = broker.issue(grant("call-1")), broker.issue(grant("call-2"))
    now = time.time()
    broker.revoke(one.handle, one.expires_at)
    assert aws.denied("read", "call-1", now)
    assert not aws.denied("read", "call-2", now)
    assert not aws.denied("read", "xcall-1", now)
    assert not aws.denied("write", "call-1", now)
    broker.revoke(other.handle, other.expires_at)
    assert aws.denied("read", "call-1", now)
    assert aws.denied("read", "call-2", now)


@pytest.mark.promise("aws-revocation")
def test_a_session_that_was_minted_after_its_broker_died_is_denied_all_the_same(
    make: Callable[..., AwsRole], aws: Aws
) -> None:
    handle = make().prepare(grant())
    make().revoke(handle, time.time() + 60)
    assert aws.denied("read", "call-1", issued=time.time() + 30)


@pytest.mark.promise("revocation-not-claimed")
@pytest.mark.parametrize(
    "handle",
    ["never-issued", "", "x" * 5000, f"{ROLES[ToolPath.READ]} *", f"{ROLES[ToolPath.READ]} a:b", "a b c"],
)
def test_a_handle_that_no_broker_has_made_denies_nobody(
    make: Callable[..., AwsRole], aws: Aws, handle: str
) -> None:
    broker = make()
    with pytest.raises(RevocationUnknown):
        broker.revoke(handle, time.time() + 60)
    assert not aws.requests
    broker.revoke(handle, time.time() - 86_400)  # whatever it was, it has ended


def test_a_session_of_a_role_that_is_not_its_own_is_not_said_to_be_revoked(
    make: Callable[..., AwsRole], aws: Aws
) -> None:
    with pytest.raises(IssueError, match="none of this broker's"):
        make().revoke(f"{REVOKER} call-1", time.time() + 60)
    assert not aws.requests


def test_a_session_that_has_long_ended_needs_no_denial(make: Callable[..., AwsRole], aws: Aws) -> None:
    make().revoke(f"{ROLES[ToolPath.READ]} call-1", time.time() - 1000)
    assert not aws.requests


def test_what_iam_has_not_taken_is_not_revoked_and_may_be_tried_again(
    make: Callable[..., AwsRole], aws: Aws
) -> None:
    broker = make()
    credential = broker.issue(grant())
    for fault, why in ((error(403, "AccessDenied"), "AccessDenied"), ((200, b"\x00"), "no answer")):
        aws.fault = lambda action, fault=fault: fault if action == "PutRolePolicy" else None  # type: ignore[misc]  # mypy infers no type for a lambda's default
        with pytest.raises(IssueError, match=why):
            broker.revoke(credential.handle, credential.expires_at)
    assert not aws.denied("read", "call-1", time.time())
    aws.fault = lambda _action: None
    broker.revoke(credential.handle, credential.expires_at)
    assert aws.denied("read", "call-1", time.time())


@pytest.mark.promise("aws-revocation")
def test_processes_and_threads_that_revoke_at_once_lose_none(make: Callable[..., AwsRole], aws: Aws) -> None:
    """Each is denied when `revoke` returns, and stays so, however late and disordered IAM writes."""
    aws.fault = lambda _action: time.sleep(random.random() * 0.02)  # noqa: S311  a delay is no secret
    processes, now = [make(), make(), make()], time.time()

    def revoke(number: int) -> bool:
        processes[number % 3].revoke(f"{ROLES[ToolPath.READ]} call-{number}", now + 900)
        return aws.denied("read", f"call-{number}", now)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(revoke, range(90)))
    assert all(aws.denied("read", f"call-{number}", now) for number in range(90))
    assert not aws.denied("read", "call-90", now)
    assert len(aws.policies["read"]) == 3
    assert len(aws.of("PutRolePolicy")) < 90


def test_a_policy_is_deleted_by_anybody_once_its_sessions_have_ended(
    make: Callable[..., AwsRole], aws: Aws
) -> None:
    now = 1_800_000_000.0
    aws.clock = lambda: now
    dead, live = make(clock=aws.clock), make(clock=aws.clock)
    aws.policies["read"] = {"another-policy": '{"Statement": []}'}
    dead.revoke(f"{ROLES[ToolPath.READ]} call-1", now + 900)
    now += 1000
    live.revoke(f"{ROLES[ToolPath.READ]} call-2", now + 900)
    assert aws.denied("read", "call-1", 1_800_000_000.0)
    assert aws.denied("read", "call-2", now)
    now += 3000
    live.revoke(f"{ROLES[ToolPath.READ]} call-3", now + 900)
    assert len(aws.policies["read"]) == 2
    assert "another-policy" in aws.policies["read"]
    assert aws.denied("read", "call-3", now)


def test_no_policy_is_deleted_while_a_session_that_it_names_can_live(aws: Aws) -> None:
    """The last second of a span, the longest session, a writer whose clock is behind by the skew."""
    longest, skew, now = 900, 60.0, 1_800_000_000.0 - 1
    calls: list[tuple[str, str]] = []

    def ask(operation: str, **parameters: Any) -> Mapping[str, Any]:
        calls.append((operation, parameters.get("PolicyName", "")))
        return {"PolicyNames": [calls[0][1]]}

    def revocations(at: float) -> Revocations:
        options: dict[str, Any] = {"clock": lambda: at, "entropy": lambda count: b"\0" * count}
        return Revocations(ask, longest=longest, skew=skew, patience=1.0, **options)

    revocations(now).deny("read", "call-1")
    revocations(now + skew + longest).deny("read", "call-2")
    assert "delete_role_policy" not in [operation for operation, _ in calls]
    revocations(now + 2 * skew + 2 * longest + 5).deny("read", "call-3")
    assert ("delete_role_policy", calls[0][1]) in calls


ACTIONS = {"put_role_policy": "PutRolePolicy", "delete_role_policy": "DeleteRolePolicy"}


@pytest.mark.promise("aws-revocation")
def test_when_the_policies_are_full_every_session_until_now_is_denied() -> None:
    aws, now = Aws(), 1_800_000_000.0

    def ask(operation: str, **parameters: Any) -> Mapping[str, Any]:
        status, _ = aws.answer({"Action": ACTIONS.get(operation, ""), **parameters})
        if status != 200:
            raise Refusal("iam", operation, "LimitExceeded")
        return {"PolicyNames": list(aws.policies[parameters["RoleName"]])}

    def process(number: int) -> Revocations:
        options: dict[str, Any] = {"clock": lambda: now, "entropy": lambda count: bytes([number]) * count}
        return Revocations(ask, longest=900, skew=60.0, patience=1.0, **options)

    processes = process(1), process(2)
    names = [f"call-{number:018}" for number in range(450)]
    for number, name in enumerate(names):
        processes[number % 2].deny("read", name)
        assert aws.denied("read", name, now)
    assert all(aws.denied("read", name, now) for name in names)
    assert aws.denied("read", "of-another-call", now)
    assert not aws.denied("read", "of-another-call", now + 61)


def test_a_process_alone_with_too_many_revocations_denies_every_session_until_now() -> None:
    documents: list[str] = []

    def ask(_operation: str, **parameters: Any) -> Mapping[str, Any]:
        documents.append(parameters.get("PolicyDocument", documents[-1] if documents else ""))
        return {}

    lone = Revocations(
        ask,
        longest=900,
        skew=60.0,
        patience=1.0,
        clock=lambda: 1_800_000_000.0,
        entropy=lambda count: b"\0" * count,
    )
    for number in range(400):
        lone.deny("read", f"call-{number:018}")
        assert len(documents[-1]) <= 10_240
    other = {"aws:userid": "AROAEXAMPLE:another", "aws:TokenIssueTime": 1_800_000_000.0}
    assert denies(json.loads(documents[-1]), other)
    assert not denies(json.loads(documents[-1]), other | {"aws:TokenIssueTime": 1_800_000_061.0})


@pytest.mark.parametrize("answer", ["lost", "retried"])
def test_a_write_that_takes_effect_after_a_later_one_undoes_no_revocation(answer: str) -> None:
    aws, now, late = Aws(), 1_800_000_000.0, list[dict[str, str]]()

    def ask(operation: str, **parameters: str) -> Mapping[str, Any]:
        request = {"Action": ACTIONS.get(operation, ""), **parameters}
        if operation == "put_role_policy" and not late:
            late.append(request)
            if answer == "lost":
                raise IssueError("aws: iam gave put_role_policy no answer")
            aws.answer(request)
            return {"ResponseMetadata": {"RetryAttempts": 1}}
        aws.answer(request)
        return {}

    revocations = Revocations(
        ask, longest=900, skew=60.0, patience=1.0, clock=lambda: now, entropy=secrets.token_bytes
    )
    with contextlib.suppress(IssueError):
        revocations.deny("read", "call-1")
    revocations.deny("read", "call-2")
    aws.answer(late[0])
    assert aws.denied("read", "call-1", now)
    assert aws.denied("read", "call-2", now)


def test_forked_processes_write_policies_of_their_own(
    make: Callable[..., AwsRole], aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, now = make(), time.time()
    for process in (101, 102):
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        broker.revoke(f"{ROLES[ToolPath.READ]} call-{process}", now + 900)
    assert len(aws.policies["read"]) == 2


async def test_revoking_in_a_thread_leaves_the_event_loop_free(
    mode: Mode, make: Callable[..., AwsRole], aws: Aws
) -> None:
    broker = make(**workload())
    pair = operation_pair(broker, "revoke")
    await (pair.async_ if mode.asynchronous else pair.sync)(broker.prepare(grant()), time.time() + 900)
    assert aws.denied("read", "call-1", time.time())


def test_nothing_that_is_printed_shows_a_secret(make: Callable[..., AwsRole]) -> None:
    broker = make()
    credential = broker.issue(grant(resource=Resource(name="orders")))
    for thing in (broker, credential, credential.handle, credential.id):
        for secret in credential.secrets():
            assert secret not in f"{thing!r}{thing!s}"
