"""Find the endpoint of a Starlette or FastAPI application that will serve a request.

The application's own routes are asked, in the order in which the application asks them. So a rule is chosen
by the endpoint that runs and not by the spelling of a path.

What is not seen here: a middleware inside the application that changes the method or the path of a request,
or answers it itself. A class of routes may decide by anything in the request; it is asked. But if it leaves
two endpoints of one path and method, no rule can be for one of them, and both are closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match, Route, Router

from agentguard.errors import ConfigurationError

__all__ = [
    "Endpoint",
    "Finder",
    "Scope",
    "find_endpoint",
    "find_only_endpoint",
    "make_finder",
    "make_routes",
    "normalize_route",
]

Scope = MutableMapping[str, Any]

_REST = "/{path:path}"  # what an application that is mounted and has no routes serves
_FASTAPI_ROUTER = "original_router"  # what FastAPI's include_router leaves in the list of routes has it
_FRAMEWORKS = frozenset({"starlette", "fastapi"})
# whose middlewares pass a request on to the one application in their `app`
_MIDDLEWARES = _FRAMEWORKS | {"uvicorn", "opentelemetry"}


class Endpoint(NamedTuple):
    """The path of a route, as the application declares it, and the parameters that the endpoint gets."""

    route: str
    params: Mapping[str, Any]


Finder = Callable[[Scope], Endpoint | None]


def make_finder(app: object) -> Finder:
    """Return what finds the endpoint of *app*, also if middlewares stand before it.

    They must be of Starlette, FastAPI, uvicorn or OpenTelemetry, or a `BaseHTTPMiddleware`. Another object
    that keeps an application in `app` may have a second one.

    Raises:
        ConfigurationError: No Starlette or FastAPI application and no router is found.
    """
    application = _application(app)
    if application is None:
        raise ConfigurationError(
            "the routes of the application cannot be seen",
            hint="pass routes=application.routes, or routes=() if only the rules' endpoints exist",
        )
    # the routes are read for each request: one may be added later
    return lambda scope: find_endpoint(application.routes, _with_root_path(application, scope))


def make_routes(rules: Iterable[tuple[str, str]]) -> Sequence[BaseRoute]:
    """Return a route for each method and path, for an application that has no routes of Starlette.

    Raises:
        ConfigurationError: A path is not in the form of Starlette.
    """
    routes = []
    for method, path in rules:
        try:
            routes.append(Route(path, _never, methods=[method]))
        except (AssertionError, ValueError) as error:
            raise ConfigurationError(
                f"the path {path!r} of a rule is no path of a route", hint="write it as /orders/{order_id}"
            ) from error
    return routes


def find_endpoint(routes: Sequence[BaseRoute], scope: Scope) -> Endpoint | None:
    """Return the endpoint that serves the request, or None if there is none or it cannot be told.

    The path of an endpoint in a mounted application begins with the path of the mount. Below a host it
    begins with the host's name. An application that is mounted and has no routes is one endpoint:
    ``/static/{path:path}``.
    """
    try:
        endpoint = _find(routes, scope)
    except ValueError:  # a converter does not take the text, such as a number of thousands of digits
        return None
    if endpoint is None or _is_shared(endpoint.route, scope["method"], routes):
        return None
    return endpoint


def find_only_endpoint(routes: Iterable[BaseRoute], scope: Scope) -> Endpoint | None:
    """Return the endpoint that serves the request, or None if none does or more than one may."""
    endpoints = [endpoint for route in routes if (endpoint := find_endpoint([route], scope))]
    return endpoints[0] if len(endpoints) == 1 else None


def normalize_route(route: str) -> str:
    """Return the path of a route without Starlette's converter for a parameter that names none."""
    return route.replace(":str}", "}")


def _find(routes: Iterable[BaseRoute], scope: Scope) -> Endpoint | None:
    for route in routes:
        match, changes = route.matches(dict(scope))
        if match is Match.FULL:
            return _endpoint(*_select(route, {**scope, **changes}))
    return None


def _select(route: Any, scope: Scope) -> tuple[Any, Scope]:
    """Return the route that a router which FastAPI has included selects, and the scope that it gets.

    FastAPI's own function is asked, since it asks the class of each route. None means that there is none.
    """
    while hasattr(route, _FASTAPI_ROUTER):
        select = getattr(route, "_match", None)  # nothing public tells it; without it, the route stays closed
        match, changes, route, context = select(dict(scope)) if select else (Match.NONE, {}, None, None)
        if match is not Match.FULL:
            return None, scope
        scope = {**scope, **changes}
        if context is not None:  # it has the path with all prefixes
            route = context.starlette_route or context
    return route, scope


def _endpoint(route: Any, scope: Scope) -> Endpoint | None:
    path = _path(route)
    if path is None:
        return None
    inner, application = _inner_routes(route)
    if inner is None:
        return Endpoint(path, scope["path_params"])
    if application is not None:
        scope = _with_root_path(application, scope)
    if not inner:
        rest = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/")
        return Endpoint(f"{path}{_REST}", {**scope["path_params"], "path": rest})
    endpoint = _find(inner, scope)
    return None if endpoint is None else Endpoint(path + endpoint.route, endpoint.params)


def _path(route: object) -> str | None:
    """Return the path or the host of a route, or None for a kind of route that is not known here."""
    path = getattr(route, "path", getattr(route, "host", None))
    return path if isinstance(path, str) else None


def _inner_routes(route: object) -> tuple[Sequence[BaseRoute] | None, Starlette | Router | None]:
    """Return the routes below a mount or host (None for an endpoint), and its application if it is known."""
    routes = getattr(route, "routes", None)
    application = None if routes is None else _application(getattr(route, "app", None))
    return (routes if application is None else application.routes), application


# --- two endpoints of one path


def _is_shared(path: str, method: str, routes: Sequence[BaseRoute]) -> bool:
    """Return whether several endpoints have the path and the method, and a class of routes chooses one.

    Without such a class the first one serves every request.
    """
    path = normalize_route(path)
    choices = [chooses for other, chooses in _declarations(routes, method) if normalize_route(other) == path]
    return len(choices) > 1 and any(choices)


def _declarations(
    routes: Iterable[BaseRoute], method: str, prefix: str = "", chosen: bool = False
) -> Iterator[tuple[str, bool]]:
    """Yield the path of each endpoint, and whether a class outside the frameworks decides if it serves."""
    for route, chooses in _open_routers(routes):
        if (path := _path(route)) is None:
            continue
        path, chooses = prefix + path, chosen or chooses
        inner, _ = _inner_routes(route)
        if inner:
            yield from _declarations(inner, method, path, chooses)
        elif inner is not None:
            yield f"{path}{_REST}", chooses
        elif chooses or method in (getattr(route, "methods", None) or {method}):
            yield path, chooses


def _open_routers(routes: Iterable[BaseRoute]) -> Iterator[tuple[Any, bool]]:
    """Yield the routes, and instead of a router that FastAPI has included its own routes."""
    for route in routes:
        router = getattr(route, _FASTAPI_ROUTER, None)
        if router is None:
            yield route, _chooses(route)
            continue
        from fastapi.routing import iter_route_contexts  # such a route has imported it

        for context in iter_route_contexts([route]):
            yield context, _chooses(router) or _chooses(context.original_route)


def _chooses(route: object) -> bool:
    return not _is_of(getattr(route, "matches", None), _FRAMEWORKS)


def _is_of(function: object, packages: frozenset[str]) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] in packages


# --- applications


def _application(app: object) -> Starlette | Router | None:
    while not isinstance(app, Starlette | Router):
        if not _is_of(getattr(type(app), "__call__", None), _MIDDLEWARES):  # noqa: B004  whose it is
            return None
        app = getattr(app, "app", None)
    return app


def _with_root_path(application: Starlette | Router, scope: Scope) -> Scope:
    """Return the scope with the root path that a FastAPI application sets itself, if it has one."""
    root_path = getattr(application, "root_path", "")
    return {**scope, "root_path": root_path} if root_path else scope


async def _never(_request: object) -> None:
    """Do nothing. A route of `make_routes` is only compared with requests."""
