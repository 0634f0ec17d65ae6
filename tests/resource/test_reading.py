"""What the middleware and the dependency judge is what a real Starlette or FastAPI application reads."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
from fastapi import APIRouter, Depends, FastAPI, Form
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

from agentguard.errors import ConfigurationError
from agentguard.model import Credential, ToolPath
from agentguard.resource.asgi import Presented, Protected, Rule, require
from tests.resource.test_asgi import ORIGIN, minted, verifier

JSON = [("content-type", "application/json")]
FORM = [("content-type", "application/x-www-form-urlencoded")]


class Answer(NamedTuple):
    status: int
    content: Any
    seconds: float


async def ask(
    app: Any,
    method: str,
    target: str,
    credential: Credential | None,
    *,
    headers: Iterable[tuple[str, str]] = (),
    body: Sequence[bytes] = (),
    chunk_after: float = 0.0,
    root_path: str = "",
) -> Answer:
    """Send what a client can send, with the scope that uvicorn makes of it: httpx would make it tidy."""
    raw, _, query = target.partition("?")
    proofs: Mapping[str, str] = {}
    with suppress(ValueError):  # our own client names no path that has dot segments
        proofs = {} if credential is None else credential.headers(method, ORIGIN + raw, None)
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "root_path": root_path,
        "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in [*proofs.items(), *headers]],
        "state": {},
    }
    chunks, answers = list(body) or [b""], list[Any]()

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(chunk_after)
        if not chunks:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        answers.append(message)

    begin = time.monotonic()
    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in answers[1:])
    is_json = (b"content-type", b"application/json") in answers[0]["headers"]
    read = json.loads(content) if is_json and content else content.decode()
    return Answer(answers[0]["status"], read, time.monotonic() - begin)


def reading(order_id: str, **more: Any) -> Credential:
    return minted("get_order", ToolPath.READ, "orders:read", order_id=order_id, **more)


def of_params(presented: Presented) -> dict[str, Any]:
    return dict(presented.params)


def of_body(presented: Presented) -> dict[str, Any]:
    return dict(presented.body)


# --- which endpoint it is


async def show(request: Request) -> JSONResponse:
    return JSONResponse({"shown": {name: str(value) for name, value in request.path_params.items()}})


async def export(_request: Request) -> JSONResponse:
    return JSONResponse("all customers")


async def files(scope: Any, _receive: Any, send: Any) -> None:
    await JSONResponse({"file": scope["path"]})(scope, _receive, send)


SHOW = Route("/orders/{order_id}", show)
EXPORT = Route("/orders/export", export)


def plain_starlette() -> Any:
    return Starlette(routes=[EXPORT, SHOW])


def behind_middlewares() -> Any:
    inner = Starlette(routes=[EXPORT, SHOW], middleware=[Middleware(GZipMiddleware)])
    return GZipMiddleware(GZipMiddleware(inner))


def mounted() -> Any:
    return Starlette(routes=[Mount("/orders", app=GZipMiddleware(Router([Route("/export", export)]))), SHOW])


def mounted_elsewhere() -> Any:
    """Whether a path is a mount's is decided by the mount, also where a route behind it would match."""
    return Starlette(routes=[Mount("/orders", app=files), SHOW])


def plain_fastapi() -> Any:
    app = FastAPI()
    app.get("/orders/export")(lambda: "all customers")
    app.get("/orders/{order_id}")(lambda order_id: {"shown": {"order_id": order_id}})
    return app


def included_routers() -> Any:
    app, orders, exports = FastAPI(), APIRouter(), APIRouter(prefix="/orders")
    exports.get("/export")(lambda: "all customers")
    orders.get("/orders/{order_id}")(lambda order_id: {"shown": {"order_id": order_id}})
    orders.include_router(exports)
    orders.routes.reverse()
    app.include_router(orders)
    return app


def sub_application() -> Any:
    app, sub = FastAPI(), FastAPI()
    sub.get("/export")(lambda: "all customers")
    app.mount("/orders", sub)
    app.get("/orders/{order_id}")(lambda order_id: {"shown": {"order_id": order_id}})
    return app


SHAPES = [
    plain_starlette,
    behind_middlewares,
    mounted,
    mounted_elsewhere,
    plain_fastapi,
    included_routers,
    sub_application,
]
WIDE = Rule("GET", "/orders/{order_id}", ToolPath.READ, "orders:read", "get_order", of_params)
OWN = [
    Rule("GET", "/orders/export", ToolPath.READ, "orders:export", "export_orders"),
    Rule("GET", "/orders/{path:path}", ToolPath.READ, "orders:export", "export_orders"),
]


@pytest.mark.promise("own-endpoint-own-rule")
@pytest.mark.parametrize("make", SHAPES)
async def test_an_endpoint_of_its_own_is_not_opened_by_the_rule_of_a_wider_path(make: Any) -> None:
    app = Protected(make(), verifier(), [WIDE])
    assert (await ask(app, "GET", "/orders/export", reading("export"))).status == 403
    if make not in (mounted, mounted_elsewhere, sub_application):  # there nothing else is below /orders
        answer = await ask(app, "GET", "/orders/4711", reading("4711"))
        assert (answer.status, answer.content) == (200, {"shown": {"order_id": "4711"}})


@pytest.mark.promise("own-endpoint-own-rule")
@pytest.mark.parametrize("make", SHAPES)
async def test_an_endpoint_of_its_own_is_opened_by_a_rule_of_its_own(make: Any) -> None:
    app = Protected(make(), verifier(), [WIDE, *OWN])
    credential = minted("export_orders", ToolPath.READ, "orders:export")
    answer = await ask(app, "GET", "/orders/export", credential)
    expected = {"file": "/orders/export"} if make is mounted_elsewhere else "all customers"
    assert (answer.status, answer.content) == (200, expected)
    assert (await ask(app, "GET", "/orders/export", reading("export"))).status == 403


@pytest.mark.promise("own-endpoint-own-rule")
async def test_a_middleware_of_the_application_sees_its_routes_too() -> None:
    for app in (Starlette(routes=[EXPORT, SHOW]), plain_fastapi()):
        app.add_middleware(Protected, verifier=verifier(), rules=[WIDE])
        assert (await ask(app, "GET", "/orders/export", reading("export"))).status == 403
        assert (await ask(app, "GET", "/orders/4711", reading("4711"))).status == 200


@pytest.mark.promise("own-endpoint-own-rule")
async def test_a_route_that_was_added_later_is_seen() -> None:
    inner = FastAPI()
    app = Protected(inner, verifier(), [WIDE])
    inner.get("/orders/export")(lambda: "all customers")
    inner.get("/orders/{order_id}")(lambda order_id: order_id)
    assert (await ask(app, "GET", "/orders/export", reading("export"))).status == 403
    assert (await ask(app, "GET", "/orders/4711", reading("4711"))).status == 200


@pytest.mark.promise("own-endpoint-own-rule")
async def test_a_host_that_the_client_names_has_rules_of_its_own() -> None:
    inside = Router([Route("/orders/{order_id}", export)])
    inner = Starlette(routes=[Host("admin.internal", inside), SHOW])
    admin = [("host", "admin.internal")]
    app = Protected(inner, verifier(), [WIDE])
    assert (await ask(app, "GET", "/orders/4711", reading("4711"), headers=admin)).status == 403
    assert (await ask(app, "GET", "/orders/4711", reading("4711"))).status == 200
    rule = Rule("GET", "admin.internal/orders/{order_id}", ToolPath.READ, "orders:read")
    own = Protected(inner, verifier(), [rule])
    assert (await ask(own, "GET", "/orders/4711", reading("4711"), headers=admin)).content == "all customers"
    assert (await ask(own, "GET", "/orders/4711", reading("4711"))).status == 403


@pytest.mark.promise("own-endpoint-own-rule")
@pytest.mark.filterwarnings("ignore:The `root_path` parameter:Warning")
async def test_a_root_path_that_the_application_sets_itself_is_heeded() -> None:
    def make(**options: Any) -> FastAPI:
        app = FastAPI(**options)
        app.get("/export")(lambda: "all customers")
        app.get("/orders/{order_id}")(lambda order_id: order_id)
        return app

    sub = Starlette(routes=[Mount("/v1", app=make(root_path="/v1/orders"))])
    for inner, target in ((make(root_path="/orders"), "/orders/export"), (sub, "/v1/orders/export")):
        rules = [WIDE, Rule("GET", "/v1/orders/{order_id}", ToolPath.READ)]
        app = Protected(inner, verifier(), rules)
        assert (await ask(app, "GET", target, reading("export"))).status == 403


@pytest.mark.promise("own-endpoint-own-rule")
@pytest.mark.parametrize("root_path", ["", "/v1"])
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("HEAD", "/orders/4711"),
        ("OPTIONS", "/orders/4711"),
        ("TRACE", "/orders/4711"),
        ("get", "/orders/4711"),
        ("POST", "/orders/4711"),
        ("GET", "/orders/4711/"),
        ("GET", "/orders//4711"),
        ("GET", "//orders/4711"),
        ("GET", "/./orders/4711"),
        ("GET", "/orders/.."),
        ("GET", "/orders/%2e%2e"),
        ("GET", "/orders/4711%2Fexport"),
        ("GET", "/orders/a%2fb"),
        ("GET", "/orders/a%5Cb"),
        ("GET", "/orders/4711%0a"),
        ("GET", "/orders/4711%00"),
        ("GET", "/orders/%ff"),
        ("GET", "/Orders/4711"),
        ("GET", "/v1orders/4711"),
        ("GET", "/static/../orders/4711"),
        ("GET", "/files/a//b"),
        ("GET", "/files/a%2Fb"),
        ("GET", "/files/../orders"),
        ("GET", "/openapi.json"),
    ],
)
async def test_a_path_or_method_that_can_be_read_in_two_ways_is_closed(
    method: str, target: str, root_path: str
) -> None:
    inner = Starlette(
        routes=[SHOW, EXPORT, Mount("/static", app=files), Route("/files/{name:path}", show, methods=None)]
    )
    rules = [
        WIDE,
        Rule("GET", "/static/{path:path}", ToolPath.READ, "orders:read"),
        Rule("GET", "/files/{name:path}", ToolPath.READ, "orders:read"),
    ]
    credential = reading(unquote(target.rpartition("/")[2]))
    answer = await ask(
        Protected(inner, verifier(), rules), method, root_path + target, credential, root_path=root_path
    )
    assert answer.status == 403


@pytest.mark.promise("judged-is-read")
@pytest.mark.parametrize(
    "target", ["/files/a%2Fb", "/files/a//b", "/files/a%0a", "/files/%2e%2e/b", "/files/a%5cb"]
)
async def test_a_dependency_refuses_a_path_that_can_be_read_in_two_ways(target: str) -> None:
    judge = require(verifier(), path=ToolPath.READ, arguments=of_params)

    async def judged(request: Request) -> JSONResponse:
        await judge(request)
        return await show(request)

    app = Starlette(routes=[Route("/files/{name:path}", judged)])
    for path, status in ((target, 400), ("/files/a/b", 200)):
        name = unquote(path.removeprefix("/files/"))
        assert (await ask(app, "GET", path, minted("t", ToolPath.READ, "x", name=name))).status == status


@pytest.mark.promise("own-endpoint-own-rule")
async def test_a_websocket_and_an_unknown_kind_of_route_are_closed() -> None:
    class Odd(Router):
        """Served as a route, and says nothing of its path."""

        def matches(self, scope: Any) -> Any:
            return SHOW.matches({**scope, "path": "/orders/4711"})

        async def handle(self, *connection: Any) -> None:
            raise AssertionError

    inner = Starlette(routes=[WebSocketRoute("/orders/{order_id}", show)])
    inner.routes.append(Odd())  # type: ignore[arg-type]  # an application can do this
    app = Protected(inner, verifier(), [WIDE])
    assert (await ask(app, "GET", "/orders/4711", reading("4711"))).status == 403


@pytest.mark.promise("own-endpoint-own-rule")
async def test_an_application_without_routes_has_to_be_said_to_have_none() -> None:
    with pytest.raises(ConfigurationError, match="cannot be seen"):
        Protected(files, verifier(), [WIDE])
    app = Protected(files, verifier(), [WIDE, OWN[0]], routes=())
    assert (await ask(app, "GET", "/orders/4711", reading("4711"))).status == 200
    export_credential = minted("export_orders", ToolPath.READ, "orders:export")
    for credential in (reading("export"), export_credential):  # two rules match, and who knows which it takes
        assert (await ask(app, "GET", "/orders/export", credential)).status == 403
    routes: list[Any] = []
    late = Protected(files, verifier(), [WIDE], routes=routes)
    routes += [EXPORT, SHOW]
    assert (await ask(late, "GET", "/orders/export", reading("export"))).status == 403


def test_two_rules_for_one_endpoint_and_a_path_of_no_form_are_mistakes() -> None:
    twin = Rule("GET", "/orders/{order_id:str}", ToolPath.WRITE)
    with pytest.raises(ConfigurationError, match="two rules"):
        Protected(plain_starlette(), verifier(), [WIDE, twin])
    for path in ("orders", "/orders/{order_id:number}", "/{a}/{a}"):
        with pytest.raises(ConfigurationError, match="no path of a route"):
            Protected(files, verifier(), [Rule("GET", path, ToolPath.READ)], routes=())


@pytest.mark.promise("judged-is-read")
@pytest.mark.parametrize(
    ("route", "target", "args"),
    [
        ("/items/{n:int}", "/items/0042", {"n": 42}),
        ("/items/{n:float}", "/items/1.50", {"n": 1.5}),
        ("/items/{n:path}", "/items/a/b", {"n": "a/b"}),
        ("/items/{n:str}", "/items/0042", {"n": "0042"}),
        ("/{shop}/items/{n}", "/4/items/2", {"shop": "4", "n": "2"}),
    ],
)
async def test_a_parameter_is_judged_as_the_route_converts_it(
    route: str, target: str, args: Mapping[str, Any]
) -> None:
    app = Protected(
        Starlette(routes=[Route(route, show)]),
        verifier(),
        [Rule("GET", route, ToolPath.READ, None, None, of_params)],
    )
    assert (await ask(app, "GET", target, minted("t", ToolPath.READ, "x", **args))).status == 200
    for wrong in ({name: f"{value} " for name, value in args.items()}, {}):
        assert (await ask(app, "GET", target, minted("t", ToolPath.READ, "x", **wrong))).status == 403


# --- what its body is


async def refund_starlette(request: Request) -> JSONResponse:
    """Read a form if it is sent as one, as applications that take both do."""
    form = await request.form()
    amount = form["amount"] if form else (await request.json())["amount"]
    return JSONResponse({"amount": str(amount)})


POLYGLOT = b'{"amount":5,"x":"&amount=9999&y="}'
MULTIPART = b'--b\r\nContent-Disposition: form-data; name="amount"\r\n\r\n9999\r\n--b--\r\n'


def refunds(kind: str, **options: Any) -> Any:
    at = verifier()
    if kind == "middleware":
        inner = Starlette(routes=[Route("/refund", refund_starlette, methods=["POST"])])
        rule = Rule(
            "POST",
            "/refund",
            ToolPath.WRITE,
            "orders:refund",
            "refund",
            lambda p: {"amount": p.body["amount"]},
        )
        return Protected(inner, at, [rule], **options)
    judge = require(
        at, path=ToolPath.WRITE, scope="orders:refund", tool="refund",
        arguments=lambda presented: {"amount": presented.body["amount"]}, **options,
    )  # fmt: skip
    if kind == "dependency in Starlette":

        async def judged(request: Request) -> JSONResponse:
            await judge(request)
            return await refund_starlette(request)

        return Starlette(routes=[Route("/refund", judged, methods=["POST"])])
    app = FastAPI()
    if kind == "form of FastAPI":
        app.post("/refund", dependencies=[Depends(judge)])(_form)
    else:
        app.post("/refund", dependencies=[Depends(judge)])(_json)
    return app


def _json(body: dict[str, Any]) -> dict[str, str]:
    return {"amount": str(body["amount"])}


def _form(amount: int = Form()) -> dict[str, str]:
    return {"amount": str(amount)}


KINDS = ["middleware", "dependency in Starlette", "dependency in FastAPI"]


def refunding(amount: int = 5) -> Credential:
    return minted("refund", ToolPath.WRITE, "orders:refund", amount=amount)


@pytest.mark.exhaustive
@pytest.mark.promise("judged-is-read")
@pytest.mark.parametrize("kind", [*KINDS, "form of FastAPI"])
@pytest.mark.parametrize(
    "types",
    [
        ["application/x-www-form-urlencoded"],
        ["APPLICATION/X-WWW-FORM-URLENCODED"],
        ["application/x-www-form-urlencoded; charset=utf-8"],
        ["multipart/form-data; boundary=b"],
        ["text/plain"],
        ["application/json", "application/x-www-form-urlencoded"],
        ["application/x-www-form-urlencoded", "application/json"],
        ["application/json, application/x-www-form-urlencoded"],
        ["application/json; application/x-www-form-urlencoded"],
        ["application/json; charset=utf-16"],
        ["application/json; charset=utf-7"],
        ["application/json; charset=utf-8; charset=utf-16"],
        ["application/json; charset"],
        ["application/json x"],
        ["text/json"],
        ["json"],
        [""],
        [],
    ],
)
async def test_a_body_that_is_not_clearly_json_is_not_judged_as_json(kind: str, types: list[str]) -> None:
    headers = [("content-type", value) for value in types]
    body = MULTIPART if "multipart" in "".join(types) else POLYGLOT
    answer = await ask(refunds(kind), "POST", "/refund", refunding(), headers=headers, body=[body])
    assert answer.status in (415, 422)  # FastAPI refuses some itself, before any dependency


@pytest.mark.promise("judged-is-read")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "type_",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/json ; profile=v1; charset=utf-8",
        "application/vnd.api+json",
    ],
)
async def test_a_body_that_is_json_in_any_spelling_is_judged_and_read(kind: str, type_: str) -> None:
    chunks = [POLYGLOT[:7], POLYGLOT[7:11], b"", POLYGLOT[11:]]
    headers = [("content-type", type_)]
    answer = await ask(refunds(kind), "POST", "/refund", refunding(), headers=headers, body=chunks)
    assert (answer.status, answer.content) == (200, {"amount": "5"})
    assert (
        await ask(refunds(kind), "POST", "/refund", refunding(6), headers=headers, body=chunks)
    ).status == 403


@pytest.mark.promise("judged-is-read")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body",
    [
        b'{"amount":5,"amount":9999}',
        b'{"amount":5,"am\\u006funt":9999}',
        b'{"amount":5}{"amount":9999}',
        b'\xef\xbb\xbf{"amount":5}',
        '{"amount":5}'.encode("utf-16"),
        '{"amount":5}'.encode("utf-16-le"),
        b'{"amount":5,"x":NaN}',
        b'{"amount":5,"x":"\xff"}',
        b'{"amount":5,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'[{"amount":5}]',
    ],
)
async def test_json_that_readers_read_differently_is_refused(kind: str, body: bytes) -> None:
    answer = await ask(refunds(kind), "POST", "/refund", refunding(), headers=JSON, body=[body])
    assert answer.status in (400, 422)


@pytest.mark.promise("judged-is-read")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
async def test_a_body_that_may_be_compressed_is_refused(kind: str, encoding: str) -> None:
    headers = [*JSON, ("content-encoding", encoding)]
    answer = await ask(refunds(kind), "POST", "/refund", refunding(), headers=headers, body=[POLYGLOT])
    assert answer.status == 415


@pytest.mark.promise("judged-is-read")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/refund?_method=DELETE", []),
        ("/refund?a=1&%5Fmethod=DELETE", []),
        ("/refund?_METHOD", []),
        ("/refund", [("X-HTTP-Method-Override", "DELETE")]),
        ("/refund", [("X-HTTP-Method", "PUT")]),
        ("/refund", [("x-method-override", "POST")]),
        ("/refund?a=1&a=2", []),
        ("/refund?a=%ff", []),
        ("/refund?a", []),
        ("/refund?a=1;b=2&&", []),
    ],
)
async def test_a_second_method_and_an_unclear_query_are_refused(
    kind: str, target: str, headers: list[tuple[str, str]]
) -> None:
    answer = await ask(
        refunds(kind), "POST", target, refunding(), headers=[*JSON, *headers], body=[b'{"amount":5}']
    )
    assert answer.status == 400


# --- how long its body takes


@pytest.mark.promise("body-bounded")
@pytest.mark.parametrize("kind", ["middleware", "dependency in Starlette"])
async def test_a_body_that_trickles_is_given_up(kind: str) -> None:
    app = refunds(kind, body_timeout=0.1)
    trickle = [b" "] * 200 + [b'{"amount":5}']
    answer = await ask(app, "POST", "/refund", refunding(), headers=JSON, body=trickle, chunk_after=0.02)
    assert (answer.status, answer.seconds < 1.0) == (408, True)
    swift = await ask(app, "POST", "/refund", refunding(), headers=JSON, body=[b" ", b'{"amount":5}'])
    assert swift.status == 200


@pytest.mark.promise("body-bounded")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_above_the_limit_is_refused(kind: str) -> None:
    app = refunds(kind, max_body=50)
    body = [b'{"amount":5', b" " * 50, b"}"]
    assert (await ask(app, "POST", "/refund", refunding(), headers=JSON, body=body)).status == 413
    assert (
        await ask(app, "POST", "/refund", refunding(), headers=JSON, body=[b'{"amount":5}'])
    ).status == 200
