"""The guard tells resource servers whether a token is active, and tells nobody anything else."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentguard import Guard
from agentguard.config import build, load
from agentguard.credentials.callers import Caller
from agentguard.credentials.introspection import IntrospectionEndpoint
from agentguard.credentials.key_folder import KeyFolder
from agentguard.credentials.key_ring import KeyRing
from agentguard.credentials.local_issuer import LocalIssuer, jwks
from agentguard.credentials.oauth import PrivateKeyJwt
from agentguard.errors import ConfigurationError, StoreError, VerificationError
from agentguard.jose import Signer
from agentguard.model import Arguments, Credential, Grant, Identity, Resource, Secret, TaskStatus, ToolPath
from agentguard.resource import Introspection, KeySource, Verifier
from agentguard.stores.memory import MemoryStore
from agentguard.testing.samples import sample_task
from tests.conftest import Kit, Mode

NOW = 1_700_000_000.0
ISSUER = "https://guard.example"
ASK = "https://guard.example/introspect"
ORDERS = Resource(name="orders", origins=("https://orders.example",))
PAYMENTS = Resource(name="payments", origins=("https://payments.example",))
URL = "https://orders.example/orders/4711"
SECRET = "a-secret-of-the-orders-api"
BEARER = {"Authorization": f"Bearer {SECRET}"}
KEY = Signer.generate()
GRANT = Grant(
    id="call-1",
    task_id="task-1",
    identity=Identity(subject="user:4", actor="agent://support"),
    tool="get_order",
    path=ToolPath.READ,
    resource=ORDERS,
    scopes=frozenset({"orders:read"}),
    digest=Arguments.of({"order_id": "4711"}).digest,
    lifetime=60.0,
)


class Bridge(httpx.BaseTransport):
    """Sends a synchronous client's requests to an ASGI application, on a loop in another thread."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        responses: list[httpx.Response] = []

        async def send() -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app)) as client:
                response = await client.request(
                    request.method, request.url, content=request.read(), headers=request.headers
                )
                responses.append(httpx.Response(response.status_code, content=response.content))

        thread = threading.Thread(target=lambda: asyncio.run(send()))
        thread.start()
        thread.join()
        return responses[0]


class Agent:
    """The agent's side: issuers, a store with one task, and the endpoint."""

    def __init__(self, **changes: Any) -> None:
        self.now = NOW
        self.store: Any = MemoryStore(clock=self.clock)
        self.store.create_task(sample_task(deadline=NOW + 600))
        self.issuers = {
            path: LocalIssuer(path, issuer=ISSUER, store=self.store, clock=self.clock) for path in ToolPath
        }
        callers = changes.pop(
            "callers", [Caller(name="orders-api", resources=(ORDERS,), bearer=Secret(SECRET))]
        )
        options = {"store": self.store, "clock": self.clock, **changes}
        self.app = IntrospectionEndpoint(self.issuers.values(), callers, **options)

    def clock(self) -> float:
        return self.now

    def issue(self, **changes: Any) -> Credential:
        grant = replace(GRANT, **changes)
        return self.issuers[grant.path].issue(grant)

    async def ask(
        self, token: str | None, headers: Mapping[str, str] = BEARER, method: str = "POST", **form: str
    ) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app)) as client:
            data = {**({} if token is None else {"token": token}), **form}
            return await client.request(method, ASK, data=data, headers=headers)

    def client(self, mode: Mode) -> Any:
        if mode.asynchronous:
            return httpx.AsyncClient(transport=httpx.ASGITransport(self.app))
        return httpx.Client(transport=Bridge(self.app))

    def verifier(self, mode: Mode, **changes: Any) -> Verifier:
        introspection = Introspection(ASK, self.client(mode), proof=lambda: ({}, BEARER))
        options = {"store": MemoryStore(clock=self.clock), "introspection": introspection, **changes}
        keys = jwks(*self.issuers.values())
        return Verifier(issuer=ISSUER, keys=keys, resource=ORDERS, clock=self.clock, **options)


def headers(credential: Credential) -> dict[str, str]:
    return dict(credential.headers("GET", URL, None))


@pytest.mark.promise("introspection-at-once")
@pytest.mark.parametrize("store", ["none", "memory"])
async def test_a_revoked_token_is_refused_at_the_next_request(mode: Mode, store: str) -> None:
    agent = Agent()
    changes = {"store": None} if store == "none" else {}
    api, credential = agent.verifier(mode, **changes), agent.issue()
    for _ in range(2):
        claims = await mode.call(api, "verify", "GET", URL, headers(credential), path=ToolPath.READ)
    assert claims.id == "call-1"
    await mode.call(agent.issuers[ToolPath.READ], "revoke", "call-1", credential.expires_at)
    with pytest.raises(VerificationError, match="revoked"):
        await mode.call(api, "verify", "GET", URL, headers(credential), path=ToolPath.READ)


@pytest.mark.promise("introspection-at-once")
async def test_a_token_is_refused_as_soon_as_its_task_is_over(mode: Mode) -> None:
    agent = Agent()
    api, credential = agent.verifier(mode), agent.issue()
    await mode.call(api, "verify", "GET", URL, headers(credential), path=ToolPath.READ)
    agent.store.end_task("task-1", TaskStatus.COMPLETED)
    with pytest.raises(VerificationError, match="revoked"):
        await mode.call(api, "verify", "GET", URL, headers(credential), path=ToolPath.READ)


@pytest.mark.promise("introspection-at-once")
async def test_while_the_guards_store_does_not_answer_each_request_is_refused(mode: Mode) -> None:
    class Down:
        inline = True

        def known(self, _key: str) -> bool:
            raise StoreError("down")

        remember, task = known, known

    agent = Agent(store=Down())
    api, credential = agent.verifier(mode), agent.issue()
    with pytest.raises(VerificationError) as caught:
        await mode.call(api, "verify", "GET", URL, headers(credential), path=ToolPath.READ)
    assert caught.value.status == 503


async def test_a_replayed_proof_is_refused_by_the_verifiers_own_memory(mode: Mode) -> None:
    agent = Agent()
    api, credential = agent.verifier(mode), agent.issue()
    presented = headers(credential)
    await mode.call(api, "verify", "GET", URL, presented, path=ToolPath.READ)
    with pytest.raises(VerificationError, match="used before"):
        await mode.call(api, "verify", "GET", URL, presented, path=ToolPath.READ)


async def test_an_active_token_is_described_as_rfc_7662_says() -> None:
    agent = Agent()
    answer = await agent.ask(agent.issue().reveal())
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    assert content["active"] is True
    assert content["token_type"] == "DPoP"
    names = ("iss", "sub", "client_id", "aud", "scope", "jti", "txn", "exp", "iat")
    assert {name: content[name] for name in names} == {
        "iss": ISSUER,
        "sub": "user:4",
        "client_id": "agent://support",
        "aud": ORDERS.audience(ToolPath.READ),
        "scope": "orders:read",
        "jti": "call-1",
        "txn": "task-1",
        "exp": int(NOW + 60),
        "iat": int(NOW),
    }
    assert set(content["cnf"]) == {"jkt"}
    assert content["authorization_details"][0]["tool"] == "get_order"


def forged(agent: Agent) -> str:
    other = LocalIssuer(ToolPath.READ, issuer=ISSUER, store=MemoryStore(), clock=agent.clock)
    return other.issue(GRANT).reveal()


def of_the_wrong_path(agent: Agent) -> str:
    issuer = agent.issuers[ToolPath.WRITE]
    claims = issuer._claims(GRANT, NOW)  # signed with the WRITE key, for the audience of the READ path
    return issuer._signing.signer.sign(issuer._signing.head, claims)


def revoked(agent: Agent) -> str:
    agent.issuers[ToolPath.READ].revoke("call-1", NOW + 60)
    return agent.issue().reveal()


def expired(agent: Agent) -> str:
    token = agent.issue().reveal()
    agent.now += 60
    return token


def of_an_ended_task(agent: Agent) -> str:
    agent.store.end_task("task-1", TaskStatus.REVOKED)
    return agent.issue().reveal()


def of_another_type(agent: Agent) -> str:
    signing = agent.issuers[ToolPath.READ]._signing
    claims = agent.issuers[ToolPath.READ]._claims(GRANT, NOW)
    return signing.signer.sign(signing.signer.head(typ="JWT", kid=signing.signer.kid), claims)


INACTIVE: dict[str, Callable[[Agent], str]] = {
    "forged": forged,
    "revoked": revoked,
    "expired": expired,
    "of another resource": lambda agent: agent.issue(resource=PAYMENTS).reveal(),
    "of the wrong path": of_the_wrong_path,
    "of an ended task": of_an_ended_task,
    "of an unknown task": lambda agent: agent.issue(task_id="task-2").reveal(),
    "of another type": of_another_type,
    "a proof": lambda agent: headers(agent.issue())["DPoP"],
    "opaque": lambda _agent: "opaque",
    "changed": lambda agent: agent.issue().reveal()[:-4] + "AAAA",
    "no text": lambda _agent: "\x00\ud7ff",
    "long": lambda _agent: "a" * 20_000,
}


@pytest.mark.promise("introspection-tells-little")
@pytest.mark.parametrize("name", INACTIVE)
async def test_what_is_not_active_for_the_caller_is_inactive_and_no_more(name: str) -> None:
    agent = Agent()
    answer = await agent.ask(INACTIVE[name](agent))
    assert (answer.status_code, answer.content) == (200, b'{"active": false}')
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.promise("rotation-refuses-nothing")
async def test_a_token_that_another_worker_has_signed_with_a_new_key_is_active(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path)
    folder.prepare()

    def ring() -> LocalIssuer:
        keys = KeyRing(folder, ToolPath.READ)
        return LocalIssuer(ToolPath.READ, issuer=ISSUER, store=agent.store, key=keys, clock=agent.clock)

    agent = Agent()
    caller = Caller(name="orders-api", resources=(ORDERS,), bearer=Secret(SECRET))
    agent.app = IntrospectionEndpoint([ring()], [caller], store=agent.store, clock=agent.clock)
    old = ring().issue(GRANT).reveal()
    folder.rotate(NOW, now=NOW)
    agent.now += 1
    for token in (old, ring().issue(GRANT).reveal()):
        assert (await agent.ask(token)).json()["active"] is True


@pytest.mark.promise("removed-keys-verify-nothing")
async def test_no_token_of_a_key_that_was_removed_is_active_though_the_key_was_in_use(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path)
    folder.prepare()
    agent = Agent()
    caller = Caller(name="orders-api", resources=(ORDERS,), bearer=Secret(SECRET))

    def issuer() -> LocalIssuer:
        keys = KeyRing(folder, ToolPath.READ)
        return LocalIssuer(ToolPath.READ, issuer=ISSUER, store=agent.store, key=keys, clock=agent.clock)

    agent.app = IntrospectionEndpoint([issuer()], [caller], store=agent.store, clock=agent.clock)
    thief = issuer()
    thief._ring = None  # the thief goes on with the key
    assert (await agent.ask(thief.issue(GRANT).reveal())).json()["active"] is True
    folder.rotate(NOW, now=NOW)
    agent.now += 100
    folder.prune(now=agent.now, lifetime=10)
    token = thief.issue(replace(GRANT, id="forged")).reveal()
    assert (await agent.ask(token)).json() == {"active": False}
    honest = issuer().issue(replace(GRANT, id="honest")).reveal()
    assert (await agent.ask(honest)).json()["active"] is True


@pytest.mark.promise("introspection-tells-little")
@pytest.mark.parametrize(
    "presented",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {SECRET}"},
        {"Authorization": SECRET},
        {"Authorization": f"Bearer {SECRET}x"},
        {"Authorization": f"Bearer {SECRET[:-1]}"},
    ],
)
async def test_others_than_the_callers_are_told_nothing(presented: Mapping[str, str]) -> None:
    agent = Agent()
    answer = await agent.ask(agent.issue().reveal(), presented)
    assert answer.status_code == 401
    assert answer.json()["error"] == "invalid_client"
    assert "www-authenticate" in answer.headers
    assert "user:4" not in answer.text


def asserting(**changes: Any) -> Agent:
    keys = {"keys": [{**KEY.public_jwk, "kid": KEY.kid}]}
    return Agent(callers=[Caller(name="orders-api", resources=(ORDERS,), keys=keys)], **changes)


def assertion(agent: Agent, **changes: Any) -> dict[str, str]:
    """Return the form members of a client assertion; *changes* are of its claims, or `key`, `typ`, `kid`."""
    key, typ = changes.pop("key", KEY), changes.pop("typ", "client-authentication+jwt")
    claims = {
        "iss": "orders-api",
        "sub": "orders-api",
        "aud": ISSUER,
        "iat": int(agent.now),
        "exp": int(agent.now) + 60,
        "jti": "assertion-1",
        **changes,
    }
    head = key.head(typ=typ, kid=changes.get("kid", KEY.kid))
    return {
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": key.sign(
            head, {name: claim for name, claim in claims.items() if claim is not ...}
        ),
    }


async def test_a_caller_proves_itself_with_its_key(mode: Mode) -> None:
    agent = asserting()
    prove = PrivateKeyJwt("orders-api", KEY, clock=agent.clock).prove(ISSUER)
    api = agent.verifier(mode, introspection=Introspection(ASK, agent.client(mode), proof=prove))
    credential = agent.issue()
    for _ in range(2):
        await mode.call(api, "verify", "GET", URL, headers(credential), path=ToolPath.READ)


@pytest.mark.promise("introspection-bounded")
async def test_an_assertion_is_accepted_once() -> None:
    agent = asserting()
    form, token = assertion(agent), agent.issue().reveal()
    assert (await agent.ask(token, {}, **form)).status_code == 200
    assert (await agent.ask(token, {}, **form)).status_code == 401


@pytest.mark.promise("introspection-bounded")
@pytest.mark.parametrize(
    "changes",
    [
        {"key": Signer.generate()},
        {"iss": "payments-api"},
        {"sub": "payments-api"},
        {"sub": ...},
        {"aud": "https://other.example"},
        {"aud": [ISSUER, "https://other.example"]},
        {"aud": ...},
        {"exp": NOW - 6},
        {"exp": NOW + 3_600},
        {"exp": ...},
        {"iat": NOW + 60},
        {"jti": ...},
        {"jti": ""},
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"kid": "unknown"},
    ],
)
async def test_an_assertion_that_is_not_this_callers_for_this_guard_now_is_none(
    changes: dict[str, Any],
) -> None:
    agent = asserting()
    answer = await agent.ask(agent.issue().reveal(), {}, **assertion(agent, **changes))
    assert answer.status_code == 401


async def test_a_request_that_proves_itself_in_two_ways_or_as_two_clients_is_refused() -> None:
    agent = asserting()
    token = agent.issue().reveal()
    assert (await agent.ask(token, BEARER, **assertion(agent))).status_code == 400
    assert (await agent.ask(token, {}, client_id="other", **assertion(agent))).status_code == 401
    assert (await agent.ask(token, {}, client_id="orders-api", **assertion(agent))).status_code == 200


@pytest.mark.promise("introspection-tells-little")
async def test_an_access_token_of_the_guard_is_no_assertion() -> None:
    agent = asserting()
    form = {**assertion(agent), "client_assertion": agent.issue().reveal()}
    assert (await agent.ask(agent.issue().reveal(), {}, **form)).status_code == 401


@pytest.mark.promise("introspection-bounded")
async def test_a_caller_that_asks_too_often_is_told_to_wait_and_stops_no_other() -> None:
    secret = "another-secret-of-payments"
    callers = [
        Caller(name="orders-api", resources=(ORDERS,), bearer=Secret(SECRET)),
        Caller(name="payments-api", resources=(PAYMENTS,), bearer=Secret(secret)),
    ]
    agent = Agent(callers=callers, rate=3)
    token = agent.issue().reveal()
    statuses = [(await agent.ask(token)).status_code for _ in range(5)]
    assert statuses[:3] == [200] * 3
    answer = await agent.ask(token)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    other = await agent.ask(token, {"Authorization": f"Bearer {secret}"})
    assert other.json() == {"active": False}  # the token is for orders
    await asyncio.sleep(0.4)
    assert (await agent.ask(token)).status_code == 200


async def post(agent: Agent, body: bytes, **more: str) -> httpx.Response:
    fields = {"content-type": "application/x-www-form-urlencoded", **BEARER, **more}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(agent.app)) as client:
        return await client.post(ASK, content=body, headers=fields)


@pytest.mark.promise("introspection-bounded")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"token=a&token=b", 400),
        (b"", 400),
        (b"token=", 400),
        (b"token", 400),
        (b"token=%ff", 400),
        ("token=é".encode(), 400),
        (b"&".join(b"f%d=1" % number for number in range(20)), 400),
        (b"token=" + b"a" * 70_000, 413),
        (b"token=%00", 200),
    ],
)
async def test_a_body_that_can_be_read_in_two_ways_or_is_too_large_is_refused(
    body: bytes, status: int
) -> None:
    answer = await post(Agent(), body)
    assert answer.status_code == status
    assert answer.headers["cache-control"] == "no-store"


async def test_tokens_are_introspected_with_a_post_of_a_form() -> None:
    agent = Agent()
    assert (await post(agent, b"{}", **{"content-type": "application/json"})).status_code == 415
    answer = await agent.ask(agent.issue().reveal(), method="PUT")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.promise("introspection-bounded")
async def test_a_body_that_trickles_is_not_waited_for() -> None:
    agent = Agent(timeout=0.05)
    messages: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"t", "more_body": True}

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/introspect",
        "headers": [(b"content-type", b"application/x-www-form-urlencoded")],
    }
    await agent.app(scope, receive, send)
    assert messages[0]["status"] == 408


async def test_the_public_keys_are_there_for_everybody() -> None:
    agent = Agent()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(agent.app)) as client:
        answer = await client.get("https://guard.example/jwks.json")
    assert answer.json() == jwks(*agent.issuers.values())
    assert '"d"' not in answer.text


async def test_other_kinds_of_connections_are_served_or_closed() -> None:
    agent, messages = Agent(), list[Any]()
    phases = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        return {"type": next(phases)}

    async def send(message: Any) -> None:
        messages.append(message["type"])

    await agent.app({"type": "lifespan"}, receive, send)
    await agent.app({"type": "websocket"}, receive, send)
    assert messages == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


@pytest.mark.parametrize(
    "changes",
    [
        {"resources": (), "bearer": Secret(SECRET)},
        {},
        {"bearer": Secret(SECRET), "keys": {"keys": []}},
        {"bearer": Secret("short")},
    ],
)
def test_a_caller_that_could_not_be_known_is_a_mistake(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Caller(name="orders-api", **{"resources": (ORDERS,), **changes})


TOML = """
[resources.orders]
origins = ["https://orders.example"]
[store]
kind = "memory"
[introspection]
rate = 7
[introspection.callers.orders-api]
resources = ["orders"]
"""


async def test_a_guard_of_a_file_has_the_callers_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_API", SECRET)
    keys = json.dumps({"keys": [{**KEY.public_jwk, "kid": KEY.kid}]})
    (tmp_path / "api.jwks.json").write_text(keys)
    file = tmp_path / "agentguard.toml"
    for way in ('bearer = "env:ORDERS_API"', 'keys = "api.jwks.json"'):
        file.write_text(f"{TOML}{way}\n")
        guard = Guard.from_file(file)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard.introspection())) as client:
            answer = await client.post(ASK, data={"token": "x"}, headers=BEARER)
        assert answer.status_code == (200 if "bearer" in way else 401)
        guard.close()
    file.write_text(f'{TOML}keys = "https://api.example/jwks.json"\n')
    (caller,) = build(load(file)).callers()
    assert isinstance(caller.keys, KeySource)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (lambda text: f'{text}bearer = "env:X"\nkeys = "f"\n', "one way to authenticate"),
        (lambda text: text, "one way to authenticate"),
        (
            lambda text: text.replace('["orders"]\n', '["other"]\nbearer = "env:X"\n', 1),
            "no resource 'other'",
        ),
        (lambda text: text.replace('s = ["orders"]', 's = []\nbearer = "env:X"'), "names no resource"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, changes: Callable[[str], str], problem: str) -> None:
    file = tmp_path / "agentguard.toml"
    file.write_text(changes(TOML))
    with pytest.raises(ConfigurationError, match=problem) as caught:
        load(file)
    assert caught.value.line is not None


def test_a_guard_without_callers_or_without_an_embedded_issuer_has_none(kit: Kit, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nobody may ask"):
        kit.guard.introspection()
    with pytest.raises(ConfigurationError, match="nobody may ask"):
        kit.guard.introspection([Caller(name="orders-api", resources=(ORDERS,), bearer=Secret(SECRET))])
