"""Routes that decide by themselves what they match, and programs that read a request in their own way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match, Mount, Route

from agentguard.errors import ConfigurationError
from agentguard.model import ToolPath
from agentguard.resource.asgi import Protected, Rule
from tests.resource.test_asgi import verifier
from tests.resource.test_reading import EXPORT, JSON, SHOW, ask, export, of_body, of_params, reading, show

READ_ORDER = Rule("GET", "/orders/{order_id}", ToolPath.READ, "orders:read", "get_order", of_params)
INNER = Route("/{order_id}", show)
V2 = [("accept-version", "2")]


def is_v2(scope: Any) -> bool:
    return (b"accept-version", b"2") in scope["headers"]


class AnyCase(APIRoute):
    """A route that is served however its path is spelled."""

    def matches(self, scope: Any) -> Any:
        return super().matches({**scope, "path": scope["path"].lower()})


class OfV2(Route):
    """A route that is served only if a header asks for a version."""

    def matches(self, scope: Any) -> Any:
        return super().matches(scope) if is_v2(scope) else (Match.NONE, {})


class ApiOfV2(APIRoute):
    def matches(self, scope: Any) -> Any:
        return super().matches(scope) if is_v2(scope) else (Match.NONE, {})


class MountOfV2(Mount):
    def matches(self, scope: Any) -> Any:
        return super().matches(scope) if is_v2(scope) else (Match.NONE, {})


def shown_by(app: FastAPI) -> FastAPI:
    app.get("/orders/{order_id}")(lambda order_id: {"shown": {"order_id": order_id}})
    return app


@pytest.mark.promise("own-endpoint-own-rule")
@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_a_route_class_of_an_included_router_is_asked(depth: int) -> None:
    app, router = FastAPI(), APIRouter(route_class=AnyCase)
    router.get("/orders/export")(lambda: "all customers")
    if depth == 2:
        outer = APIRouter()
        outer.include_router(router)
        router = outer
    if depth:
        app.include_router(router)
    else:
        app.router.routes.append(AnyCase("/orders/export", lambda: "all customers"))
    protected = Protected(shown_by(app), verifier(), [READ_ORDER])
    assert (await ask(protected, "GET", "/orders/EXPORT", reading("EXPORT"))).status == 403
    assert (await ask(protected, "GET", "/orders/4711", reading("4711"))).content == {
        "shown": {"order_id": "4711"}
    }


@pytest.mark.promise("own-endpoint-own-rule")
async def test_an_included_route_is_found_only_where_its_class_says_so() -> None:
    app, router = FastAPI(), APIRouter(route_class=ApiOfV2, prefix="/orders")
    router.get("/{name}")(lambda name: {"name": name})
    app.include_router(router)
    rule = Rule("GET", "/orders/{name}", ToolPath.READ, "orders:read", "get_order", of_name)
    protected = Protected(shown_by(app), verifier(), [READ_ORDER, rule])
    for headers, content in (([], {"shown": {"order_id": "4711"}}), (V2, {"name": "4711"})):
        answer = await ask(protected, "GET", "/orders/4711", reading("4711"), headers=headers)
        assert answer.content == content


def of_name(presented: Any) -> dict[str, Any]:
    return {"order_id": presented.params["name"]}


def included(kind: type[APIRoute]) -> FastAPI:
    app, router = FastAPI(), APIRouter(route_class=kind)
    router.get("/orders/{order_id:str}")(lambda order_id: "all customers")
    app.include_router(router)
    return shown_by(app)


TWINS: list[Callable[[], Any]] = [
    lambda: Starlette(routes=[OfV2("/orders/{order_id}", export), SHOW]),
    lambda: Starlette(routes=[OfV2("/orders/{order_id:str}", export), SHOW]),
    lambda: Starlette(routes=[OfV2("/orders/{order_id}", export), Mount("/orders", routes=[INNER])]),
    lambda: Starlette(
        routes=[
            MountOfV2("/orders", routes=[Route("/{order_id}", export)]),
            Mount("/orders", routes=[INNER]),
        ]
    ),
    lambda: included(ApiOfV2),
]


@pytest.mark.promise("own-endpoint-own-rule")
@pytest.mark.parametrize("make", TWINS)
async def test_a_rule_that_would_open_two_endpoints_opens_none(make: Callable[[], Any]) -> None:
    protected = Protected(make(), verifier(), [READ_ORDER])
    for headers in (V2, []):
        answer = await ask(protected, "GET", "/orders/4711", reading("4711"), headers=headers)
        assert answer.status == 403, answer


@pytest.mark.promise("own-endpoint-own-rule")
@pytest.mark.parametrize(
    "routes",
    [
        [SHOW, Route("/orders/{order_id}", export)],  # the second is never reached
        [SHOW, Route("/orders/{order_id}", export, methods=["POST"])],
        [OfV2("/customers/{order_id}", export), SHOW],
    ],
)
async def test_a_path_that_only_one_endpoint_can_serve_stays_open(routes: Iterable[BaseRoute]) -> None:
    protected = Protected(Starlette(routes=[*routes]), verifier(), [READ_ORDER])
    assert (await ask(protected, "GET", "/orders/4711", reading("4711"))).status == 200


class Dispatcher:
    """An application that chooses one of two; `app` is only one of them."""

    def __init__(self, app: Any, admin: Any) -> None:
        self.app, self.admin = app, admin

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        chosen = self.admin if scope["path"].endswith("/export") else self.app
        await chosen(scope, receive, send)


class Own(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


@pytest.mark.promise("own-endpoint-own-rule")
async def test_an_application_of_an_unknown_kind_is_not_taken_for_the_one_that_it_keeps() -> None:
    app = Dispatcher(Starlette(routes=[SHOW]), Starlette(routes=[EXPORT]))
    for outer in (app, GZipMiddleware(app)):
        with pytest.raises(ConfigurationError, match="routes of the application cannot be seen"):
            Protected(outer, verifier(), [READ_ORDER])
    mounted = Starlette(routes=[Mount("/orders", app=Dispatcher(Starlette(routes=[INNER]), export))])
    answer = await ask(Protected(mounted, verifier(), [READ_ORDER]), "GET", "/orders/4711", reading("4711"))
    assert answer.status == 403


async def test_middlewares_whose_call_is_known_are_seen_through() -> None:
    inner = Starlette(routes=[SHOW])
    for app in (
        Own(inner),
        GZipMiddleware(Own(inner)),
        Starlette(routes=[SHOW], middleware=[Middleware(Own)]),
    ):
        answer = await ask(Protected(app, verifier(), [READ_ORDER]), "GET", "/orders/4711", reading("4711"))
        assert answer.status == 200


# --- how others read a request


@pytest.mark.promise("read-refused-at-write")
@pytest.mark.parametrize(
    "name", ["x_http_method_override", "X_HTTP_Method-Override", "x-http_method", "x_method_override"]
)
async def test_a_second_method_is_refused_however_a_wsgi_application_spells_it(name: str) -> None:
    asked: list[Any] = []

    async def legacy(scope: Any, _receive: Any, send: Any) -> None:  # as a2wsgi has it, which runs Django
        asked.append(scope)
        await JSONResponse("deleted")(scope, _receive, send)

    app = Starlette(routes=[Mount("/orders", app=legacy)])
    rule = Rule("GET", "/orders/{path:path}", ToolPath.READ, "orders:read")
    answer = await ask(
        Protected(app, verifier(), [rule]), "GET", "/orders/4711", reading("4711"), headers=[(name, "DELETE")]
    )
    assert (answer.status, asked) == (400, [])


@pytest.mark.parametrize("kind", ["int", "float"])
async def test_a_number_of_thousands_of_digits_is_refused_and_raises_nothing(kind: str) -> None:
    route = f"/orders/{{order_id:{kind}}}"
    rule = Rule("GET", route, ToolPath.READ, "orders:read", "get_order", of_params)
    protected = Protected(Starlette(routes=[Route(route, show)]), verifier(), [rule])
    assert (await ask(protected, "GET", f"/orders/{'9' * 5000}", None)).status in (401, 403)


@pytest.mark.promise("read-refused-at-write")
@pytest.mark.parametrize(
    "headers",
    [
        [("content-type", "application/x-www-form-urlencoded+json")],
        [("content-type", "application/X-WWW-Form-Urlencoded.x+json")],
        [("content-type", "application/form-data+json")],
        [("content-type", "application/xml+json")],
        [*JSON, ("content_type", "application/x-www-form-urlencoded")],
        [*JSON, ("content_encoding", "gzip")],
    ],
)
async def test_a_body_that_some_take_for_another_form_is_refused(headers: list[tuple[str, str]]) -> None:
    async def pay(_request: Any) -> JSONResponse:
        return JSONResponse("paid")

    rule = Rule("POST", "/pay", ToolPath.READ, "orders:read", "get_order", of_body)
    protected = Protected(Starlette(routes=[Route("/pay", pay, methods=["POST"])]), verifier(), [rule])
    body = [b'{"order_id": "4711"}']
    answer = await ask(protected, "POST", "/pay", reading("4711"), headers=headers, body=body)
    assert answer.status == 415
    assert (await ask(protected, "POST", "/pay", reading("4711"), headers=JSON, body=body)).status == 200
