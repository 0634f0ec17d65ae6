"""A signal counts for the users, sessions and tokens of its issuer, and a logout ends what it should."""

from __future__ import annotations

import hmac
import json
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import pytest
from jwt import PyJWK

from agentguard import Guard, ToolPath
from agentguard.catalog import Catalog
from agentguard.credentials.sealing import SealingKey
from agentguard.errors import AuditError, ConfigurationError
from agentguard.identity import LocalIdentity
from agentguard.jose import OtherKind, RsaSigner, Signer, b64url, public_key, set_key
from agentguard.model import LiveCredential
from agentguard.signals import SessionRevoked, Source, Transmitter, jwks
from agentguard.signals.events import SESSION_REVOKED
from agentguard.stores import MemoryStore
from agentguard.stores.sqlite import SqliteStore
from agentguard.tasks.task import Task
from agentguard.testing import FixedPolicy, RecordingAudit, RecordingBroker
from tests.doubles.authorization_server import AuthorizationServer, grant, user_token

US, IDP, PARTNER, SOC = (f"https://{name}.example" for name in ("guard", "login", "partner", "soc"))
UUID = "2f1c-4711"


class Keys(dict[str, Signer | RsaSigner]):
    """The key of each issuer, which is made when a test asks for it: that of RSA takes half a second."""

    def __missing__(self, issuer: str) -> Signer | RsaSigner:
        if issuer == IDP:
            return self.setdefault(issuer, RsaSigner.generate())
        return self.setdefault(issuer, Signer.generate("EdDSA" if issuer == SOC else "ES256"))


KEYS = Keys()
NAMES = {IDP: {IDP: "user:{sub}"}, PARTNER: {PARTNER: "partner:{sub}"}}


class Issuing(RecordingBroker):
    """A broker whose tokens are of an issuer."""

    issuer = IDP


class Place:
    """A guard with a user's tasks, and the sources that it trusts."""

    def __init__(self, store: Any, broker: Any = None) -> None:
        self.store, self.audit = store, RecordingAudit()
        self.broker = broker or Issuing(paths=["read"])
        self.guard = Guard(
            catalog=Catalog([]),
            policy=FixedPolicy(),
            identity=LocalIdentity("agent://a"),
            brokers={("orders", ToolPath.READ): self.broker},
            store=store,
            audit=self.audit,
        )

    def begin(self, subject: str = "user:ada", **login: str) -> Task:
        """Begin a task, whose subject token has the claims *login*; without them, none."""
        token = None
        if login:
            signer = KEYS[IDP]
            token = signer.sign(signer.head(typ="at+jwt"), {"iss": IDP, "sub": UUID, **login})
        return self.guard.task("x", subject=subject, mandate={"tools": "*"}, subject_token=token).begin()

    async def push(
        self, subject: dict[str, Any], issuer: str = IDP, signer: Any = None, **changes: Any
    ) -> int:
        """Push a signal of *issuer* about *subject*; return the status."""
        options = {"issuer": issuer, "keys": jwks(KEYS[issuer]), "subjects": NAMES.get(issuer, {}), **changes}
        app = self.guard.receiver([Source(**options)], audience="agentguard", issuer=US)
        signer, now = signer or KEYS[issuer], time.time()
        claims = {"iss": issuer, "aud": "agentguard", "iat": int(now), "jti": f"{now}", "sub_id": subject}
        token = signer.sign(
            signer.head(typ="secevent+jwt", kid=signer.kid),
            {**claims, "events": {SESSION_REVOKED: {"event_timestamp": int(now)}}},
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=US) as client:
            headers = {"Content-Type": "application/secevent+jwt"}
            return (await client.post("/signals", content=token, headers=headers)).status_code

    def active(self, *tasks: Task) -> list[bool]:
        return [task.state().status.value == "active" for task in tasks]

    @property
    def unmatched(self) -> list[dict[str, Any]]:
        return [dict(record) for record in self.audit.records() if record["event"] == "signal"]


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    place = Place(MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "state.db"))
    yield place
    place.guard.close()


def opaque(name: str) -> dict[str, Any]:
    return {"format": "opaque", "id": name}


def user(name: str = UUID, issuer: str = IDP) -> dict[str, Any]:
    return {"format": "iss_sub", "iss": issuer, "sub": name}


def token(name: str, issuer: str = IDP) -> dict[str, Any]:
    return {"format": "jwt_id", "iss": issuer, "jti": name}


def of(**members: dict[str, Any]) -> dict[str, Any]:
    return {"format": "complex", **members}


def with_credential(place: Place, task: Task, handle: str = "t-1", call_id: str = "call-1") -> None:
    """Put a live credential of the task on record, as a call that is running does."""
    row = LiveCredential(
        call_id=call_id,
        task_id=task.id,
        broker="orders/read",
        handle=handle,
        expires_at=1e12,
        owner="",
    )
    place.store.track(row)


# --- 36: another issuer's names are not ours


FOREIGN: dict[str, Callable[[Task], dict[str, Any]]] = {
    "our task by its id": lambda task: opaque(task.id),
    "our task by its id, as a session of the sender's user": lambda task: of(
        session=opaque(task.id), user=user("user:ada", PARTNER)
    ),
    "our user's name": lambda _task: user("user:ada", PARTNER),
    "our user's name, alone in a complex subject": lambda _task: of(user=user("user:ada", PARTNER)),
    "our user's name, as the sender's own id": lambda _task: of(user=opaque("user:ada")),
    "our user's name without what stands before it": lambda _task: user("ada", PARTNER),
    "our user's name at the identity provider": lambda _task: user(UUID, PARTNER),
    "our user's session": lambda _task: opaque("s-1"),
    "our user's session, of the sender's user": lambda _task: of(
        session=opaque("s-1"), user=user(UUID, PARTNER)
    ),
    "all sessions": lambda _task: of(session=opaque("ALL"), user=user("user:ada", PARTNER)),
    "our user's subject token": lambda _task: token("j-1", PARTNER),
    "the jti of a live credential": lambda _task: token("t-1", PARTNER),
    "the id of a running call": lambda _task: token("call-1", PARTNER),
    "our user's address": lambda _task: {"format": "email", "email": "user:ada"},
}


@pytest.mark.promise("signal-of-its-issuers-users")
@pytest.mark.parametrize("name", FOREIGN)
async def test_a_partners_signal_ends_no_task_of_our_users_and_is_on_record(
    place: Place, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    task = place.begin(sid="s-1", jti="j-1")
    with_credential(place, task)
    assert await place.push(FOREIGN[name](task), PARTNER) == 202
    assert place.active(task) == [True]
    (record,) = place.unmatched
    assert (record["issuer"], record["task"]) == (PARTNER, None)
    assert record["names"]
    assert any("ended nothing" in one.getMessage() for one in caplog.records if one.levelname == "WARNING")


@pytest.mark.promise("signal-of-its-issuers-users")
async def test_a_partners_signal_ends_the_tasks_of_the_partners_user(place: Place) -> None:
    theirs, ours = place.begin("partner:ada"), place.begin("user:ada")
    assert await place.push(user("ada", PARTNER), PARTNER) == 202
    assert place.active(theirs, ours) == [False, True]
    assert place.unmatched == []


@pytest.mark.promise("signal-of-its-issuers-users")
@pytest.mark.parametrize("subject", [user("user:ada", US), token("t-1", US), user(UUID, IDP), token("t-1")])
async def test_names_of_an_issuer_that_the_source_does_not_speak_for_are_refused(
    place: Place, subject: dict[str, Any]
) -> None:
    task = place.begin(sid="s-1")
    with_credential(place, task)
    assert await place.push(subject, PARTNER) == 400
    assert await place.push(of(session=opaque(task.id), user=user(issuer=US)), PARTNER) == 400
    assert place.active(task) == [True]


@pytest.mark.promise("signal-of-its-issuers-users")
@pytest.mark.parametrize("by", ["task", "user", "call", "handle"])
async def test_who_speaks_for_us_names_tasks_users_and_credentials_by_our_own_names(
    place: Place, by: str
) -> None:
    task, other = place.begin(), place.begin("user:bob")
    with_credential(place, task)
    subjects = {
        "task": opaque(task.id),
        "user": user("user:ada", US),
        "call": token("call-1", US),
        "handle": token("t-1", US),
    }
    assert await place.push(subjects[by], SOC, speaks_for=frozenset({US})) == 202
    assert place.active(task, other) == [False, True]


async def test_a_task_of_ours_that_is_over_ends_no_other_task_of_its_user(place: Place) -> None:
    task, other = place.begin(), place.begin()
    task.complete()
    for session in (opaque(task.id), opaque("gone"), token("gone", US)):
        subject = of(session=session, user=user("user:ada", US))
        assert await place.push(subject, SOC, speaks_for=frozenset({US})) == 202
    assert place.active(other) == [True]
    assert len(place.unmatched) == 3


async def test_the_jti_of_an_issuers_token_ends_the_task_that_holds_it(place: Place) -> None:
    task, other = place.begin(), place.begin()
    with_credential(place, task)
    assert await place.push(token("t-1")) == 202
    assert place.active(task, other) == [False, True]


SEAL = SealingKey(b"k" * 32)


def minted(server: AuthorizationServer, broker: Any, id: str) -> tuple[str, str]:
    """Have the real broker mint; return the handle and the token's own `jti`."""
    known = set(server.alive)
    credential = broker.issue(grant(id, subject_token=user_token(aud=server.issuer)))
    (name,) = server.alive.keys() - known
    return credential.handle, server.alive[name]["jti"]


@pytest.mark.promise("signal-names-a-minted-token")
@pytest.mark.parametrize("seal", [None, SEAL], ids=["plain", "sealed"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_the_jti_of_a_token_that_a_real_broker_has_minted_ends_the_task_that_holds_it(
    seal: SealingKey | None, restarted: bool
) -> None:
    server = AuthorizationServer("jwt", issuer=IDP)
    broker = server.broker(issuer=IDP, seal=seal)
    place = Place(MemoryStore(), server.broker(issuer=IDP, seal=seal) if restarted else broker)
    task, other = place.begin(), place.begin()
    handle, jti = minted(server, broker, "call-1")
    with_credential(place, task, handle)
    with_credential(place, other, minted(server, broker, "call-2")[0], "call-2")
    assert handle not in (jti, "call-1")
    assert await place.push(token(jti)) == 202
    assert place.active(task, other) == [False, True]
    place.guard.close()


@pytest.mark.promise("signal-names-a-minted-token")
@pytest.mark.parametrize("seal", [None, SEAL], ids=["plain", "sealed"])
async def test_the_jti_that_introspection_alone_tells_of_an_opaque_token_ends_the_task_that_holds_it(
    seal: SealingKey | None,
) -> None:
    server = AuthorizationServer("opaque", issuer=IDP)
    server.introspects = frozenset({"jti"})
    broker = server.broker(issuer=IDP, seal=seal)
    # a sealed handle tells it in another process too
    place = Place(MemoryStore(), broker if seal is None else server.broker(issuer=IDP, seal=seal))
    task, other = place.begin(), place.begin()
    handle, jti = minted(server, broker, "call-1")
    with_credential(place, task, handle)
    with_credential(place, other, minted(server, broker, "call-2")[0], "call-2")
    assert await place.push(token(jti)) == 202
    assert place.active(task, other) == [False, True]
    broker.revoke(handle, 2e12)
    assert [claims["jti"] for claims in server.alive.values()] != [jti], "and the handle revokes it"
    assert len(server.alive) == 1
    place.guard.close()


@pytest.mark.promise("signal-names-a-minted-token", "signal-of-its-issuers-users")
async def test_a_jti_counts_for_no_broker_of_another_issuer_and_no_opaque_token() -> None:
    for form in ("jwt", "opaque"):
        server = AuthorizationServer(form, issuer=PARTNER)
        broker = server.broker(issuer=PARTNER)
        place = Place(MemoryStore(), broker)
        task = place.begin()
        handle, jti = minted(server, broker, "call-1")
        with_credential(place, task, handle)
        for name in (token(jti), token(jti, US), token("None", PARTNER)):
            assert await place.push(name, IDP) in (202, 400)
        assert await place.push(token("None", PARTNER), PARTNER) == 202
        assert place.active(task) == [True]
        place.guard.close()


@pytest.mark.promise("signal-names-a-minted-token")
async def test_a_broker_that_cannot_say_which_token_a_handle_is_for_hides_no_other_one() -> None:
    class Unsure(Issuing):
        def jti_of(self, handle: str) -> str | None:
            if handle == "bad":
                raise ValueError(handle)
            return handle.removeprefix("handle-of-")

    place = Place(MemoryStore(), Unsure(paths=["read"]))
    tasks = [place.begin(), place.begin()]
    for task, handle in zip(tasks, ("bad", "handle-of-t-7"), strict=True):
        with_credential(place, task, handle, f"call-{handle}")
    assert await place.push(token("t-7")) == 202
    assert place.active(*tasks) == [True, False]
    place.guard.close()


@pytest.mark.promise("signal-without-effect-told")
async def test_a_signal_that_cannot_be_put_on_record_is_not_acknowledged(place: Place) -> None:
    place.audit.error = AuditError("the disk is full")
    assert await place.push(user("nobody")) == 503
    place.audit.error = None
    assert await place.push(user("nobody")) == 202
    assert [record["names"] for record in place.unmatched] == [{"user": [IDP, "nobody"]}]


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        ({"https://other.example": "{sub}"}, "does not speak for"),
        ({IDP: "user:"}, "does not say"),
        ({IDP: "{sub}{email}"}, "does not say"),
        ({IDP: "{name}"}, "does not say"),
        ({IDP: "{sub"}, "does not say"),
    ],
)
def test_a_table_of_names_that_says_nothing_is_a_mistake(subjects: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Source(issuer=IDP, keys=jwks(KEYS[IDP]), subjects=subjects)


# --- 30: an identity provider's logout


@pytest.mark.promise("logout-ends-tasks")
@pytest.mark.parametrize("mapped", [True, False])
async def test_a_logout_ends_the_tasks_of_that_session_and_those_of_no_known_session(
    place: Place, mapped: bool
) -> None:
    ada = f"user:{UUID}"
    logins: list[dict[str, str]] = [{"sid": "s-1"}, {"sid": "s-2"}, {"jti": "j"}, {}]
    tasks = [place.begin(ada, **login) for login in logins]
    bob = place.begin("user:bob", sid="s-3", sub="bob")
    child = tasks[0].narrow("a part").begin()
    names = {IDP: "user:{sub}"} if mapped else {}
    assert await place.push(of(user=user(), session=opaque("s-1")), subjects=names) == 202
    # a task without a subject token is known by its subject alone
    assert place.active(*tasks, bob, child) == [False, True, False, not mapped, True, False]


@pytest.mark.promise("logout-ends-tasks")
@pytest.mark.parametrize("session", ["ALL", "unknown", "s-9"])
@pytest.mark.parametrize("wholly", [True, False])
async def test_all_sessions_or_an_unknown_one_end_all_tasks_of_the_user(
    place: Place, session: str, wholly: bool
) -> None:
    tasks = [place.begin(sid="s-1"), place.begin(sid="s-2"), place.begin(jti="j")]
    unknown = place.begin(f"user:{UUID}")  # without a subject token: its subject alone tells
    bob = place.begin("user:bob", sid="s-3", sub="bob")
    over = place.begin(sid="s-9")
    over.complete()
    more = {"device": opaque("laptop"), "tenant": opaque("acme")} if wholly else {}
    assert await place.push(of(user=user(), session=opaque(session), **more)) == 202
    assert place.active(*tasks, unknown, bob) == [False, False, False, False, True]
    assert place.unmatched == []


@pytest.mark.promise("logout-ends-tasks")
async def test_the_session_all_is_all_also_where_a_task_is_of_a_session_of_that_name(place: Place) -> None:
    tasks = [place.begin(sid="ALL"), place.begin(sid="s-2")]
    assert await place.push(of(user=user(), session=opaque("ALL"))) == 202
    assert place.active(*tasks) == [False, False]


@pytest.mark.promise("logout-ends-tasks")
@pytest.mark.parametrize(
    ("subject", "ended"),
    [
        (opaque("s-1"), [True, False, False]),
        (token("j-2"), [False, True, False]),
        (user(), [True, True, False]),
        (of(user=user(), device=opaque("laptop")), [True, True, False]),
        (of(user=user("bob")), [False, False, True]),
        (of(user=user(), session=token("j-1")), [True, False, False]),
        (of(user=user(), session=token("unknown")), [True, True, False]),
        (of(user=user(), session={"format": "uri", "uri": "urn:x"}), [True, True, False]),
    ],
)
async def test_a_login_is_known_by_each_of_its_names(
    place: Place, subject: dict[str, Any], ended: list[bool]
) -> None:
    tasks = [
        place.begin(sid="s-1", jti="j-1"),
        place.begin(sid="s-2", jti="j-2"),
        place.begin("user:bob", sid="s-3", sub="bob"),
    ]
    assert await place.push(subject, subjects={}) == 202
    assert [not active for active in place.active(*tasks)] == ended


UNREAD: list[dict[str, Any]] = [
    {"format": "account", "uri": "acct:ada@login.example"},
    {"format": "phone_number", "phone_number": "+4912345"},
    {"format": "did", "url": "did:example:1"},
    {"format": "aliases", "identifiers": [{"format": "did", "url": "did:example:1"}]},
]


@pytest.mark.promise("logout-ends-tasks")
@pytest.mark.parametrize("whom", UNREAD)
@pytest.mark.parametrize(
    ("session", "status", "ended"),
    [(opaque("ALL"), 400, False), (opaque("unknown"), 400, False), (token("unknown"), 400, False),
     (None, 400, False), (opaque("s-1"), 202, True), (token("j-1"), 202, True)],
)  # fmt: skip
async def test_a_user_in_an_unknown_format_is_refused_where_nothing_else_says_what_ends(
    place: Place, session: dict[str, Any] | None, whom: dict[str, Any], status: int, ended: bool
) -> None:
    task = place.begin(sid="s-1", jti="j-1")
    subject = of(user=whom) if session is None else of(session=session, user=whom)
    assert await place.push(subject) == status
    assert place.active(task) == [not ended]


@pytest.mark.promise("logout-ends-tasks")
@pytest.mark.parametrize(
    "identifiers",
    [
        [user()],
        [{"format": "did", "url": "did:example:1"}, user()],
        [user("ada", PARTNER), user()],
        [{"format": "email", "email": "nobody@corp.example"}, user()],
        [opaque(UUID)],
    ],
)
@pytest.mark.parametrize("where", ["alone", "user", "ALL", "unknown"])
async def test_a_user_of_several_names_is_known_by_each(
    place: Place, identifiers: list[dict[str, Any]], where: str
) -> None:
    task, bob = place.begin(sid="s-1"), place.begin("user:bob", sub="bob")
    aliases = {"format": "aliases", "identifiers": identifiers}
    subjects = {"alone": aliases, "user": of(user=aliases)}
    assert await place.push(subjects.get(where, of(session=opaque(where), user=aliases))) == 202
    assert place.active(task, bob) == [False, True]


@pytest.mark.promise("logout-ends-tasks")
async def test_a_session_is_found_beside_our_own_name_of_the_user(place: Place) -> None:
    tasks = [place.begin(sid="s-1"), place.begin(sid="s-2"), place.begin()]
    bob = place.begin("user:bob", sub="bob", sid="s-3")
    subject = of(session=opaque("s-1"), user=user("user:ada", US))
    assert await place.push(subject, SOC, speaks_for=frozenset({US})) == 202
    assert place.active(*tasks) == [True, True, True]  # the source does not speak for the session's issuer
    assert await place.push(subject, SOC, speaks_for=frozenset({IDP, US})) == 202
    assert place.active(*tasks, bob) == [False, True, False, True]


@pytest.mark.promise("logout-ends-tasks")
async def test_an_address_ends_the_tasks_of_whom_it_names_here(place: Place) -> None:
    ada, bob = place.begin("mail:ada@corp.example"), place.begin("mail:bob@corp.example")
    address = {"format": "email", "email": "Ada@Corp.example"}
    assert await place.push(address, subjects={}) == 202
    assert place.active(ada, bob) == [True, True]
    assert [record["names"] for record in place.unmatched] == [{"user": "Ada@Corp.example"}]
    session = of(user=address, session=opaque("s-unknown"))
    assert await place.push(session, subjects={IDP: "mail:{email}"}) == 202
    assert place.active(ada, bob) == [False, True]


@pytest.mark.promise("logout-ends-tasks")
@pytest.mark.parametrize(
    ("here", "named"),
    [
        ("Ada@Corp.example", "ada@corp.example"),
        ("ada@corp.example", "Ada@CORP.Example"),
        ("jose\u0301@corp.example", "Jos\u00e9@corp.example"),
        ("stra\u00dfe@corp.example", "STRASSE@corp.example"),
        ("ada@xn--mnchen-3ya.example", "ada@M\u00fcnchen.example"),
        ("ada@b\u00fccher.example", "ADA@XN--BCHER-KVA.example"),
        ("ada@xn--\u00fc.example", "ADA@xn--\u00fc.example"),
    ],
)
async def test_an_address_in_another_spelling_names_the_same_user(
    place: Place, here: str, named: str
) -> None:
    task, bob = place.begin(f"user:{here}"), place.begin(f"user:x{here}")
    assert await place.push({"format": "email", "email": named}, subjects={IDP: "user:{email}"}) == 202
    assert place.active(task, bob) == [False, True]


async def test_a_name_that_is_no_address_counts_in_its_own_spelling_alone(place: Place) -> None:
    task = place.begin("user:ADA")
    assert await place.push(user("ada")) == 202
    assert place.active(task) == [True]


async def test_a_task_that_begins_in_another_is_of_its_own_login_or_else_of_that_ones(place: Place) -> None:
    parent = place.begin(sid="s-1")
    with parent.active():
        plain, other = place.begin(), place.begin(sid="s-2")
    assert plain.state().login == parent.narrow().begin().state().login == parent.state().login
    assert await place.push(opaque("s-2")) == 202
    assert place.active(parent, plain, other) == [True, True, False]
    assert await place.push(opaque("s-1")) == 202
    assert place.active(parent, plain) == [False, False]


async def test_an_opaque_subject_token_names_no_login(place: Place) -> None:
    for text in ("opaque", "a.b.c", "e30.e30.x", "e30.eyJpc3MiOjF9.x"):
        task = place.guard.task("x", subject="u", mandate={"tools": "*"}, subject_token=text).begin()
        assert task.state().login is None


async def test_a_task_of_another_process_ends_too(tmp_path: Path) -> None:
    first, second = (Place(SqliteStore(tmp_path / "state.db")) for _ in range(2))
    task, other = first.begin(sid="s-1"), first.begin(sid="s-2")
    assert await second.push(opaque("s-1")) == 202
    assert first.active(task, other) == [False, True]
    for place in (first, second):
        place.guard.close()


# --- RS256, which the CAEP Interoperability Profile demands


@pytest.mark.promise("signals-with-rs256")
def test_a_receiver_that_knows_rs256_alone_verifies_what_is_sent() -> None:
    signer = RsaSigner.generate()
    sender = Transmitter("https://shop.example/signals", audience="shop", issuer=US, signer=signer)
    event = SessionRevoked(at=1.0, task_id="t", reason="stolen laptop")
    (key,) = jwks(signer)["keys"]
    header = jwt.get_unverified_header(set_ := sender.sign(event))
    assert header == {"alg": "RS256", "typ": "secevent+jwt", "kid": key["kid"]}
    claims = jwt.decode(set_, PyJWK(key).key, algorithms=["RS256"], audience="shop")
    assert claims["events"][SESSION_REVOKED]["reason_admin"] == {"en": "stolen laptop"}
    assert set(key) == {"kty", "n", "e", "kid", "alg", "use"}
    assert repr(signer) == f"<RsaSigner {signer.kid}>"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(signer)


@pytest.mark.promise("signals-with-rs256")
@pytest.mark.parametrize("bits", [1024, 8200])
def test_an_rsa_key_that_is_too_short_or_too_long_is_no_key(bits: int) -> None:
    modulus = (1 << (bits - 1)) | 1
    jwk = {
        "kty": "RSA",
        "kid": "r",
        "n": b64url(modulus.to_bytes(bits // 8, "big")),
        "e": "AQAB",
    }
    with pytest.raises(OtherKind, match="2048 to 8192"):
        set_key(jwk)


@pytest.mark.promise("signals-with-rs256")
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"alg": "PS256"}, OtherKind),
        ({"alg": "RSA-OAEP"}, OtherKind),
        ({"use": "enc"}, OtherKind),
        ({"e": "Aw"}, OtherKind),
        ({"d": "AQAB"}, ValueError),
        ({"n": 5}, ValueError),
        ({"n": "x="}, ValueError),
    ],
)
def test_an_rsa_key_is_for_rs256_signatures_alone(change: dict[str, Any], kind: type[Exception]) -> None:
    jwk = {**jwks(KEYS[IDP])["keys"][0]}
    assert set_key(jwk).algorithm_name == "RS256"
    with pytest.raises(kind):
        set_key({**jwk, **change})
    with pytest.raises(OtherKind):
        public_key(jwk)  # no access token and no proof is verified by it


@pytest.mark.promise("signals-with-rs256")
async def test_a_signal_is_verified_by_the_algorithm_of_its_key(place: Place) -> None:
    task = place.begin(sid="s-1")
    good = KEYS[IDP]
    for forger in (RsaSigner.generate(), Signer.generate(), HmacSigner(jwks(good)["keys"][0]["n"])):
        assert await place.push(opaque("s-1"), signer=named(forger, good.kid)) == 400
    assert place.active(task) == [True]
    assert await place.push(opaque("s-1")) == 202
    assert place.active(task) == [False]


class HmacSigner:
    """Signs with a public key as if it were a secret."""

    algorithm = "RS256"

    def __init__(self, secret: str) -> None:
        self.secret, self.kid = secret, ""

    def head(self, **members: Any) -> str:
        return b64url(json.dumps({"alg": "HS256", **members}).encode())

    def sign(self, head: str, claims: Any) -> str:
        message = f"{head}.{b64url(json.dumps(claims).encode())}"
        return f"{message}.{b64url(hmac.digest(self.secret.encode(), message.encode(), 'sha256'))}"


def named(signer: Any, kid: str) -> Any:
    """Return a signer under another's key id."""
    return SimpleNamespace(head=signer.head, sign=signer.sign, kid=kid)


# --- agentguard.toml


@pytest.mark.promise("signal-of-its-issuers-users")
@pytest.mark.parametrize("named_issuer", [None, "https://guard.corp.example"])
async def test_the_file_names_the_sources_and_whom_they_may_end(
    tmp_path: Path, named_issuer: str | None
) -> None:
    own = named_issuer or "https://agentguard.local"
    for issuer, file in ((IDP, "login.json"), (SOC, "soc.json")):
        (tmp_path / file).write_text(json.dumps(jwks(KEYS[issuer])))
    (tmp_path / "agentguard.toml").write_text(f"""
[issuer]
issuer = "{own}"

[sources.login]
issuer = "{IDP}"
keys = "login.json"
subjects = {{ "{IDP}" = "user:{{sub}}" }}

[sources.team]
issuer = "{SOC}"
keys = "soc.json"
speaks_for = ["{own}"]
authorization = "env:TEAM_HEADER"
""")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEAM_HEADER", "Bearer t3am")
        guard = Guard.from_file(tmp_path / "agentguard.toml")
    tasks = [guard.task("x", subject=f"user:{n}", mandate={"tools": "*"}).begin() for n in ("ada", "bob")]
    app = guard.receiver(audience="agentguard")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=US) as client:
        for issuer, subject, header, ended in (
            (IDP, opaque(tasks[1].id), "", []),
            (IDP, user("ada"), "", [tasks[0]]),
            (SOC, opaque(tasks[1].id), "Bearer t3am", tasks),
        ):
            signer, now = KEYS[issuer], time.time()
            claims = {"iss": issuer, "aud": "agentguard", "iat": int(now), "jti": f"{now}", "sub_id": subject}
            head = signer.head(typ="secevent+jwt", kid=signer.kid)
            token_ = signer.sign(head, {**claims, "events": {SESSION_REVOKED: {}}})
            headers = {"Content-Type": "application/secevent+jwt", "Authorization": header}
            answer = await client.post("/signals", content=token_, headers=headers)
            assert answer.status_code == 202, answer.text
            assert [task for task in tasks if task.state().status.value != "active"] == ended
    guard.close()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('issuer = "https://a.example"', "sources.login.keys"),
        ('issuer = "https://a.example"\nkeys = "absent.json"', "JWK Set cannot be read"),
        ('issuer = "https://a.example"\nkeys = "bad.json"', "JWK Set cannot be read"),
        (
            'issuer = "https://a.example"\nkeys = "keys.json"\nsubjects = { "https://b.example" = "{sub}" }',
            "does not speak for",
        ),
    ],
)
def test_a_source_that_cannot_be_used_is_an_error_with_its_line(
    tmp_path: Path, table: str, message: str
) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "keys.json").write_text(json.dumps(jwks(KEYS[IDP])))
    (tmp_path / "agentguard.toml").write_text(f"[sources.login]\n{table}\n")
    with pytest.raises(ConfigurationError, match=message) as error:
        Guard.from_file(tmp_path / "agentguard.toml")
    assert error.value.file is not None


@pytest.mark.promise("signals-with-rs256")
def test_a_receiver_of_the_file_gets_rs256_where_it_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "agentguard.toml"
    path.write_text(
        '[signals.shop]\nurl = "https://shop.example/signals"\naudience = "shop"\n'
        'key = "signals.pem"\nalgorithm = "RS256"\n'
    )
    kids = set[str]()
    for _ in range(2):
        guard = Guard.from_file(path)
        (sender,) = guard.enforcement.ports.signals.values()
        header = jwt.get_unverified_header(sender.sign(SessionRevoked(at=1.0, task_id="t")))  # type: ignore[attr-defined]  # a Transmitter
        assert header["alg"] == "RS256"
        kids.add(header["kid"])
        guard.close()
    assert len(kids) == 1
    assert (tmp_path / "signals.pem").stat().st_mode & 0o777 == 0o600
