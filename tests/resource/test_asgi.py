"""The middleware refuses by default, and lets only the exact call through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from agentguard.credentials.httpx_auth import auth
from agentguard.credentials.local_issuer import LocalIssuer, jwks
from agentguard.credentials.presentation import ProofKey
from agentguard.errors import ConfigurationError, StoreError
from agentguard.lease import Lease
from agentguard.model import Arguments, Credential, Grant, Identity, Resource, ToolPath
from agentguard.ports import Store
from agentguard.resource import Claims, Nonces, Verifier
from agentguard.resource.asgi import Presented, Protected, Rule, require
from agentguard.stores.memory import MemoryStore

ORIGIN = "https://api.example"
RESOURCE = Resource(name="orders", origins=(ORIGIN,))
PROOFS = ProofKey()
STORE = MemoryStore()
ISSUERS = {
    path: LocalIssuer(path, issuer="https://guard.example", store=STORE, proof_key=PROOFS)
    for path in ToolPath
}
COUNTER = iter(range(10_000))


class Slow:
    """A store that must never be called on the event loop."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def _ask(self) -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        if self.error:
            raise self.error

    def known(self, _key: str) -> bool:
        self._ask()
        return False

    def remember(self, _key: str, _until: float) -> bool:
        self._ask()
        return True


def verifier(**changes: Any) -> Verifier:
    options = {
        "issuer": "https://guard.example",
        "keys": jwks(*ISSUERS.values()),
        "resource": RESOURCE,
        "store": STORE,
        **changes,
    }
    return Verifier(**options)


def minted(tool: str, path: ToolPath, scope: str, **args: Any) -> Credential:
    grant = Grant(
        id=f"call-{next(COUNTER)}",
        task_id="task-1",
        identity=Identity(subject="user:4", actor="agent://support"),
        tool=tool,
        path=path,
        resource=RESOURCE,
        scopes=frozenset({scope}),
        digest=Arguments.of(args).digest,
        lifetime=60.0,
    )
    return ISSUERS[path].issue(grant)


def reading(order_id: str = "4711") -> Credential:
    return minted("get_order", ToolPath.READ, "orders:read", order_id=order_id)


def refunding(order_id: str = "4711", amount: int = 10) -> Credential:
    return minted("refund_order", ToolPath.WRITE, "orders:refund", order_id=order_id, amount=amount)


def read_arguments(request: Presented) -> dict[str, Any]:
    return {"order_id": request.params["order_id"]}


def refund_arguments(request: Presented) -> dict[str, Any]:
    return {"order_id": request.params["order_id"], "amount": request.body["amount"]}


async def show(request: Request) -> JSONResponse:
    claims: Claims = request.state.agentguard
    return JSONResponse({"order": request.path_params["order_id"], "for": claims.subject})


async def refund(request: Request) -> JSONResponse:
    return JSONResponse(
        {"order": request.path_params["order_id"], "amount": (await request.json())["amount"]}
    )


async def export(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("all customers")


APP = Starlette(
    routes=[
        Route("/orders/{order_id}", show),
        Route("/orders/{order_id}/refund", refund, methods=["POST"]),
        Route("/export", export, methods=["GET", "POST"]),
        Route("/search", export),
    ]
)
RULES = [
    Rule("GET", "/orders/{order_id}", ToolPath.READ, "orders:read", "get_order", read_arguments),
    Rule(
        "POST", "/orders/{order_id}/refund", ToolPath.WRITE, "orders:refund", "refund_order", refund_arguments
    ),
    Rule("GET", "/search", ToolPath.READ, arguments=lambda request: dict(request.query)),
]


def fastapi(at: Verifier) -> FastAPI:
    app = FastAPI()
    read = require(at, path=ToolPath.READ, scope="orders:read", tool="get_order", arguments=read_arguments)
    write = require(
        at, path=ToolPath.WRITE, scope="orders:refund", tool="refund_order", arguments=refund_arguments
    )

    @app.get("/orders/{order_id}")
    async def show(order_id: str, claims: Claims = Depends(read)) -> dict[str, str]:  # noqa: B008  FastAPI's form
        return {"order": order_id, "for": claims.subject}

    @app.post("/orders/{order_id}/refund", dependencies=[Depends(write)])
    async def refund(order_id: str, body: dict[str, int]) -> dict[str, Any]:
        return {"order": order_id, "amount": body["amount"]}

    return app


Ask = Callable[..., Awaitable[httpx.Response]]


def asking(app: Any) -> Ask:
    async def ask(
        method: str,
        path: str,
        credential: Credential | None = None,
        *,
        url: str | None = None,
        **options: Any,
    ) -> httpx.Response:
        headers = dict(options.pop("headers", {}))
        if credential is not None:
            headers |= credential.headers(method, url or ORIGIN + path, options.pop("nonce", None))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://internal:8000") as client:
            return await client.request(method, path, headers=headers, **options)

    return ask


@pytest.fixture(params=["middleware", "dependency"])
def ask(request: pytest.FixtureRequest) -> Ask:
    at = verifier()
    return asking(Protected(APP, at, RULES) if request.param == "middleware" else fastapi(at))


async def test_the_exact_call_is_served(ask: Ask) -> None:
    response = await ask("GET", "/orders/4711?verbose=1", reading())
    assert (response.status_code, response.json()) == (200, {"order": "4711", "for": "user:4"})


async def test_the_body_reaches_the_endpoint_after_it_was_verified(ask: Ask) -> None:
    response = await ask("POST", "/orders/4711/refund", refunding(), json={"amount": 10})
    assert (response.status_code, response.json()) == (200, {"order": "4711", "amount": 10})


@pytest.mark.promise("credential-bound-to-arguments")
async def test_a_credential_for_order_4711_is_refused_for_order_4712(ask: Ask) -> None:
    response = await ask("GET", "/orders/4712", reading("4711"))
    assert response.status_code == 403
    assert 'DPoP error="insufficient_scope"' in response.headers["WWW-Authenticate"]
    refund = await ask("POST", "/orders/4712/refund", refunding("4711"), json={"amount": 10})
    assert refund.status_code == 403


@pytest.mark.promise("credential-bound-to-arguments")
async def test_another_amount_in_the_body_is_refused(ask: Ask) -> None:
    assert (await ask("POST", "/orders/4711/refund", refunding(), json={"amount": 10_000})).status_code == 403


@pytest.mark.promise("read-refused-at-write")
async def test_a_read_credential_is_refused_at_a_write_endpoint(ask: Ask) -> None:
    response = await ask("POST", "/orders/4711/refund", reading(), json={"amount": 10})
    assert response.status_code == 401
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


async def test_without_a_credential_there_is_a_bare_challenge(ask: Ask) -> None:
    response = await ask("GET", "/orders/4711")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'DPoP algs="ES256 EdDSA Ed25519"'


async def test_a_bearer_downgrade_and_a_replay_are_refused(ask: Ask) -> None:
    credential = reading()
    bearer = {"Authorization": f"Bearer {credential.reveal()}"}
    assert (await ask("GET", "/orders/4711", headers=bearer)).status_code == 401
    captured = dict(credential.headers("GET", ORIGIN + "/orders/4711", None))
    assert (await ask("GET", "/orders/4711", headers=captured)).status_code == 200
    replayed = await ask("GET", "/orders/4711", headers=captured)
    assert replayed.status_code == 401
    assert "used before" in replayed.headers["WWW-Authenticate"]


@pytest.mark.promise("revoked-is-refused")
async def test_a_revoked_credential_is_refused(ask: Ask) -> None:
    credential = reading()
    ISSUERS[ToolPath.READ].revoke(credential.handle, credential.expires_at)
    response = await ask("GET", "/orders/4711", credential)
    assert (response.status_code, "revoked" in response.headers["WWW-Authenticate"]) == (401, True)


async def test_the_host_header_does_not_decide_what_a_proof_is_for(ask: Ask) -> None:
    elsewhere = "https://evil.example"
    response = await ask(
        "GET", "/orders/4711", reading(), url=f"{elsewhere}/orders/4711", headers={"Host": "evil.example"}
    )
    assert response.status_code == 401
    assert (await ask("GET", "/orders/4711", reading(), headers={"Host": "evil.example"})).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"amount":1,"amount":10}', b"\xff", b'{"sum":10}'])
async def test_a_body_of_another_form_is_refused(ask: Ask, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = await ask("POST", "/orders/4711/refund", refunding(), content=body, headers=headers)
    assert response.status_code in (400, 422)  # FastAPI judges some bodies itself, before any dependency


# the middleware


@pytest.mark.promise("unknown-liveness-refused")
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/export"), ("POST", "/export"), ("GET", "/"), ("PUT", "/orders/4711"), ("HEAD", "/orders/4711"),
     ("GET", "/orders/4711/"), ("GET", "/orders/4711/refund"), ("GET", "//orders/4711"), ("GET", "/orders/")],
)  # fmt: skip
async def test_a_route_without_a_rule_is_closed(method: str, path: str) -> None:
    response = await asking(Protected(APP, verifier(), RULES))(method, path, reading(), url=ORIGIN + path)
    assert response.status_code == 403
    if method != "HEAD":
        assert response.json()["error"] == "insufficient_scope"


async def test_a_refusal_is_json_with_the_scope_that_is_missing() -> None:
    credential = minted("get_order", ToolPath.READ, "orders:list", order_id="4711")
    response = await asking(Protected(APP, verifier(), RULES))("GET", "/orders/4711", credential)
    assert response.status_code == 403
    assert response.json() == {
        "error": "insufficient_scope",
        "error_description": "the token lacks the scope",
    }
    assert 'scope="orders:read"' in response.headers["WWW-Authenticate"]
    assert response.headers["Cache-Control"] == "no-store"


async def test_a_query_counts_where_a_rule_says_so() -> None:
    ask = asking(Protected(APP, verifier(), RULES))
    credential = minted("search", ToolPath.READ, "x", q="shoes")
    assert (await ask("GET", "/search?q=shoes", credential)).status_code == 200
    assert (await ask("GET", "/search?q=customers", credential)).status_code == 403
    for query in ("q=shoes&q=customers", "q=customers&q=shoes", "q", "%ff=%"):
        assert (await ask("GET", f"/search?{query}", credential)).status_code in (400, 403)


async def test_an_endless_body_is_cut_off_and_a_stranger_is_refused_before_it_is_read() -> None:
    ask = asking(Protected(APP, verifier(), RULES, max_body=1000))
    chunks: list[int] = []

    async def endless() -> Any:
        for _ in range(1000):
            chunks.append(1)
            yield b"x" * 500

    assert (await ask("POST", "/orders/4711/refund", content=endless())).status_code == 401
    assert chunks == []
    assert (await ask("POST", "/orders/4711/refund", refunding(), content=endless())).status_code == 413
    assert len(chunks) < 10


async def test_a_body_that_breaks_off_never_reaches_the_application() -> None:
    reached: list[object] = []
    answers: list[Any] = []
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"{}", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def app(*_args: object) -> None:
        reached.append(1)

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        answers.append(message)

    def arguments(_request: Presented) -> dict[str, Any]:
        return {"order_id": "4711", "amount": 10}

    headers = refunding().headers("POST", ORIGIN + "/orders/4711/refund", None)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/orders/4711/refund",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    rule = Rule("POST", "/orders/{order_id}/refund", ToolPath.WRITE, arguments=arguments)
    await Protected(app, verifier(), [rule], routes=())(scope, receive, send)
    assert (reached, answers[0]["status"]) == ([], 400)


async def test_a_websocket_is_closed_and_the_lifespan_passes() -> None:
    events: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        events.append(scope["type"])

    async def receive() -> dict[str, Any]:
        return {}

    async def send(message: Any) -> None:
        events.append(message)

    guarded = Protected(app, verifier(), RULES, routes=())
    await guarded({"type": "websocket", "path": "/orders/4711"}, receive, send)
    await guarded({"type": "lifespan"}, receive, send)
    assert events == [{"type": "websocket.close", "code": 1008}, "lifespan"]


async def test_a_failing_rule_is_a_refusal_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_request: Presented) -> dict[str, Any]:
        raise RuntimeError("database password is hunter2")

    rules = [Rule("GET", "/orders/{order_id}", ToolPath.READ, arguments=broken)]
    response = await asking(Protected(APP, verifier(), rules))("GET", "/orders/4711", reading())
    assert response.status_code == 400
    assert "hunter2" not in response.text + str(response.headers) + caplog.text
    assert "the arguments function of an endpoint raised RuntimeError" in caplog.text


async def test_the_store_is_asked_off_the_event_loop_and_its_silence_closes() -> None:
    ask = asking(Protected(APP, verifier(store=cast(Store, Slow())), RULES))
    assert (await ask("GET", "/orders/4711", reading())).status_code == 200
    down = asking(Protected(APP, verifier(store=cast(Store, Slow(StoreError("down")))), RULES))
    response = await down("GET", "/orders/4711", reading())
    assert (response.status_code, response.json()["error"]) == (503, "temporarily_unavailable")


async def test_a_nonce_goes_round_between_client_and_server() -> None:
    credential = reading()
    lease = Lease("get_order", RESOURCE, credential)
    app = Protected(APP, verifier(nonces=Nonces()), RULES)
    first = await asking(app)("GET", "/orders/4711", credential)
    assert first.status_code == 401
    assert first.headers["DPoP-Nonce"]
    token = lease.open()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), auth=auth("orders")) as client:
        assert (await client.get(ORIGIN + "/orders/4711")).status_code == 200
    lease.release(token)


async def test_a_dependency_answers_with_a_nonce_too() -> None:
    response = await asking(fastapi(verifier(nonces=Nonces())))("GET", "/orders/4711", reading())
    assert response.status_code == 401
    assert response.headers["DPoP-Nonce"]
    assert "use_dpop_nonce" in json.dumps(response.json())


async def test_a_mounted_application_is_matched_below_its_root() -> None:
    app = Protected(APP, verifier(), RULES)
    transport = httpx.ASGITransport(app=app, root_path="/v1")
    headers = dict(reading().headers("GET", ORIGIN + "/v1/orders/4711", None))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/v1/orders/4711", headers=headers)).status_code == 200


def test_an_unclear_origin_is_a_configuration_error() -> None:
    for origins in ((), ("https://a.example", "https://b.example")):
        at = verifier(resource=replace(RESOURCE, origins=origins))
        with pytest.raises(ConfigurationError, match="origin"):
            Protected(APP, at, RULES)
        with pytest.raises(ConfigurationError, match="origin"):
            require(at, path=ToolPath.READ)
        Protected(APP, at, RULES, origin="https://a.example")
