"""Read a request as the application will read it, or refuse it if two readers can read it differently."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.requests import Request

from agentguard.asgi import Message, Receive, receive_body
from agentguard.errors import VerificationError
from agentguard.jose import Json, strict_json
from agentguard.resource.routing import Scope

__all__ = [
    "Presented",
    "Receive",
    "buffer_body",
    "path_has_one_reading",
    "present",
    "read_body",
    "require_one_method",
    "unexpected_form",
]


# what says a second method; no part of HTTP, but some frameworks and middlewares obey it
_METHOD_HEADERS = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
_METHOD_FIELD = "_method"
# a separator that is encoded is one segment to a reader of the raw path, and two to a reader of the path
_ENCODED_SEPARATOR = re.compile(rb"%2f|%5c", re.I)
_UNCLEAR = re.compile("[\x00-\x1f\x7f\\\\\ufffd]")
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  RFC 9110 section 5.6.2; it is no secret
_PARAMETER = rf'[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"{_TOKEN}")'
# some readers only look at the beginning of a type
_OTHER_FORM = r"(?!x-www-form-urlencoded|form-data|xml|yaml|x-yaml)"
_JSON_TYPE = re.compile(rf"application/(?:json|{_OTHER_FORM}{_TOKEN}\+json)((?:{_PARAMETER})*)", re.I)


class Presented(NamedTuple):
    """The request as *arguments* functions see it: path parameters, query (each name once), JSON body.

    A path parameter is what the application's route makes of it: a number for ``{order_id:int}``.
    """

    params: Mapping[str, Any]
    query: Mapping[str, str]
    body: Json


def present(scope: Scope, params: Mapping[str, Any], body: bytes) -> Presented:
    """Read the query and the body.

    Raises:
        VerificationError: 415, a body is not sent as JSON; or 400, the query or the body is malformed, or a
            name or a key occurs twice.
    """
    if body:
        _require_json(scope)
    try:
        return Presented(params, _query(scope), strict_json(body) if body else None)
    except ValueError as error:
        raise unexpected_form() from error


def path_has_one_reading(scope: Scope) -> bool:
    r"""Return whether every reader finds the same segments in the path.

    It has no ``.``, ``..`` or empty segment, which some readers remove (RFC 3986 section 5.2.4), no encoded
    slash, no backslash, no control character, and nothing that is not UTF-8.
    """
    path: str = scope["path"]
    segments = path.split("/")
    if "" in segments[1:-1] or not {".", ".."}.isdisjoint(segments) or _UNCLEAR.search(path):
        return False
    return not _ENCODED_SEPARATOR.search(scope.get("raw_path") or b"")


def require_one_method(scope: Scope) -> None:
    """Refuse a request that names a second method, in a header or in the query.

    Raises:
        VerificationError: 400.
    """
    names = {name.lower() for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), True)}
    if _METHOD_FIELD in names or any(name in _METHOD_HEADERS for name, _ in _named_headers(scope)):
        raise VerificationError("invalid_request", "the request names a second method", status=400)


async def buffer_body(receive: Receive, limit: int, seconds: float) -> tuple[bytes, Receive]:
    """Read the body of at most *limit* bytes, and return it and a channel on which it can be read again.

    Raises:
        VerificationError: 408, the body did not end within *seconds*; 413, it is too large; or 400, the
            client has gone.
    """
    async with _in_time(seconds):
        body = await receive_body(receive, limit)
    replay: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return replay.pop() if replay else await receive()

    return body, again


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """Return the body of a Starlette request, which keeps it for the endpoint.

    Raises:
        VerificationError: As in `buffer_body`; or 415, the application has read the body as a form.
    """
    async with _in_time(seconds):
        try:
            body = await request.body()
        except RuntimeError:
            raise VerificationError("invalid_request", "the body was not read as JSON", status=415) from None
    if len(body) > limit:
        raise _too_large()
    return body


@asynccontextmanager
async def _in_time(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise VerificationError("invalid_request", "the body came too slowly", status=408) from None


def _too_large() -> VerificationError:
    return VerificationError("invalid_request", "the body is too large", status=413)


def unexpected_form() -> VerificationError:
    """Return the refusal of a request that is not in the form of its endpoint."""
    return VerificationError("invalid_request", "the request does not have the expected form", status=400)


def _query(scope: Scope) -> dict[str, str]:
    text = scope["query_string"].decode("ascii")
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    query = dict(pairs)
    if len(query) != len(pairs):
        raise ValueError("a name occurs twice")
    return query


def _require_json(scope: Scope) -> None:
    """Refuse a body that a reader may take for a form, for text in another charset, or for compressed."""
    headers = _named_headers(scope)
    types = [value for name, value in headers if name == b"content-type"]
    encodings = {value.lower() for name, value in headers if name == b"content-encoding"}
    match = _JSON_TYPE.fullmatch(types[0].decode("latin-1").strip(" \t")) if len(types) == 1 else None
    if match is None or not encodings <= {b"identity"}:
        raise _unsupported()
    parameters = [text.strip(" \t").lower().partition("=") for text in match[1].split(";")[1:]]
    if any(name == "charset" and value.strip('"') != "utf-8" for name, _, value in parameters):
        raise _unsupported()


def _named_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers as a WSGI application sees them: in a name, ``_`` and ``-`` are one character."""
    return [(name.lower().replace(b"_", b"-"), value) for name, value in scope["headers"]]


def _unsupported() -> VerificationError:
    return VerificationError("invalid_request", "the body is not sent as JSON in UTF-8", status=415)
