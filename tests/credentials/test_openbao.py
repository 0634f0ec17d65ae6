"""The OpenBao broker against an OpenBao that errs: refused, undone, and told in our own words."""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentguard.concurrency.drive import drive
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.credentials.openbao import OpenBao
from agentguard.credentials.openbao import logins as openbao_logins
from agentguard.credentials.openbao.session import OpenBaoSession, RequestRefused
from agentguard.credentials.openbao.transit import TransitSigner
from agentguard.errors import ConfigurationError, CredentialUnavailable, IdentityError, IssueError
from agentguard.jose import b64url, decode, public_key
from agentguard.model import Credential, Secret, ToolPath
from agentguard.outbound.client import Outbound
from agentguard.ports import Broker
from agentguard.stores.memory import MemoryStore
from agentguard.testing import BrokerContract
from agentguard.testing.samples import sample_grant
from agentguard.testing.scenarios import AwaitedPort
from tests.conftest import Mode

NOW = 1_700_000_000.0
ADDRESS = "https://bao.example.test"
CREDS = "database/creds/reports-write"
DENIED = httpx.Response(403, json={"errors": ["1 error occurred:\n\t* permission denied\n\n"]})
Answers = Callable[[httpx.Request], httpx.Response]


class Proofs:
    """An identity source; what it gives says for whom it is."""

    inline = True

    def actor(self) -> str:
        return "spiffe://example.test/agent"

    def token(self, audience: str) -> Secret:
        return Secret(f"proof-for-{audience}")


class Double:
    """An OpenBao in memory. `faults` answers in its stead, by path."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}  # token -> accessor, of the logins that live
        self.ttl, self.lease, self.made = 60, 60, 0
        self.wrapped: dict[str, Any] = {}
        self.asked: list[str] = []
        self.headers: list[httpx.Headers] = []
        self.faults: dict[str, Answers | httpx.Response] = {}
        self.key = ec.generate_private_key(ec.SECP256R1())

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/")
        self.asked.append(path)
        self.headers.append(request.headers)
        fault = self.faults.get(path)
        if isinstance(fault, httpx.Response):
            return httpx.Response(fault.status_code, headers=fault.headers, content=fault.content)
        return self.answer(request) if fault is None else fault(request)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path.removeprefix("/v1/"), json.loads(request.content or "{}")
        token = request.headers.get("x-vault-token", "")
        if path == "auth/jwt/login":
            return self.login()
        if path == "sys/wrapping/unwrap" and token in self.wrapped:
            return httpx.Response(200, json=self.wrapped.pop(token))
        if token not in self.tokens:
            return httpx.Response(403, json={"errors": ["permission denied"]})
        wraps = "x-vault-wrap-ttl" in request.headers
        return getattr(self, path.split("/")[-1].replace("-", "_"), self.creds)(token, body, path, wraps)

    def login(self, **changes: Any) -> httpx.Response:
        self.made += 1
        token, accessor = f"s.token{self.made}", f"accessor{self.made}"
        self.tokens[token] = accessor
        auth = {"client_token": token, "accessor": accessor, "lease_duration": self.ttl, **changes}
        return httpx.Response(200, json={"auth": auth})

    def creds(self, _token: str, _body: Any, path: str, wraps: bool) -> httpx.Response:
        self.made += 1
        data = {"username": f"v-{self.made}", "password": f"pass-{self.made}"}
        answer = {"lease_id": f"{path}/{self.made}", "lease_duration": self.lease, "data": data}
        if not wraps:
            return httpx.Response(200, json=answer)
        self.wrapped["s.wrap"] = answer
        info = {"token": "s.wrap", "creation_path": path}
        return httpx.Response(200, json={"lease_id": "", "data": None, "wrap_info": info})

    def renew_self(self, _token: str, body: Any, *_: Any) -> httpx.Response:
        return httpx.Response(200, json={"auth": {"lease_duration": int(body["increment"][:-1])}})

    def revoke(self, *_: Any) -> httpx.Response:
        return httpx.Response(204)

    def revoke_self(self, token: str, *_: Any) -> httpx.Response:
        del self.tokens[token]
        return httpx.Response(204)

    def revoke_accessor(self, _token: str, body: Any, *_: Any) -> httpx.Response:
        self.tokens = {token: name for token, name in self.tokens.items() if name != body["accessor"]}
        return httpx.Response(200, json={"warnings": ["No token found with this accessor"]})

    def issuer(self, _token: str, body: Any, path: str, _wraps: bool) -> httpx.Response:
        if path == "transit/keys/issuer":
            pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            keys = {"2": {"public_key": pem.decode()}}
            data: Any = {"type": "ecdsa-p256", "latest_version": 2, "keys": keys}
        else:
            assert (body["marshaling_algorithm"], body["key_version"]) == ("jws", 2)
            message = b64decode(body["input"])
            r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
            data = {"signature": f"vault:v2:{b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"}
        return httpx.Response(200, json={"data": data})


def session(double: Double, **changes: Any) -> OpenBaoSession:
    transport = httpx.MockTransport(double)
    waiting = changes.pop("async_transport", transport)
    http = Outbound("openbao", f"{ADDRESS}/v1", transport=transport, async_transport=waiting)
    options: dict[str, Any] = {"identity": Proofs(), "role": "reports-write", "audience": "openbao/write"}
    return OpenBaoSession(ADDRESS, **(options | {"http": http, "clock": lambda: NOW} | changes))


def broker(double: Double, **changes: Any) -> OpenBao:
    return OpenBao(ToolPath.WRITE, session(double), creds=CREDS, **changes)


@pytest.fixture
def double() -> Double:
    return Double()


class TestContract(BrokerContract):
    def make(self) -> OpenBao:
        return broker(Double())


class TestWrappedContract(BrokerContract):
    def make(self) -> OpenBao:
        return broker(Double(), wrap=True)


def face(by: object, mode: Mode) -> AwaitedPort:
    return AwaitedPort(by, asynchronous=mode.asynchronous)


# --- what is issued


async def test_a_credential_is_a_name_and_a_password_of_its_own(double: Double, mode: Mode) -> None:
    by = broker(double, server={"host": "db.example.test", "port": "5433", "dbname": "reports"})
    assert isinstance(by, Broker)
    credential: Credential = await face(by, mode).issue(sample_grant())
    assert credential.fields()["username"] == "v-2"
    assert credential.reveal() == credential.fields()["password"] == "pass-2"
    assert credential.env() == {
        "PGUSER": "v-2",
        "PGPASSWORD": "pass-2",
        "PGHOST": "db.example.test",
        "PGPORT": "5433",
        "PGDATABASE": "reports",
    }
    assert (credential.id, credential.handle) == ("grant-1", "accessor1")
    assert (credential.expires_at, credential.secrets()) == (NOW + 60, ("pass-2",))
    with pytest.raises(CredentialUnavailable):
        credential.headers("GET", "https://db.example.test", None)


async def test_what_is_recorded_before_issue_is_what_is_issued_with(double: Double, mode: Mode) -> None:
    by = face(broker(double), mode)
    handle = await by.prepare(sample_grant())
    assert double.asked == ["auth/jwt/login"]
    assert handle == (await by.issue(sample_grant())).handle
    assert double.asked == ["auth/jwt/login", CREDS]
    assert (await by.issue(sample_grant())).handle != handle


async def test_a_broker_of_one_path_asks_nobody_for_another(double: Double, mode: Mode) -> None:
    by = face(broker(double), mode)
    for path in (ToolPath.READ, ToolPath.ESCALATION):
        for ask in (by.prepare, by.issue):
            with pytest.raises(IssueError, match=f"does not mint for {path}"):
                await ask(sample_grant(path=path))
    assert not double.asked


@pytest.mark.promise("failed-login-leaves-nothing")
@pytest.mark.parametrize(
    ("ttl", "lease", "lifetime", "lives"), [(20, 60, 60.0, 20), (60, 9, 60.0, 9), (3600, 3600, 30.9, 30)]
)
async def test_nothing_outlives_token_lease_or_grant(
    double: Double, mode: Mode, ttl: int, lease: int, lifetime: float, lives: int
) -> None:
    double.ttl, double.lease = ttl, lease
    credential = await face(broker(double), mode).issue(sample_grant(lifetime=lifetime))
    assert credential.expires_at == NOW + lives
    assert ("auth/token/renew-self" in double.asked) == (ttl > lifetime)


@pytest.mark.parametrize("answer", [DENIED, httpx.Response(200, json={"auth": {"lease_duration": 3600}})])
async def test_a_login_that_cannot_be_shortened_is_given_up(
    double: Double, mode: Mode, answer: httpx.Response
) -> None:
    double.ttl = 3600
    double.faults["auth/token/renew-self"] = answer
    with pytest.raises(IssueError):
        await face(broker(double), mode).issue(sample_grant())
    assert CREDS not in double.asked
    assert not double.tokens


@pytest.mark.promise("lifetime-from-judgement")
@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize(("seconds", "lives"), [(40.0, 60), (59.5, None), (61.0, None)])
async def test_a_login_that_took_its_time_makes_no_credential_that_outlives_the_grant(
    double: Double, mode: Mode, prepared: bool, seconds: float, lives: int | None
) -> None:
    now, double.ttl, double.lease = [NOW], 3600, 3600

    def slow_login(_request: httpx.Request) -> httpx.Response:
        now[0] += seconds
        return double.login()

    double.faults["auth/jwt/login"] = slow_login
    by = face(OpenBao(ToolPath.WRITE, session(double, clock=lambda: now[0]), creds=CREDS), mode)
    grant = replace(sample_grant(lifetime=60.0), at=NOW)
    if prepared:
        await by.prepare(grant)
    if lives is None:
        with pytest.raises(IssueError, match="the grant ended"):
            await by.issue(grant)
        assert CREDS not in double.asked
    else:
        assert (await by.issue(grant)).expires_at == NOW + lives


async def test_less_than_a_second_is_refused(double: Double, mode: Mode) -> None:
    with pytest.raises(IssueError, match="over before it begins"):
        await face(broker(double), mode).prepare(sample_grant(lifetime=0.9))
    assert not double.asked


def test_it_is_reused_only_where_that_is_said(double: Double) -> None:
    assert broker(double).traits.reuse == frozenset()
    assert broker(double, reuse=True).traits.reuse == {ToolPath.WRITE}
    assert broker(double).traits.binds_arguments is False


# --- what errs


def fault(path: str, answer: httpx.Response | Answers, says: str, *, id: str) -> Any:
    return pytest.param(path, answer, says, id=id)


def down(_request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


LOGIN = "auth/jwt/login"
LEASE = {"lease_id": "x", "lease_duration": 60, "data": {"username": "v-1", "password": "pass"}}
AUTH = {"client_token": "s.1", "accessor": "a", "lease_duration": 60}


def ok(**members: Any) -> httpx.Response:
    return httpx.Response(200, json=members)


FAULTS = [
    fault(path, answer, says, id=f"{name} at {path.split('/')[0]}")
    for path in (LOGIN, CREDS)
    for name, answer, says in (
        ("down", down, "no connection"),
        ("403", DENIED, "403: permission denied"),
        ("429", httpx.Response(429), "answered 429"),
        ("sealed", httpx.Response(503, json={"errors": ["Vault is sealed"]}), "answered 503"),
        (
            "garbage",
            httpx.Response(200, content=b"<html>s.token</html>"),
            "the answer is not a JSON object",
        ),
        ("a list", httpx.Response(200, json=["s.token"]), "the answer is not a JSON object"),
        ("equal keys", httpx.Response(200, content=b'{"auth": {}, "auth": {}}'), "not a JSON object"),
        ("a redirect", httpx.Response(307, headers={"Location": "https://evil.test"}), "answered 307"),
        ("nothing", httpx.Response(204), "gave no"),
    )
] + [
    fault(LOGIN, ok(auth=AUTH | {"accessor": ""}), "no token that can be revoked", id="a batch token"),
    fault(LOGIN, ok(auth=AUTH | {"lease_duration": 0}), "no token that can be revoked", id="for ever"),
    fault(LOGIN, ok(auth=AUTH | {"client_token": None}), "no token that can be revoked", id="no token"),
    fault(CREDS, ok(**LEASE | {"data": {"username": "v-1"}}), "no username and password", id="no password"),
    fault(CREDS, ok(**LEASE | {"lease_id": ""}), "no username and password", id="a static role"),
    fault(CREDS, ok(**LEASE | {"lease_duration": 0}), "no username and password", id="no end"),
]


@pytest.mark.promise("failed-login-leaves-nothing")
@pytest.mark.parametrize(("path", "answer", "says"), FAULTS)
async def test_whatever_errs_is_an_issue_error_and_leaves_nothing(
    double: Double, mode: Mode, path: str, answer: httpx.Response | Answers, says: str
) -> None:
    double.faults[path] = answer
    with pytest.raises(IssueError, match=says):
        await face(broker(double), mode).issue(sample_grant())
    assert not double.tokens


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("error validating token: invalid subject (sub) claim", "not the one of this role"),
        ("error validating token: invalid audience (aud) claim: …", "for another audience"),
        ("error validating token: invalid expiration time (exp) claim: …", "has expired"),
        ("error validating token: error verifying token signature: …", "not signed by a trusted key"),
        ('role "proof-for-openbao/write" could not be found', "no such role"),
        ("proof-for-openbao/write is unheard of", "no known reason"),
    ],
)
async def test_a_refusal_is_told_in_our_own_words(double: Double, mode: Mode, theirs: str, ours: str) -> None:
    double.faults[LOGIN] = httpx.Response(400, json={"errors": [theirs]})
    with pytest.raises(RequestRefused, match=ours) as refused:
        await face(broker(double), mode).prepare(sample_grant())
    assert refused.value.status == 400
    assert "proof-for" not in str(refused.value)


async def test_without_a_proof_of_identity_nothing_is_asked(double: Double, mode: Mode) -> None:
    class Nobody(Proofs):
        def token(self, audience: str) -> Secret:
            raise IdentityError("the platform gave none")

    by = OpenBao(ToolPath.WRITE, session(double, identity=Nobody()), creds=CREDS)
    with pytest.raises(IssueError, match="no proof of identity: the platform gave none"):
        await face(by, mode).issue(sample_grant())
    assert not double.asked


@pytest.mark.promise("failed-login-leaves-nothing")
async def test_cancelled_between_login_and_credential_leaves_nothing(double: Double) -> None:
    reached = asyncio.Event()

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith(CREDS):
                reached.set()
                await asyncio.sleep(60)
            await request.aread()
            return double(request)

    by = OpenBao(ToolPath.WRITE, session(double, async_transport=Slow()), creds=CREDS)
    running = asyncio.create_task(by.aissue(sample_grant()))
    await reached.wait()
    assert double.tokens
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not double.tokens


async def test_no_log_shows_what_was_sent(
    double: Double, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    by = broker(double, wrap=True)
    credential = await face(by, mode).issue(sample_grant())
    await face(by, mode).revoke(credential.handle, credential.expires_at)
    text = f"{caplog.text} {by!r} {by._session!r} {vars(by._session)!r}"
    assert not [secret for secret in ("s.token", "s.wrap", "pass-", "proof-for") if secret in text]


# --- what is revoked


async def test_a_credential_is_revoked_with_its_own_token(double: Double, mode: Mode) -> None:
    by = face(broker(double), mode)
    credential = await by.issue(sample_grant())
    double.asked.clear()
    await by.revoke(credential.handle, credential.expires_at)
    assert double.asked == ["sys/leases/revoke", "auth/token/revoke-self"]
    assert not double.tokens


async def test_a_process_that_never_saw_the_token_revokes_by_accessor(double: Double, mode: Mode) -> None:
    issued = await face(broker(double), mode).issue(sample_grant("issued"))
    prepared = await face(broker(double), mode).prepare(sample_grant("prepared"))
    for handle in (issued.handle, prepared):
        await face(broker(double), mode).revoke(handle, issued.expires_at)
    assert not double.tokens  # nor is one left of the logins that revoked


async def test_the_revoker_has_a_role_of_its_own(double: Double, mode: Mode) -> None:
    def login(request: httpx.Request) -> httpx.Response:
        roles.append(json.loads(request.content))
        return double.login()

    roles: list[Any] = []
    double.faults[LOGIN] = login
    revoker = session(double, role="revoker", audience="openbao/revoker")
    await face(broker(double, revoker=revoker), mode).revoke("accessor", NOW)
    assert roles == [{"role": "revoker", "jwt": "proof-for-openbao/revoker"}]


async def test_a_token_that_may_not_revoke_itself_is_revoked_by_accessor(double: Double, mode: Mode) -> None:
    by = face(broker(double), mode)
    credential = await by.issue(sample_grant())
    login_token = double.headers[-1]["x-vault-token"]

    def refuse(request: httpx.Request) -> httpx.Response:
        return (
            httpx.Response(403) if request.headers["x-vault-token"] == login_token else double.answer(request)
        )

    double.faults |= {"auth/token/revoke-self": refuse, "sys/leases/revoke": DENIED}
    await by.revoke(credential.handle, credential.expires_at)
    assert double.asked[-2:] == ["auth/token/revoke-accessor", "auth/token/revoke-self"]
    assert not double.tokens


async def test_a_revoker_that_is_refused_has_not_revoked(double: Double, mode: Mode) -> None:
    handle = await face(broker(double), mode).prepare(sample_grant())
    double.faults["auth/token/revoke-accessor"] = DENIED
    with pytest.raises(IssueError, match="permission denied"):
        await face(broker(double), mode).revoke(handle, NOW)
    assert [*double.tokens.values()] == [handle]


@pytest.mark.promise("failed-login-leaves-nothing")
@pytest.mark.parametrize("path", ["sys/leases/revoke", "auth/token/revoke-self"])
async def test_what_was_not_confirmed_is_an_error_and_is_tried_again(
    double: Double, mode: Mode, path: str
) -> None:
    by = face(broker(double), mode)
    credential = await by.issue(sample_grant())
    double.faults[path] = httpx.Response(500 if "token" in path else 400, json={"errors": ["no database"]})
    with pytest.raises(IssueError):
        await by.revoke(credential.handle, credential.expires_at)
    assert double.tokens
    double.faults.clear()
    double.asked.clear()
    await by.revoke(credential.handle, credential.expires_at)
    assert double.asked == ["sys/leases/revoke", "auth/token/revoke-self"]
    assert not double.tokens


async def test_memory_is_bounded_and_what_fell_out_is_revoked_by_accessor(
    double: Double, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openbao_logins, "LIMIT", 2)
    by = broker(double)
    handles = [await face(by, mode).prepare(sample_grant(f"g{number}")) for number in range(5)]
    assert len(by._logins._logins) == len(by._logins._by_grant) == 2
    for handle in handles:
        await face(by, mode).revoke(handle, NOW)
    assert not double.tokens
    assert not by._logins._logins


# --- wrapping


async def test_a_wrapped_credential_is_fetched_once(double: Double, mode: Mode) -> None:
    credential = await face(broker(double, wrap=True), mode).issue(sample_grant())
    assert credential.fields()["username"] == "v-2"
    assert double.asked[-2:] == [CREDS, "sys/wrapping/unwrap"]
    assert double.headers[-2]["x-vault-wrap-ttl"] == "30s"
    assert not double.wrapped


async def test_one_that_was_opened_before_us_is_an_alarm(
    double: Double, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    def stolen(request: httpx.Request) -> httpx.Response:
        answer = double.answer(request)
        double.wrapped.clear()
        return answer

    double.faults[CREDS] = stolen
    double.faults["sys/wrapping/unwrap"] = httpx.Response(
        400, json={"errors": ["wrapping token is not valid or does not exist"]}
    )
    with pytest.raises(IssueError, match="unwrapped before us"):
        await face(broker(double, wrap=True), mode).issue(sample_grant())
    assert "alarm" in caplog.text
    assert not double.tokens


@pytest.mark.parametrize(
    "answer",
    [ok(**LEASE), ok(wrap_info={"token": "s.wrap", "creation_path": "secret/data/x"}), ok(wrap_info=None)],
)
async def test_what_is_not_wrapped_by_the_path_that_was_asked_is_refused(
    double: Double, mode: Mode, answer: httpx.Response
) -> None:
    double.faults[CREDS] = answer
    with pytest.raises(IssueError, match="answered unwrapped"):
        await face(broker(double, wrap=True), mode).issue(sample_grant())
    assert "sys/wrapping/unwrap" not in double.asked
    assert not double.tokens


# --- the session


@pytest.mark.parametrize(
    "address", ["http://bao.example.test", "ftp://127.0.0.1", "bao", "http://127.0.0.1.a"]
)
def test_an_address_is_confidential(address: str) -> None:
    with pytest.raises(ConfigurationError, match="not confidential"):
        OpenBaoSession(address, identity=Proofs(), role="r", audience="a")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8200/", "http://[::1]:8200", "http://localhost"])
def test_this_machine_may_be_spoken_to_without_tls(address: str) -> None:
    assert address.rstrip("/") in repr(OpenBaoSession(address, identity=Proofs(), role="r", audience="a"))


def test_a_server_is_described_in_words_of_libpq(double: Double) -> None:
    with pytest.raises(ConfigurationError, match="hostname"):
        broker(double, server={"hostname": "db"})


async def test_each_request_names_the_namespace(double: Double, mode: Mode) -> None:
    by = OpenBao(ToolPath.WRITE, session(double, namespace="team/a"), creds=CREDS)
    credential = await face(by, mode).issue(sample_grant())
    await face(by, mode).revoke(credential.handle, NOW)
    assert {headers["x-vault-namespace"] for headers in double.headers} == {"team/a"}
    assert {headers["x-vault-request"] for headers in double.headers} == {"true"}


@pytest.mark.parametrize("path", ["database/../sys/seal", "a//b", "/sys/seal", "./a", ""])
async def test_a_path_leads_where_it_says(double: Double, path: str) -> None:
    operations = session(double).async_
    with pytest.raises(IssueError, match="is no path"):
        await operations.request("GET", path)
    assert double.asked in ([], [LOGIN])


async def test_a_path_cannot_carry_a_query(double: Double) -> None:
    await session(double).async_.request("GET", "secret/data/a?version=1#x")
    assert double.asked[-1] == "secret/data/a?version=1#x"  # as part of the path, encoded


async def test_those_who_need_a_kept_login_share_one(double: Double) -> None:
    now = [NOW]
    by = session(double, clock=lambda: now[0])
    await asyncio.gather(*(by.async_.request("GET", CREDS) for _ in range(10)))
    assert double.asked.count(LOGIN) == 1
    now[0] += 56  # it would end within five seconds
    await by.async_.request("GET", CREDS)
    assert double.asked.count(LOGIN) == 2


def test_a_kept_login_that_is_refused_is_not_kept(double: Double) -> None:
    by = session(double)
    drive(by.sync.request("GET", CREDS))
    double.tokens.clear()
    with pytest.raises(RequestRefused):
        drive(by.sync.request("GET", CREDS))
    drive(by.sync.request("GET", CREDS))
    by.close()
    assert not double.tokens


# --- signing


def transit(double: Double, **changes: Any) -> LocalIssuer:
    signer = TransitSigner.load(session(double), "issuer")
    options = {"issuer": "https://guard.example", "store": MemoryStore(), "key": signer, **changes}
    return LocalIssuer(ToolPath.WRITE, **options)


class TestTransitContract(BrokerContract):
    def make(self) -> LocalIssuer:
        return transit(Double())


async def test_a_token_signed_elsewhere_is_one_like_any_other(double: Double, mode: Mode) -> None:
    by = transit(double)
    assert by.inline is False
    credential = await face(by, mode).issue(sample_grant())
    jws = decode(credential.reveal(), lambda _header: public_key(by.public_jwk), typ=frozenset({"at+jwt"}))
    assert (jws.header["kid"], jws.claims["jti"]) == (by.public_jwk["kid"], "grant-1")


async def test_a_key_is_loaded_on_an_event_loop_too(double: Double) -> None:
    signer = await TransitSigner.aload(session(double), "issuer")
    assert signer.kid == TransitSigner.load(session(double), "issuer").kid
    assert "transit/issuer v2" in repr(signer)


@pytest.mark.parametrize(
    "data",
    [
        {"type": "ed25519", "latest_version": 1, "keys": {"1": {"public_key": "AAAA"}}},
        {"type": "ecdsa-p256", "latest_version": 1, "keys": {"1": {"public_key": "no key"}}},
        {"type": "ecdsa-p256", "latest_version": 2, "keys": {"1": {}}},
        {"type": "ecdsa-p256", "latest_version": 1, "keys": {"1": 1700000000}},
        None,
    ],
)
def test_a_key_of_another_kind_is_refused(double: Double, data: Any) -> None:
    double.faults["transit/keys/issuer"] = ok(data=data)
    with pytest.raises(IssueError, match="no key of type ecdsa-p256"):
        TransitSigner.load(session(double), "issuer")


@pytest.mark.parametrize(
    "signature",
    ["", "vault:v2:", "vault:v1:" + "A" * 86, "vault:v2:" + "A" * 80, "vault:v2:" + "A" * 86 + "=="],
)
async def test_an_answer_that_is_no_signature_is_no_token(double: Double, mode: Mode, signature: str) -> None:
    by = transit(double)
    double.faults["transit/sign/issuer"] = ok(data={"signature": signature})
    with pytest.raises(IssueError, match="gave no signature"):
        await face(by, mode).issue(sample_grant())
