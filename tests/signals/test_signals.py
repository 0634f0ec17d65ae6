"""A genuine signal ends a session, any other signal ends nothing, and a sent signal arrives."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt import PyJWS
from langchain_core.tools import tool

from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.credentials.local_issuer import jwks as token_keys
from agentguard.credentials.presentation import ProofKey
from agentguard.errors import (
    ConfigurationError,
    DenialCode,
    Denied,
    IssueError,
    StoreError,
    TaskNotActive,
    VerificationError,
)
from agentguard.jose import Signer, b64url, revocation_key
from agentguard.model import (
    Arguments,
    Grant,
    Identity,
    LiveCredential,
    Resource,
    Secret,
    TaskStatus,
    ToolPath,
)
from agentguard.outbound.client import Limits, Outbound
from agentguard.ports import Store
from agentguard.resource import Verifier
from agentguard.signals import IssuedId, Receiver, Revocations, SessionRevoked, Source, Transmitter, jwks
from agentguard.signals.events import SESSION_REVOKED
from agentguard.stores.memory import MemoryStore
from tests.conftest import Kit, Mode
from tests.doubles.texts import texts
from tests.tiers import examples

NOW = 1_700_000_000.0
GUARD, SOC, IDP = "https://guard.example", "https://soc.example", "https://idp.example"
AUDIENCE = "https://orders.example"
URL = f"{AUDIENCE}/signals"
ENDED = SessionRevoked(
    at=NOW, task_id="task-1", user=IssuedId(GUARD, "user:4"), reason="completed", initiating_entity="system"
)
PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEYS = {GUARD: Signer(PRIVATE), SOC: Signer.generate()}
GUARDS = Source(issuer=GUARD, keys=jwks(KEYS[GUARD]))
SOCS = Source(
    issuer=SOC, keys=jwks(KEYS[SOC]), speaks_for=frozenset({IDP}), authorization=Secret("Bearer s0c")
)
ORDERS = Resource(name="orders", origins=(AUDIENCE,))
GRANT = Grant(
    id="call-1",
    task_id="task-1",
    identity=Identity(subject="user:4", actor="agent://support"),
    tool="get_order",
    path=ToolPath.READ,
    resource=ORDERS,
    scopes=frozenset(),
    digest=Arguments.of({}).digest,
    lifetime=60.0,
)
PUSH = {"content-type": "application/secevent+jwt"}

Json = Any


class RecordingRevoke:
    """A *revoke* that records the events that it receives, and raises *error* if it is set."""

    def __init__(self) -> None:
        self.events: list[SessionRevoked] = []
        self.error: Exception | None = None

    async def __call__(self, event: SessionRevoked) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(event)


class Down:
    """A store that does not answer, or gives an invalid answer."""

    inline = True

    def __init__(self, answer: object = None) -> None:
        self.answer = answer

    def known(self, _key: str) -> Any:
        if self.answer is None:
            raise StoreError("down")
        return self.answer

    def remember(self, _key: str, _until: float) -> bool:
        raise StoreError("down")


def receiver(revoke: Callable[[SessionRevoked], Any], **changes: Any) -> Receiver:
    options = {"audience": AUDIENCE, "store": MemoryStore(clock=lambda: NOW), "clock": lambda: NOW, **changes}
    return Receiver(options.pop("sources", (GUARDS, SOCS)), revoke=revoke, **options)


async def push(app: Any, content: Any, headers: Any = None, method: str = "POST") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
        return await client.request(method, URL, content=content, headers=headers or PUSH)


def claims(**changes: Any) -> dict[str, Json]:
    event = {"event_timestamp": NOW, "initiating_entity": "admin", "reason_admin": {"en": "stolen laptop"}}
    whole = {
        "iss": GUARD,
        "jti": "set-1",
        "iat": NOW,
        "aud": AUDIENCE,
        "sub_id": {"format": "opaque", "id": "task-1"},
        "events": {SESSION_REVOKED: event},
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def signed(key: Signer | None = None, header: Mapping[str, Json] | None = None, **changes: Any) -> str:
    key = key or KEYS[GUARD]
    head = {"typ": "secevent+jwt", "kid": key.kid, **(header or {})}
    return key.sign(
        key.head(**{name: value for name, value in head.items() if value is not ...}), claims(**changes)
    )


def of_soc(**changes: Any) -> str:
    return signed(KEYS[SOC], **{"iss": SOC, **changes})


def spelled(text: str) -> str:
    """Sign claims in a spelling that no JSON encoder would write."""
    headers = {"typ": "secevent+jwt", "kid": KEYS[GUARD].kid}
    return PyJWS().encode(text.encode(), PRIVATE, algorithm="ES256", headers=headers)


def unsigned(signature: str = "") -> str:
    _, body, _ = signed().split(".")
    none = b64url(json.dumps({"alg": "none", "typ": "secevent+jwt"}).encode())
    return f"{none}.{body}.{signature}"


def access_token(txn: str = "task-1") -> str:
    """Return a genuine access token, signed with the key that also signs signals."""
    issuer = LocalIssuer(ToolPath.READ, issuer=GUARD, store=MemoryStore(), key=KEYS[GUARD], clock=lambda: NOW)
    return issuer.issue(replace(GRANT, task_id=txn)).reveal()


# --- accepted signals


async def test_a_signal_ends_what_it_names_and_is_acknowledged_with_nothing() -> None:
    revocations = RecordingRevoke()
    answer = await push(receiver(revocations), signed())
    assert (answer.status_code, answer.content) == (202, b"")
    (event,) = revocations.events
    assert (event.task_id, event.at, event.reason) == ("task-1", NOW, "stolen laptop")
    assert (event.initiating_entity, event.issuer, event.id) == ("admin", GUARD, "set-1")


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ({"format": "opaque", "id": "t"}, {"task_id": "t"}),
        ({"format": "jwt_id", "iss": GUARD, "jti": "call-1"}, {"token": IssuedId(GUARD, "call-1")}),
        ({"format": "iss_sub", "iss": GUARD, "sub": "4"}, {"user": IssuedId(GUARD, "4")}),
        (
            {
                "format": "complex",
                "session": {"format": "opaque", "id": "t"},
                "user": {"format": "iss_sub", "iss": GUARD, "sub": "4"},
                "tenant": {"format": "opaque", "id": "acme"},
            },
            {"task_id": "t", "user": IssuedId(GUARD, "4")},
        ),
        (
            {"format": "complex", "user": {"format": "iss_sub", "iss": GUARD, "sub": "4"}},
            {"user": IssuedId(GUARD, "4")},
        ),
        ({"format": "email", "email": "ada@corp.example"}, {"email": "ada@corp.example"}),
        (
            {"format": "complex", "user": {"format": "email", "email": "a@b.example"}},
            {"email": "a@b.example"},
        ),
        ({"format": "complex", "user": {"format": "opaque", "id": "4"}}, {"user": IssuedId(GUARD, "4")}),
        (
            {
                "format": "complex",
                "session": {"format": "jwt_id", "iss": GUARD, "jti": "call-1"},
                "user": {"format": "email", "email": "a@b.example"},
                "device": {"format": "iss_sub", "iss": GUARD, "sub": "laptop"},
            },
            {"token": IssuedId(GUARD, "call-1"), "email": "a@b.example"},
        ),
        (  # a part of a user's sessions that cannot be selected is all of them
            {
                "format": "complex",
                "user": {"format": "iss_sub", "iss": GUARD, "sub": "4"},
                "device": {"format": "opaque", "id": "laptop"},
            },
            {"user": IssuedId(GUARD, "4")},
        ),
        (
            {
                "format": "complex",
                "session": {"format": "uri", "uri": "urn:session:1"},
                "user": {"format": "iss_sub", "iss": GUARD, "sub": "4"},
                "tenant": {"format": "opaque", "id": "acme"},
            },
            {"user": IssuedId(GUARD, "4")},
        ),
        (
            {
                "format": "complex",
                "session": {"format": "opaque", "id": "s"},
                "user": {"format": "phone_number", "phone_number": "+12065550100"},
            },
            {"task_id": "s"},
        ),
    ],
)
async def test_each_form_of_subject_is_read(subject: Json, expected: dict[str, Any]) -> None:
    revocations = RecordingRevoke()
    assert (await push(receiver(revocations), signed(sub_id=subject))).status_code == 202
    (event,) = revocations.events
    assert {
        n: getattr(event, n) for n in ("task_id", "token", "user", "email") if getattr(event, n)
    } == expected


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_what_is_written_is_what_is_read(algorithm: Any) -> None:
    key = Signer.generate(algorithm)
    events = [
        ENDED,
        replace(ENDED, task_id=None, token=IssuedId(GUARD, "call-1"), user=None, initiating_entity="policy"),
        replace(ENDED, task_id=None, reason=""),
    ]
    for event in events:
        revocations = RecordingRevoke()
        app = receiver(revocations, sources=[Source(issuer=GUARD, keys=jwks(key))])
        token = Transmitter(URL, audience=AUDIENCE, issuer=GUARD, signer=key).sign(event)
        assert asyncio.run(push(app, token)).status_code == 202
        (read,) = revocations.events
        sent = replace(event, issuer=GUARD, id=read.id, authority=frozenset({GUARD}))
        assert read == replace(sent, transaction=event.task_id or "")
        assert SessionRevoked.of(event.handle()) == event


def test_a_set_has_no_claim_by_which_it_is_another_token() -> None:
    _, body, _ = transmitter().sign(ENDED).split(".")
    claims = json.loads(urlsafe_b64decode(body + "=="))
    assert set(claims) == {"iss", "jti", "iat", "aud", "txn", "sub_id", "events"}
    assert claims["txn"] == "task-1"
    assert set(claims["sub_id"]) == {"format", "session", "user"}


@pytest.mark.promise("signal-without-effect-told")
@pytest.mark.parametrize(
    ("type_", "level"),
    [
        ("https://schemas.openid.net/secevent/ssf/event-type/verification", "INFO"),
        ("https://schemas.openid.net/secevent/ssf/event-type/stream-updated", "INFO"),
        ("https://schemas.openid.net/secevent/caep/event-type/credential-change", "WARNING"),
        ("https://schemas.openid.net/secevent/risc/event-type/account-disabled", "WARNING"),
        ("urn:x\nline" + "y" * 5000, "WARNING"),
    ],
)
async def test_an_event_of_another_type_is_acknowledged_and_ends_nothing(
    type_: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="agentguard")
    revocations = RecordingRevoke()
    token = signed(events={type_: {}}, sub_id={"format": "email", "email": "a@example.com"})
    assert (await push(receiver(revocations), token)).status_code == 202
    assert revocations.events == []
    (record,) = [record for record in caplog.records if record.name == "agentguard"]
    assert (record.levelname, "ended nothing" in record.getMessage()) == (level, True)
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 500


# --- refused signals


KEY = KEYS[GUARD]
OTHER_KEY = Signer.generate()
IMPOSTORS: dict[str, tuple[Callable[[], str | bytes], str]] = {
    "unsigned": (unsigned, "invalid_request"),
    "unsigned, with a signature": (lambda: unsigned("AAAA"), "invalid_request"),
    "nothing": (lambda: "", "invalid_request"),
    "no token": (lambda: "hello", "invalid_request"),
    "no ascii": (lambda: "h\u00e9llo".encode(), "invalid_request"),
    "padded": (lambda: signed() + "=", "invalid_request"),
    "trailing newline": (lambda: signed() + "\n", "invalid_request"),
    "changed": (lambda: _changed(signed()), "invalid_key"),
    "unknown key": (lambda: signed(OTHER_KEY), "invalid_key"),
    "another key by a known kid": (lambda: signed(OTHER_KEY, {"kid": KEY.kid}), "invalid_key"),
    "no kid": (lambda: signed(header={"kid": ...}), "invalid_key"),
    "a kid that is no text": (lambda: signed(header={"kid": ["x"]}), "invalid_key"),
    "another algorithm": (lambda: signed(header={"alg": "EdDSA"}), "invalid_key"),
    "the key as HMAC secret": (lambda: signed(header={"alg": "HS256"}), "invalid_request"),
    "type of an access token": (lambda: signed(header={"typ": "at+jwt"}), "invalid_request"),
    "type of any token": (lambda: signed(header={"typ": "JWT"}), "invalid_request"),
    "no type": (lambda: signed(header={"typ": ...}), "invalid_request"),
    "an access token": (access_token, "invalid_request"),
    "embedded key": (lambda: signed(OTHER_KEY, {"jwk": dict(OTHER_KEY.public_jwk)}), "invalid_request"),
    "key by URL": (lambda: signed(header={"jku": "https://evil.example/jwks"}), "invalid_request"),
    "unknown crit": (lambda: signed(header={"crit": ["exp"]}), "invalid_request"),
    "issuer of another key": (lambda: signed(iss=SOC), "invalid_issuer"),
    "unknown issuer": (lambda: signed(iss="https://evil.example"), "invalid_issuer"),
    "no issuer": (lambda: signed(iss=...), "invalid_issuer"),
    "another audience": (lambda: signed(aud="https://mail.example"), "invalid_audience"),
    "several audiences without ours": (lambda: signed(aud=["a", "b"]), "invalid_audience"),
    "no audience": (lambda: signed(aud=...), "invalid_request"),
    "an audience that is no text": (lambda: signed(aud={AUDIENCE: 1}), "invalid_request"),
    "from the future": (lambda: signed(iat=NOW + 61), "invalid_request"),
    "too old": (lambda: signed(iat=NOW - 86_400 - 61), "invalid_request"),
    "no time": (lambda: signed(iat=...), "invalid_request"),
    "a time that is text": (lambda: signed(iat=str(NOW)), "invalid_request"),
    "a time that is true": (lambda: signed(iat=True), "invalid_request"),
    "no jti": (lambda: signed(jti=...), "invalid_request"),
    "empty jti": (lambda: signed(jti=""), "invalid_request"),
    "endless jti": (lambda: signed(jti="x" * 513), "invalid_request"),
    "an expiry": (lambda: signed(exp=NOW + 60), "invalid_request"),
    "a subject as of an access token": (lambda: signed(sub="user:4"), "invalid_request"),
    "no event": (lambda: signed(events={}), "invalid_request"),
    "several events": (lambda: signed(events={SESSION_REVOKED: {}, "urn:x": {}}), "invalid_request"),
    "events in a list": (lambda: signed(events=[SESSION_REVOKED]), "invalid_request"),
    "an event that is no object": (lambda: signed(events={SESSION_REVOKED: True}), "invalid_request"),
    "no subject": (lambda: signed(sub_id=...), "invalid_request"),
    "a subject that is text": (lambda: signed(sub_id="task-1"), "invalid_request"),
    "a subject of unknown form": (
        lambda: signed(sub_id={"format": "phone_number", "phone_number": "+12065550100"}),
        "invalid_request",
    ),
    "all sessions of a user of unknown form": (
        lambda: signed(
            sub_id={
                "format": "complex",
                "session": {"format": "opaque", "id": "ALL"},
                "user": {"format": "account", "uri": "acct:ada@example.com"},
            }
        ),
        "invalid_request",
    ),
    "a user of unknown form, alone": (
        lambda: signed(sub_id={"format": "complex", "user": {"format": "did", "url": "did:example:1"}}),
        "invalid_request",
    ),
    "an address that is no text": (
        lambda: signed(sub_id={"format": "email", "email": ["a@example.com"]}),
        "invalid_request",
    ),
    "a user that is malformed beside a session": (
        lambda: signed(
            sub_id={
                "format": "complex",
                "session": {"format": "opaque", "id": "task-1"},
                "user": {"format": "iss_sub", "iss": GUARD},
            }
        ),
        "invalid_request",
    ),
    "a task that is no text": (lambda: signed(sub_id={"format": "opaque", "id": 1}), "invalid_request"),
    "a task with a newline": (lambda: signed(sub_id={"format": "opaque", "id": "a\nb"}), "invalid_request"),
    "a device of nobody": (
        lambda: signed(sub_id={"format": "complex", "device": {"format": "opaque", "id": "laptop"}}),
        "invalid_request",
    ),
    "a whole tenant": (
        lambda: signed(sub_id={"format": "complex", "tenant": {"format": "opaque", "id": "acme"}}),
        "invalid_request",
    ),
    "a complex nobody": (lambda: signed(sub_id={"format": "complex"}), "invalid_request"),
    "a token of another issuer": (
        lambda: signed(sub_id={"format": "jwt_id", "iss": IDP, "jti": "x"}),
        "access_denied",
    ),
    "a user of another issuer": (
        lambda: signed(sub_id={"format": "iss_sub", "iss": IDP, "sub": "4"}),
        "access_denied",
    ),
    "a task of another issuer's user": (
        lambda: signed(
            sub_id={
                "format": "complex",
                "session": {"format": "opaque", "id": "task-1"},
                "user": {"format": "iss_sub", "iss": IDP, "sub": "4"},
            }
        ),
        "access_denied",
    ),
    "one key twice": (
        lambda: spelled(json.dumps(claims())[:-1] + ', "sub_id": {"format": "opaque", "id": "task-2"}}'),
        "invalid_request",
    ),
    "one key twice, deep inside": (
        lambda: spelled(json.dumps(claims()).replace('"id": "task-1"', '"id": "task-1", "id": "task-2"')),
        "invalid_request",
    ),
    "no JSON": (lambda: spelled("{"), "invalid_request"),
    "claims in a list": (lambda: spelled("[]"), "invalid_request"),
    "nested without end": (lambda: spelled("[" * 9000), "invalid_request"),
    "not a number": (
        lambda: spelled(json.dumps(claims()).replace(f'"iat": {NOW}', '"iat": NaN')),
        "invalid_request",
    ),
}


def _changed(token: str) -> str:
    head, body, signature = token.split(".")
    text = urlsafe_b64decode(body + "=" * (-len(body) % 4)).replace(b"task-1", b"task-2")
    return f"{head}.{b64url(text)}.{signature}"


@pytest.mark.promise("false-signal-ends-nothing")
@pytest.mark.parametrize("name", IMPOSTORS)
async def test_a_false_signal_ends_nothing_and_is_told_why_by_a_registered_code(name: str) -> None:
    make, code = IMPOSTORS[name]
    revocations = RecordingRevoke()
    answer = await push(receiver(revocations), make())
    assert (answer.status_code, answer.json()["err"]) == (400, code), answer.json()
    assert set(answer.json()) == {"err", "description"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-language"] == "en"
    assert revocations.events == []


async def test_a_spelled_signal_is_believed_when_nothing_is_wrong_with_it() -> None:
    revocations = RecordingRevoke()
    assert (await push(receiver(revocations), spelled(json.dumps(claims())))).status_code == 202
    assert len(revocations.events) == 1


@pytest.mark.parametrize("iat", [NOW - 86_400, NOW + 60])
async def test_a_signal_that_was_long_on_its_way_still_ends_a_session(iat: float) -> None:
    revocations = RecordingRevoke()
    assert (await push(receiver(revocations), signed(iat=iat))).status_code == 202
    assert [event.at for event in revocations.events] == [min(iat, NOW)]


# --- HTTP


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_only_a_post_is_a_push(method: str) -> None:
    revocations = RecordingRevoke()
    answer = await push(receiver(revocations), signed(), method=method)
    assert (answer.status_code, answer.headers["allow"], revocations.events) == (405, "POST", [])


@pytest.mark.parametrize(
    "headers",
    [
        [("x", "y")],
        [("content-type", "application/json")],
        [("content-type", "application/jwt")],
        [("content-type", "application/jwt; x=application/secevent+jwt")],
        [("content-type", "application/secevent+jwt, text/plain; charset=utf-8")],
        [("content-type", "; application/secevent+jwt")],
        [("content-type", "application/secevent+jwt"), ("content-type", "application/secevent+jwt")],
    ],
)
async def test_the_media_type_is_exact(headers: list[tuple[str, str]]) -> None:
    revocations = RecordingRevoke()
    answer = await push(receiver(revocations), signed(), headers)
    assert (answer.status_code, answer.json()["err"], revocations.events) == (400, "invalid_request", [])
    assert (
        await push(receiver(revocations), signed(), {"content-type": "Application/SecEvent+JWT"})
    ).is_success


@pytest.mark.promise("no-signal-lost-for-its-form")
@pytest.mark.parametrize("parameter", ["; charset=utf-8", ";charset=UTF-8", ' ; charset="utf-8"; x=y', ";"])
async def test_a_parameter_of_the_content_type_loses_no_signal(parameter: str) -> None:
    revocations = RecordingRevoke()
    headers = {"content-type": f"application/secevent+jwt{parameter}"}
    assert (await push(receiver(revocations), signed(), headers)).status_code == 202
    assert len(revocations.events) == 1


@pytest.mark.promise("no-signal-lost-for-its-form")
@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("policy C076E82F", "policy C076E82F"), ({"en": "stolen"}, "stolen"), ({"de": "x", "en": "y"}, "y"),
        ({"de-AT": "gestohlen"}, "gestohlen"), ({"en": "", "fr": "vol"}, "vol"), ({"en": 7, "fr": "v"}, "v"),
        ({"en": None}, ""), ({"en": {"text": "x"}}, ""), ({}, ""), (None, ""), (["stolen"], ""), (7, ""),
        (True, ""), ("two\nlines\x1b[2J", "two lines [2J"), ("x" * 5000, "x" * 512),
    ],
)  # fmt: skip
async def test_a_reason_in_any_form_loses_no_signal(reason: Json, text: str) -> None:
    revocations = RecordingRevoke()
    token = signed(events={SESSION_REVOKED: {"reason_admin": reason}})
    assert (await push(receiver(revocations), token)).status_code == 202
    assert [event.reason for event in revocations.events] == [text]


@pytest.mark.promise("no-signal-lost-for-its-form")
@pytest.mark.parametrize(
    "event",
    [
        {"initiating_entity": None}, {"initiating_entity": "Admin"}, {"initiating_entity": "me"},
        {"initiating_entity": ["admin"]}, {"initiating_entity": 7}, {"event_timestamp": "now"},
        {"event_timestamp": str(NOW)}, {"event_timestamp": -1}, {"event_timestamp": True},
        {"event_timestamp": NOW * 10**9}, {"event_timestamp": NOW * 1000}, {"event_timestamp": None},
        {"event_timestamp": [NOW]}, {"event_timestamp": 10**400}, {"reason_user": 7, "other": None},
    ],
)  # fmt: skip
async def test_an_optional_member_in_any_form_loses_no_signal(event: Json) -> None:
    revocations = RecordingRevoke()
    assert (await push(receiver(revocations), signed(events={SESSION_REVOKED: event}))).status_code == 202
    assert [(one.initiating_entity, one.at) for one in revocations.events] == [("system", NOW)]


@pytest.mark.promise("no-signal-lost-for-its-form")
async def test_two_issuers_of_which_one_begins_as_the_other_does_lose_no_signal_of_each_other() -> None:
    revocations, other = RecordingRevoke(), Signer.generate()
    longer = Source(issuer=f"{GUARD}#b", keys=jwks(other))
    app = receiver(revocations, sources=[GUARDS, longer])
    assert (await push(app, signed(jti="b#c"))).status_code == 202
    assert (await push(app, signed(other, iss=longer.issuer, jti="c"))).status_code == 202
    assert [event.issuer for event in revocations.events] == [GUARD, longer.issuer]


@pytest.mark.promise("signal-without-effect-told")
@pytest.mark.parametrize("user", [{}, {"user": {"format": "iss_sub", "iss": GUARD, "sub": "4"}}])
async def test_all_sessions_are_refused_where_only_tasks_can_be_ended(user: Json) -> None:
    store = MemoryStore(clock=lambda: NOW)
    subject = {"format": "complex", "session": {"format": "opaque", "id": "ALL"}, **user}
    app = receiver(Revocations(store, clock=lambda: NOW))
    assert (await push(app, signed(sub_id=subject, txn="ALL"))).status_code == 400
    assert not store.known(revocation_key(GUARD, "txn:ALL"))


@pytest.mark.promise("signal-without-effect-told")
@pytest.mark.parametrize(("txn", "warned"), [("s-1", False), (..., True), ("t", True), (7, True)])
async def test_a_session_that_is_not_said_to_be_a_task_is_a_warning_where_only_tasks_can_be_ended(
    txn: Json, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(clock=lambda: NOW)
    app = receiver(Revocations(store, clock=lambda: NOW))
    answer = await push(app, signed(sub_id={"format": "opaque", "id": "s-1"}, txn=txn))
    assert (answer.status_code, store.known(revocation_key(GUARD, "txn:s-1"))) == (202, True)
    assert any("ended nothing" in message for message in caplog.messages) is warned


@pytest.mark.promise("false-signal-ends-nothing")
async def test_a_huge_body_is_left_unread() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 4096
            yield b"a" * 4096

    revocations = RecordingRevoke()
    answer = await push(receiver(revocations), endless())
    assert (answer.status_code, answer.json()["err"], revocations.events) == (413, "invalid_request", [])
    assert read <= 8 * 4096


@pytest.mark.promise("false-signal-ends-nothing")
async def test_a_body_that_trickles_is_not_waited_for() -> None:
    async def slow() -> AsyncIterator[bytes]:
        for character in signed().encode():
            await asyncio.sleep(0.02)
            yield bytes([character])

    revocations = RecordingRevoke()
    started = time.monotonic()
    answer = await push(receiver(revocations, timeout=0.2), slow())
    assert (answer.status_code, answer.json()["err"], revocations.events) == (408, "invalid_request", [])
    assert time.monotonic() - started < 2


async def test_a_sender_that_goes_away_has_sent_nothing() -> None:
    replies: list[Any] = []
    parts = iter(
        [
            {"type": "http.request", "body": signed().encode(), "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Any:
        return next(parts)

    async def send(message: Any) -> None:
        replies.append(message)

    revocations = RecordingRevoke()
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", PUSH["content-type"].encode())]}
    await receiver(revocations)(scope, receive, send)
    assert (replies[0]["status"], revocations.events) == (400, [])


async def test_other_kinds_of_connections_are_served_or_closed() -> None:
    replies: list[str] = []
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        return {"type": next(messages)}

    async def send(message: Any) -> None:
        replies.append(message["type"])

    app = receiver(RecordingRevoke())
    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket"}, receive, send)
    assert replies == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


# --- the transmitter's authorization


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ([], "authentication_failed"),
        (["Bearer wrong"], "authentication_failed"),
        (["bearer s0c"], "authentication_failed"),
        (["Bearer s0c "], "authentication_failed"),
        (["Bearer s0c", "Bearer s0c"], "authentication_failed"),
        (["Bearer s\u00f6c"], "authentication_failed"),
    ],
)
async def test_a_transmitter_without_its_authorization_is_not_read(
    authorization: list[str], code: str
) -> None:
    revocations = RecordingRevoke()
    headers = [*PUSH.items(), *(("authorization", value) for value in authorization)]
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    app = receiver(revocations, sources=[SOCS])
    answer = await push(app, of_soc(), raw)
    assert (answer.status_code, answer.json()["err"], revocations.events) == (400, code, [])
    assert "s0c" not in answer.text + repr(SOCS)


async def test_a_transmitter_with_its_authorization_may_end_what_it_speaks_for() -> None:
    revocations = RecordingRevoke()
    headers = {**PUSH, "authorization": "Bearer s0c"}
    token = of_soc(sub_id={"format": "iss_sub", "iss": IDP, "sub": "4"})
    assert (await push(receiver(revocations), token, headers)).status_code == 202
    assert [(event.user, event.authority) for event in revocations.events] == [
        (IssuedId(IDP, "4"), frozenset({SOC, IDP}))
    ]


@pytest.mark.promise("false-signal-ends-nothing")
async def test_a_signal_that_another_transmitter_sends_is_refused() -> None:
    revocations = RecordingRevoke()
    app = receiver(revocations)
    answer = await push(app, of_soc())  # no authorization: it may be the guard's, and is not
    assert (answer.status_code, answer.json()["err"], revocations.events) == (400, "access_denied", [])


def test_two_sources_with_one_key_are_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="two keys have the kid"):
        receiver(RecordingRevoke(), sources=[GUARDS, replace(SOCS, keys=GUARDS.keys)])


@pytest.mark.parametrize(
    "keys",
    [{"keys": [{"kid": "x"}]}, {"keys": [dict(KEY.public_jwk)]}, {"keys": [{"kid": "x", "kty": "oct"}]}],
)
def test_a_source_with_an_unusable_key_is_a_mistake(keys: Json) -> None:
    with pytest.raises(ConfigurationError, match="unusable key"):
        receiver(RecordingRevoke(), sources=[Source(issuer=GUARD, keys=keys)])


RSA = {"kty": "RSA", "kid": "r1", "alg": "RS256", "use": "sig", "e": "AQAB", "n": "AQAB"}
OTHER_KINDS: list[dict[str, Json]] = [
    RSA,
    {**RSA, "kid": KEY.kid},  # its key id names the usable key all the same
    {"kty": "EC", "crv": "P-384", "kid": "e1", "x": "AA", "y": "AA"},
    {"kty": "OKP", "crv": "X25519", "kid": "o1", "x": "AA"},
    {**OTHER_KEY.public_jwk, "kid": OTHER_KEY.kid, "use": "enc"},
    {**OTHER_KEY.public_jwk, "kid": OTHER_KEY.kid, "key_ops": ["deriveKey"]},
    {**OTHER_KEY.public_jwk, "kid": OTHER_KEY.kid, "alg": "ECDH-ES"},
    {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
]


@pytest.mark.promise("no-signal-lost-for-its-form")
@pytest.mark.parametrize("jwk", OTHER_KINDS)
async def test_a_key_of_another_kind_keeps_no_source_from_being_heard(jwk: dict[str, Json]) -> None:
    for keys in ([jwk, *jwks(KEY)["keys"]], [*jwks(KEY)["keys"], jwk]):
        revocations = RecordingRevoke()
        app = receiver(revocations, sources=[Source(issuer=GUARD, keys={"keys": keys})])
        assert (await push(app, signed())).status_code == 202
        answer = await push(app, signed(OTHER_KEY, jti="set-2"))
        assert (answer.status_code, len(revocations.events)) == (400, 1)  # nothing is believed by it
    with pytest.raises(ConfigurationError, match="only unusable keys"):
        receiver(RecordingRevoke(), sources=[Source(issuer=GUARD, keys={"keys": [jwk]})])


@pytest.mark.parametrize(
    "jwk", [{**RSA, "d": "AQAB"}, {"kty": "oct", "kid": "x", "k": "AA"}, dict(OTHER_KEY.public_jwk), "x"]
)
def test_a_private_or_malformed_key_is_a_mistake_beside_a_usable_one(jwk: Json) -> None:
    with pytest.raises(ConfigurationError, match="unusable key"):
        receiver(RecordingRevoke(), sources=[Source(issuer=GUARD, keys={"keys": [*jwks(KEY)["keys"], jwk]})])


async def test_while_a_key_is_replaced_both_are_believed() -> None:
    revocations, new = RecordingRevoke(), Signer.generate("EdDSA")
    app = receiver(revocations, sources=[Source(issuer=GUARD, keys=jwks(KEY, new))])
    assert (await push(app, signed())).status_code == 202
    assert (await push(app, signed(new, jti="set-2"))).status_code == 202
    assert len(revocations.events) == 2


# --- a signal is acknowledged only after it was processed


@pytest.mark.promise("false-signal-ends-nothing")
async def test_a_signal_that_comes_twice_is_acknowledged_twice_and_done_once() -> None:
    revocations = RecordingRevoke()
    app = receiver(revocations)
    token = signed()
    assert [(await push(app, token)).status_code for _ in range(3)] == [202, 202, 202]
    assert len(revocations.events) == 1


async def test_replay_ids_are_an_issuers_own() -> None:
    revocations = RecordingRevoke()
    app = receiver(revocations, sources=[GUARDS, replace(SOCS, authorization=None)])
    assert (await push(app, of_soc(jti="set-1"))).status_code == 202
    assert (await push(app, signed(jti="set-1"))).status_code == 202
    assert [event.issuer for event in revocations.events] == [SOC, GUARD]


@pytest.mark.promise("signal-ends-task")
async def test_what_could_not_be_done_is_not_acknowledged_and_done_when_it_comes_again() -> None:
    revocations = RecordingRevoke()
    app = receiver(revocations)
    revocations.error = StoreError("down: password=hunter2")
    answer = await push(app, signed())
    assert (answer.status_code, answer.json()["err"]) == (503, "temporarily_unavailable")
    assert "hunter2" not in answer.text
    revocations.error = None
    assert (await push(app, signed())).status_code == 202
    assert len(revocations.events) == 1


async def test_a_revocation_that_hangs_is_not_acknowledged() -> None:
    async def hanging(_event: SessionRevoked) -> None:
        await asyncio.sleep(60)

    assert (await push(receiver(hanging, timeout=0.05), signed())).status_code == 503


@pytest.mark.promise("signal-ends-task")
@pytest.mark.parametrize("answer", [None, "yes", 1])
async def test_with_a_store_that_is_down_or_confused_nothing_is_acknowledged(answer: object) -> None:
    app = receiver(RecordingRevoke(), store=cast(Store, Down(answer)))
    assert (await push(app, signed())).status_code == 503


async def test_a_resource_servers_store_that_is_down_acknowledges_nothing() -> None:
    app = receiver(Revocations(cast(Store, Down()), clock=lambda: NOW))
    assert (await push(app, signed())).status_code == 503


async def test_what_can_never_be_done_here_is_refused_for_good() -> None:
    app = receiver(Revocations(MemoryStore(clock=lambda: NOW), clock=lambda: NOW))
    answer = await push(app, signed(sub_id={"format": "iss_sub", "iss": GUARD, "sub": "4"}))
    assert (answer.status_code, answer.json()["err"]) == (400, "invalid_request")


# --- arbitrary input


def _sound(answer: httpx.Response, revocations: RecordingRevoke) -> None:
    if answer.status_code == 202:
        assert answer.content == b""
        return
    assert answer.status_code in {400, 405, 408, 413, 503}
    assert set(answer.json()) == {"err", "description"}
    assert revocations.events == []


@pytest.mark.promise("false-signal-ends-nothing")
@settings(deadline=None, max_examples=examples(200))
@given(st.binary(max_size=300) | texts(max_size=100).map(str.encode))
def test_no_body_makes_the_receiver_answer_anything_else(body: bytes) -> None:
    revocations = RecordingRevoke()
    answer = asyncio.run(push(receiver(revocations), body))
    _sound(answer, revocations)
    assert answer.status_code == 400


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts(max_size=20)
    | st.sampled_from([GUARD, AUDIENCE, SESSION_REVOKED, "opaque", "complex", "iss_sub"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["format", "id", "iss", "sub", "jti", "session", "user", SESSION_REVOKED, "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@pytest.mark.promise("false-signal-ends-nothing")
@settings(deadline=None, max_examples=examples(300))
@given(
    st.dictionaries(
        st.sampled_from(["iss", "jti", "iat", "aud", "txn", "sub_id", "events", "exp", "sub", "x"]), VALUES
    )
)
def test_no_signed_claims_make_the_receiver_answer_anything_else(changes: dict[str, Json]) -> None:
    revocations = RecordingRevoke()
    _sound(asyncio.run(push(receiver(revocations), signed(**changes))), revocations)


@settings(deadline=None, max_examples=examples(100))
@given(st.dictionaries(st.sampled_from(["typ", "kid", "alg", "crit", "jwk", "jku", "b64", "x"]), VALUES))
def test_no_header_makes_the_receiver_answer_anything_else(changes: dict[str, Json]) -> None:
    revocations = RecordingRevoke()
    _sound(asyncio.run(push(receiver(revocations), signed(header=changes))), revocations)


# --- at a guard


@pytest.mark.promise("signal-ends-task")
async def test_a_security_teams_signal_ends_a_task_and_denies_what_comes_later(kit: Kit) -> None:
    @tool
    def get_order(order_id: str) -> str:
        """Read an order."""
        return order_id

    async def heed(event: SessionRevoked) -> None:
        await kit.guard.find(str(event.task_id)).arevoke(f"{event.issuer}: {event.reason}")

    reading, app = kit.wrap(get_order), receiver(heed)
    task = await kit.guard.task("read", subject="alice", mandate={"tools": "*"}).abegin()
    async with task.aactive():
        assert await reading.ainvoke({"order_id": "1"}) == "1"
        subject = {"format": "opaque", "id": task.id}
        answer = await push(app, of_soc(sub_id=subject), {**PUSH, "authorization": "Bearer s0c"})
        assert answer.status_code == 202
        with pytest.raises(Denied) as denied:
            await reading.ainvoke({"order_id": "1"})
    assert denied.value.code is DenialCode.TASK_ENDED
    assert task.state().status is TaskStatus.REVOKED
    assert f"{SOC}: stolen laptop" in [record.get("cause") for record in kit.audit.records()]


# --- at a resource server


PROOFS = ProofKey(clock=lambda: NOW)
READER = LocalIssuer(ToolPath.READ, issuer=GUARD, store=MemoryStore(), proof_key=PROOFS, clock=lambda: NOW)


def verifier(store: Store | None, *, signals: bool = True) -> Verifier:
    return Verifier(
        issuer=GUARD,
        keys=token_keys(READER),
        resource=ORDERS,
        store=store,
        signals=signals,
        clock=lambda: NOW,
    )


def presented(task_id: str = "task-1", id_: str = "call-1") -> dict[str, str]:
    grant = replace(GRANT, task_id=task_id, id=id_)
    return dict(READER.issue(grant).headers("GET", f"{AUDIENCE}/orders/1", None))


async def ask(mode: Mode, at: Verifier, headers: dict[str, str]) -> str:
    claims = await mode.call(at, "verify", "GET", f"{AUDIENCE}/orders/1", headers, path=ToolPath.READ)
    return str(claims.task_id)


@pytest.mark.promise("signal-without-shared-store")
async def test_a_dead_tasks_token_is_refused_and_another_tasks_is_not(mode: Mode) -> None:
    store = MemoryStore(clock=lambda: NOW)
    at, app = verifier(store), receiver(Revocations(store, clock=lambda: NOW))
    assert await ask(mode, at, presented()) == "task-1"
    assert (await push(app, transmitter().sign(ENDED))).status_code == 202
    with pytest.raises(VerificationError, match="the token is revoked"):
        await ask(mode, at, presented())
    assert await ask(mode, at, presented("task-2")) == "task-2"


async def test_one_token_can_be_ended_alone(mode: Mode) -> None:
    store = MemoryStore(clock=lambda: NOW)
    at, app = verifier(store, signals=False), receiver(Revocations(store, clock=lambda: NOW))
    killed = SessionRevoked(at=NOW, token=IssuedId(GUARD, "call-1"), initiating_entity="policy")
    assert (await push(app, transmitter().sign(killed))).status_code == 202
    with pytest.raises(VerificationError, match="the token is revoked"):
        await ask(mode, at, presented())
    assert await ask(mode, at, presented(id_="call-2")) == "task-1"


@pytest.mark.promise("false-signal-ends-nothing")
async def test_a_signal_of_another_issuer_does_not_end_our_task(mode: Mode) -> None:
    store = MemoryStore(clock=lambda: NOW)
    at = verifier(store)
    app = receiver(Revocations(store, clock=lambda: NOW), sources=[GUARDS, replace(SOCS, authorization=None)])
    assert (await push(app, of_soc())).status_code == 202  # its own task of the same name is over
    assert await ask(mode, at, presented()) == "task-1"


async def test_a_source_that_speaks_for_the_issuer_ends_its_task(mode: Mode) -> None:
    store = MemoryStore(clock=lambda: NOW)
    at = verifier(store)
    soc = replace(SOCS, authorization=None, speaks_for=frozenset({GUARD}))
    app = receiver(Revocations(store, clock=lambda: NOW), sources=[soc])
    assert (await push(app, of_soc())).status_code == 202
    with pytest.raises(VerificationError, match="the token is revoked"):
        await ask(mode, at, presented())


@pytest.mark.promise("false-signal-ends-nothing")
async def test_a_set_is_no_access_token(mode: Mode) -> None:
    token = transmitter(signer=cast(Any, READER)._signing.signer).sign(ENDED)
    proof = PROOFS.proof("GET", f"{AUDIENCE}/orders/1", access_token=token)
    with pytest.raises(VerificationError, match="another type"):
        await ask(mode, verifier(MemoryStore()), {"Authorization": f"DPoP {token}", "DPoP": proof})


async def test_with_signals_a_token_that_names_no_task_is_refused(mode: Mode) -> None:
    with pytest.raises(VerificationError, match="names no task"):
        await ask(mode, verifier(MemoryStore(clock=lambda: NOW)), presented(""))
    assert await ask(mode, verifier(MemoryStore(clock=lambda: NOW), signals=False), presented("")) == "None"


@pytest.mark.parametrize(("signals", "lookups"), [(False, 1), (True, 2)])
async def test_a_task_is_looked_up_only_where_signals_are_heard(
    mode: Mode, signals: bool, lookups: int
) -> None:
    class Counting(MemoryStore):
        lookups = 0

        def known(self, key: str) -> bool:
            Counting.lookups += 1
            return super().known(key)

    await ask(mode, verifier(Counting(clock=lambda: NOW), signals=signals), presented())
    assert Counting.lookups == lookups


def test_signals_without_a_store_are_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="signals need a store"):
        verifier(None)


# --- the transmitter


def transmitter(
    answer: Callable[[httpx.Request], httpx.Response] | None = None, **changes: Any
) -> Transmitter:
    options: dict[str, Any] = {
        "audience": AUDIENCE,
        "issuer": GUARD,
        "signer": KEY,
        "clock": lambda: NOW,
        **changes,
    }
    if answer is not None:
        transport = httpx.MockTransport(answer)
        options["http"] = Outbound(
            "signals/orders",
            AUDIENCE,
            limits=Limits(attempts=1, threshold=100),
            transport=transport,
            async_transport=transport,
        )
    return Transmitter(URL, **options)


async def test_a_signal_is_pushed_as_rfc_8935_says(mode: Mode) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(202)

    sender = transmitter(answer, authorization=Secret("Bearer s0c"))
    await mode.call(sender, "revoke", ENDED.handle(), NOW + 60)
    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", URL)
    assert request.headers["content-type"] == "application/secevent+jwt"
    assert request.headers["accept"] == "application/json"
    assert request.headers["authorization"] == "Bearer s0c"
    revocations = RecordingRevoke()
    assert (await push(receiver(revocations), request.content)).status_code == 202
    assert [event.task_id for event in revocations.events] == ["task-1"]
    assert "s0c" not in repr(sender)


@pytest.mark.promise("signal-arrives-once")
async def test_a_receiver_that_was_down_gets_the_signal_once_as_an_effect(mode: Mode) -> None:
    store, revocations = MemoryStore(clock=lambda: NOW), RecordingRevoke()
    app, tokens = receiver(revocations), list[bytes]()
    weather = ["refuses", "503", "lost", "up"]

    def answer(request: httpx.Request) -> httpx.Response:
        state = weather.pop(0)
        if state == "refuses":
            raise httpx.ConnectError("refused")
        tokens.append(request.content)
        if state == "lost":
            raise httpx.ReadTimeout("it was received, and the answer was lost")
        return httpx.Response(503 if state == "503" else 202)

    sender = transmitter(answer)
    with pytest.raises(TaskNotActive):  # a task that ended has its signal recorded all the same
        store.track(owed())
    while store.live():
        (signal,) = store.live()
        try:
            await mode.call(sender, "revoke", signal.handle, signal.expires_at)
        except IssueError:
            continue
        store.forget(signal.call_id)
    assert weather == []
    assert [(await push(app, token)).status_code for token in tokens] == [202, 202, 202]
    assert len(revocations.events) == 1


async def test_an_answer_that_was_lost_is_asked_for_again_at_once(mode: Mode) -> None:
    weather: list[Exception | httpx.Response] = [
        httpx.ReadTimeout("lost"),
        httpx.Response(500),
        httpx.Response(202),
    ]

    def answer(_request: httpx.Request) -> httpx.Response:
        if isinstance(state := weather.pop(0), Exception):
            raise state
        return state

    transport = httpx.MockTransport(answer)
    http = Outbound("signals/orders", AUDIENCE, transport=transport, async_transport=transport)
    await mode.call(transmitter(http=http), "revoke", ENDED.handle(), NOW + 60)
    assert weather == []


def owed(task_id: str = "task-1") -> LiveCredential:
    signal = replace(ENDED, task_id=task_id)
    return LiveCredential(
        call_id=f"signals/orders:{task_id}",
        task_id=task_id,
        broker="signals/orders",
        handle=signal.handle(),
        expires_at=NOW + 60,
    )


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b'{"err": "invalid_audience", "description": "s3cret"}', "answered 400 invalid_audience$"),
        (400, b'{"err": "s3cret", "description": "s3cret"}', "answered 400$"),
        (400, b'["invalid_audience"]', "answered 400$"),
        (400, b"\xff", "answered 400$"),
        (200, b"", "answered 200$"),
        (302, b"", "answered 302$"),
    ],
)
async def test_anything_but_202_is_not_delivered(mode: Mode, status: int, body: bytes, message: str) -> None:
    sender = transmitter(lambda _request: httpx.Response(status, content=body))
    with pytest.raises(IssueError, match=message):
        await mode.call(sender, "revoke", ENDED.handle(), NOW + 60)


async def test_a_signal_is_given_up_when_all_that_it_could_revoke_has_expired(mode: Mode) -> None:
    def never(_request: httpx.Request) -> httpx.Response:
        raise AssertionError("it was sent")

    await mode.call(transmitter(never), "revoke", ENDED.handle(), NOW - 60)


@pytest.mark.parametrize(
    "handle", ["", "task-1", "[]", "{}task-1", '{"at": "x"}t', '{"at": 1}', '{"at": 1}\ud800']
)
async def test_a_handle_that_is_none_sends_nothing(mode: Mode, handle: str) -> None:
    with pytest.raises(IssueError, match="the handle is not that of a signal"):
        await mode.call(transmitter(), "revoke", handle, NOW + 60)


def test_one_handle_is_one_signal_for_each_receiver_also_under_a_new_key() -> None:
    def jti(sender: Transmitter, event: SessionRevoked) -> str:
        body = sender.sign(event).split(".")[1]
        return str(json.loads(urlsafe_b64decode(body + "=="))["jti"])

    again = jti(transmitter(signer=Signer.generate()), SessionRevoked.of(ENDED.handle()))
    assert jti(transmitter(), ENDED) == again
    assert jti(transmitter(audience="https://mail.example"), ENDED) != again
    assert jti(transmitter(), replace(ENDED, task_id="task-2")) != again


def test_a_handle_without_a_task_is_the_beginning_of_that_of_any_task() -> None:
    beginning = replace(ENDED, task_id=None).handle()
    for task_id in ("task-1", "a b", '{"at": 1}', "1"):
        assert SessionRevoked.of(beginning + task_id) == replace(ENDED, task_id=task_id)


@pytest.mark.parametrize("url", ["http://orders.example/signals", "ftp://orders.example/", "orders.example"])
def test_signals_are_not_sent_unprotected(url: str) -> None:
    with pytest.raises(ConfigurationError, match="without TLS"):
        Transmitter(url, audience=AUDIENCE, issuer=GUARD, signer=KEY)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000"])
def test_on_this_machine_no_tls_is_needed(host: str) -> None:
    Transmitter(f"http://{host}/signals", audience=AUDIENCE, issuer=GUARD, signer=KEY).close()


def test_published_keys_hold_no_private_part() -> None:
    (key,) = jwks(KEY)["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
