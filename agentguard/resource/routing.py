"""Find the endpoint of a Starlette or FastAPI application that will serve a request.

The application's own routes are asked, in the order in which the application asks them. So a rule is chosen
by the endpoint that runs and not by the spelling of a path. A middleware between `asgi.Protected` and the
routes can still change the method or the path of a request; it is not seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match, Route, Router

from agentguard.errors import ConfigurationError

__all__ = ["Endpoint", "Finder", "Scope", "find_endpoint", "find_only_endpoint", "make_finder", "make_routes"]

Scope = MutableMapping[str, Any]

_FASTAPI_ROUTER = "original_router"  # what FastAPI's include_router leaves in the list of routes has it


class Endpoint(NamedTuple):
    """The path of a route, as the application declares it, and the parameters that the endpoint gets."""

    route: str
    params: Mapping[str, Any]


Finder = Callable[[Scope], Endpoint | None]


def make_finder(app: object) -> Finder:
    """Return what finds the endpoint of *app*, also if middlewares that keep it in `app` stand before it.

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


def find_endpoint(routes: Iterable[BaseRoute], scope: Scope) -> Endpoint | None:
    """Return the endpoint that serves the request, or None if there is none or it cannot be told.

    The path of an endpoint in a mounted application begins with the path of the mount. Below a host it
    begins with the host's name. An application that is mounted and has no routes is one endpoint:
    ``/static/{path:path}``.
    """
    for route in _open_routers(routes):
        match, changes = route.matches(dict(scope))
        if match is Match.FULL:
            return _endpoint(route, {**scope, **changes})
    return None


def find_only_endpoint(routes: Iterable[BaseRoute], scope: Scope) -> Endpoint | None:
    """Return the endpoint that serves the request, or None if none does or more than one may."""
    endpoints = [endpoint for route in routes if (endpoint := find_endpoint([route], scope))]
    return endpoints[0] if len(endpoints) == 1 else None


def _endpoint(route: BaseRoute, scope: Scope) -> Endpoint | None:
    path = getattr(route, "path", getattr(route, "host", None))
    if not isinstance(path, str):  # a kind of route that is not known here
        return None
    inner = getattr(route, "routes", None)
    if inner is None:
        return Endpoint(path, scope["path_params"])
    application = _application(getattr(route, "app", None))
    if application is not None:
        inner, scope = application.routes, _with_root_path(application, scope)
    if not inner:
        rest = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/")
        return Endpoint(f"{path}/{{path:path}}", {**scope["path_params"], "path": rest})
    endpoint = find_endpoint(inner, scope)
    return None if endpoint is None else Endpoint(path + endpoint.route, endpoint.params)


def _application(app: object) -> Starlette | Router | None:
    while app is not None and not isinstance(app, Starlette | Router):
        app = getattr(app, "app", None)
    return app


def _with_root_path(application: Starlette | Router, scope: Scope) -> Scope:
    """Return the scope with the root path that a FastAPI application sets itself, if it has one."""
    root_path = getattr(application, "root_path", "")
    return {**scope, "root_path": root_path} if root_path else scope


def _open_routers(routes: Iterable[BaseRoute]) -> Iterator[Any]:
    """Yield the routes, and instead of a router that FastAPI has included its own routes."""
    for route in routes:
        if hasattr(route, _FASTAPI_ROUTER):
            from fastapi.routing import iter_route_contexts  # such a route has imported it

            yield from iter_route_contexts([route])
        else:
            yield route


async def _never(_request: object) -> None:
    """Do nothing. A route of `make_routes` is only compared with requests."""
