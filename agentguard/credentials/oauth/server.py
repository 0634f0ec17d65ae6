"""An authorization server as its client sees it: where it is (RFC 8414), and what it may answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from agentguard.concurrency.drive import Operation, operation_pair
from agentguard.concurrency.single_flight import Share, SingleFlight
from agentguard.credentials.oauth.client_auth import ClientAuth, Proof
from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import Json, htu, strict_json
from agentguard.model import Secret
from agentguard.outbound.client import Answer, Outbound
from agentguard.outbound.destinations import is_confidential

__all__ = ["AuthorizationServer", "Form", "Line", "Metadata"]

Form = Mapping[str, str | Secret]

_GONE = frozenset({404, 405})
_NONCE = re.compile(r"[!#-\[\]-~]{1,1024}")  # RFC 9449 section 8.1: NQCHAR
_ERRORS = frozenset(
    {
        "invalid_authorization_details",
        "invalid_client",
        "invalid_dpop_proof",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_token_type",
        "use_dpop_nonce",
    }
)
"""The codes of RFC 6749 section 5.2, 7009, 8693, 8707, 9396 and 9449; others are not repeated."""


class Metadata(NamedTuple):
    """The endpoints that a token's life needs; the last two may be missing."""

    token: str
    revocation: str | None
    introspection: str | None


class Line(NamedTuple):
    """The way to a server on the synchronous or the asynchronous path."""

    ask: Operation
    share: Share
    prove: Operation


class AuthorizationServer:
    """One server, believed only where it says of itself that it is *issuer* (RFC 8414 section 3.3).

    Its metadata is fetched once, and again after the server could not be reached where it said. Its
    endpoints are reached by https; a server on loopback may use http. Give what it returns for
    ``line.sync`` or ``line.async_`` to the other methods.

    Raises:
        ConfigurationError: *issuer* is no https URL without query and fragment.
    """

    def __init__(self, issuer: str, client_auth: ClientAuth, http: Outbound) -> None:
        if "?" in issuer or "#" in issuer or not _reachable(issuer, plain=True):
            raise ConfigurationError("an issuer is an https URL", hint="without query and fragment")
        self.issuer = issuer
        self._plain = issuer.startswith("http:")
        self._known: Metadata | None = None
        self._nonce: str | None = None
        share, prove = SingleFlight().share, operation_pair(client_auth, "prove")
        self.sync = Line(http.ask.sync, share.sync, prove.sync)
        self.async_ = Line(http.ask.async_, share.async_, prove.async_)

    async def metadata(self, line: Line) -> Metadata:
        """Return its endpoints.

        Raises:
            IssueError: It does not say them, or another server answers.
        """
        known = self._known
        if known is None:
            known = self._known = await line.share("metadata", lambda: self._fetch(line))
        return known

    async def post(
        self,
        line: Line,
        url: str,
        form: Form,
        *,
        dpop: Callable[[str, str, str | None], str] | None = None,
        repeatable: bool = False,
    ) -> Answer:
        """Send a form; *dpop(method, url, nonce)* makes a proof, whose nonce the server may choose.

        Raises:
            IssueError: There is no answer.
            IdentityError: The client cannot prove itself.
        """
        prove = await line.prove(self.issuer)

        def attempt() -> Proof:
            members, headers = prove()
            bound = {} if dpop is None else {"DPoP": dpop("POST", url, self._nonce)}
            return Proof({**_revealed(form), **members}, {**headers, **bound, "Accept": "application/json"})

        try:
            answer = await self._post(line, url, attempt, repeatable)
            if dpop is not None and answer.status == 400 and self.error(answer) == "use_dpop_nonce":
                answer = await self._post(line, url, attempt, repeatable)
        except IssueError:
            self._known = None
            raise
        if answer.status in _GONE:
            self._known = None
        return answer

    async def _post(self, line: Line, url: str, attempt: Callable[[], Proof], repeatable: bool) -> Answer:
        answer: Answer = await line.ask("POST", url, repeatable=repeatable, auth=_Afresh(attempt))
        nonce = answer.headers.get("dpop-nonce", "")
        if _NONCE.fullmatch(nonce):
            self._nonce = nonce
        return answer

    def body(self, answer: Answer) -> dict[str, Json]:
        """Return the JSON object of a 200.

        Raises:
            IssueError: It is another status, or anything else.
        """
        if answer.status != 200:
            raise self.failed(f"answered {answer.status} {self.error(answer)}")
        return self._object(answer)

    def error(self, answer: Answer) -> str:
        """Return its error code, if it is one of the RFCs'."""
        try:
            code = self._object(answer).get("error")
        except IssueError:
            code = None
        return code if isinstance(code, str) and code in _ERRORS else "without a known error"

    def failed(self, reason: str) -> IssueError:
        """Return the error that says so of this server."""
        return IssueError(f"{self.issuer}: {reason}")

    def _object(self, answer: Answer) -> dict[str, Json]:
        try:
            body = strict_json(answer.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise self.failed("answered what is no JSON object")
        return body

    async def _fetch(self, line: Line) -> Metadata:
        for place in _places(self.issuer):
            answer = await line.ask("GET", place, repeatable=True, headers={"Accept": "application/json"})
            if answer.status == 200:
                return self._read(self._object(answer))
        raise self.failed("publishes no metadata")

    def _read(self, said: Mapping[str, Json]) -> Metadata:
        if said.get("issuer") != self.issuer:
            raise self.failed("its metadata is another issuer's")
        token, *others = (
            self._endpoint(said, f"{name}_endpoint") for name in ("token", "revocation", "introspection")
        )
        if token is None:
            raise self.failed("its metadata has no token_endpoint")
        return Metadata(token, *others)

    def _endpoint(self, said: Mapping[str, Json], name: str) -> str | None:
        url = said.get(name)
        if url is None:
            return None
        if not isinstance(url, str) or not _reachable(url, plain=self._plain):
            raise self.failed(f"its {name} is not reached by https")
        return url


class _Afresh(httpx.Auth):
    """Makes each attempt anew, for servers remember the proofs and assertions that they have seen."""

    def __init__(self, attempt: Callable[[], Proof]) -> None:
        self._attempt = attempt

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        form, headers = self._attempt()
        merged = request.headers.copy()
        del merged["Content-Length"]  # of the body that this one takes the place of
        merged.update(headers)
        yield httpx.Request(
            request.method, request.url, headers=merged, data=form, extensions=request.extensions
        )


def _revealed(form: Form) -> dict[str, str]:
    return {name: value if isinstance(value, str) else value.reveal() for name, value in form.items()}


def _places(issuer: str) -> tuple[str, str]:
    """Return where metadata may be: RFC 8414 section 3.1, then OpenID Connect Discovery 1.0 section 4."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    )


def _reachable(url: str, *, plain: bool) -> bool:
    try:
        parts = urlsplit(htu(url))
    except ValueError:
        return False
    return (plain or parts.scheme == "https") and is_confidential(parts.scheme, parts.hostname)
