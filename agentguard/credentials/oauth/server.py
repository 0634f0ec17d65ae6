"""An authorization server as its client sees it: its metadata (RFC 8414), requests and answers."""

from __future__ import annotations

import logging
import re
import secrets
import ssl
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from agentguard.concurrency.drive import Operation, operation_pair
from agentguard.concurrency.single_flight import Share, SingleFlight
from agentguard.credentials.oauth.client_auth import ClientAuth, Proof
from agentguard.credentials.oauth.refusals import error_code, grant_page, missing_grant
from agentguard.errors import ConfigurationError, GrantMissing, IssueError
from agentguard.jose import Json, htu, strict_json
from agentguard.model import Secret
from agentguard.outbound.client import Answer, Limits, Outbound
from agentguard.outbound.destinations import is_confidential_url, is_page_for_users
from agentguard.text import label

__all__ = ["AuthorizationServer", "Form", "Metadata", "ServerOperations", "metadata_urls"]

Form = Mapping[str, str | Secret]

log = logging.getLogger("agentguard")

_GONE = frozenset({404, 405})
_NONCE = re.compile(r"[!#-\[\]-~]{1,1024}")  # RFC 9449 section 8.1: NQCHAR


class Metadata(NamedTuple):
    """The URLs of a server's endpoints. The last two are None if the server does not have them."""

    token: str
    revocation: str | None
    introspection: str | None


class ServerOperations(NamedTuple):
    """What `AuthorizationServer` needs from others, on the synchronous or the asynchronous path."""

    ask: Operation
    share: Share
    prove: Operation


class AuthorizationServer:
    """One server, as *client_auth* uses it. Its metadata must name *issuer* (RFC 8414 section 3.3).

    The metadata is fetched once, and again after a request to one of its endpoints had no answer. The
    endpoints must be https; a server on loopback may use http. Give ``server.sync`` or
    ``server.async_`` to the other methods. *verify* holds the certificates to trust, for a server behind a
    company's own authority; or give *http*, which sends the requests. *grant_url* is the page where users
    give what the server misses of them; without it, that is the page which the server itself names at its
    own origin.

    Raises:
        ConfigurationError: *issuer* is not an https URL, or has a query or a fragment; or *grant_url* is not
            an https URL.
    """

    def __init__(
        self,
        issuer: str,
        client_auth: ClientAuth,
        http: Outbound | None = None,
        *,
        verify: ssl.SSLContext | bool = True,
        grant_url: str | None = None,
    ) -> None:
        if grant_url is not None and not is_page_for_users(grant_url):
            raise ConfigurationError("grant_url is an https URL", hint="name the page of the server's users")
        if "?" in issuer or "#" in issuer or not _is_endpoint(issuer, allow_http=True):
            raise ConfigurationError("an issuer is an https URL", hint="leave out query and fragment")
        self.issuer, self._grant_url = issuer, grant_url
        self._http = http = http or Outbound(issuer, issuer, limits=Limits(timeout=2.0), verify=verify)
        self._allow_http = issuer.startswith("http:")
        self._metadata: Metadata | None = None
        self._nonce: str | None = None
        share, prove = SingleFlight().share, operation_pair(client_auth, "prove")
        self.sync = ServerOperations(http.ask.sync, share.sync, prove.sync)
        self.async_ = ServerOperations(http.ask.async_, share.async_, prove.async_)

    @property
    def http(self) -> Outbound:
        """What sends the requests."""
        return self._http

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    async def metadata(self, operations: ServerOperations) -> Metadata:
        """Return the URLs of the server's endpoints.

        Raises:
            IssueError: The server publishes no metadata, or the metadata of another server.
        """
        metadata = self._metadata
        if metadata is None:
            fetch = partial(self._fetch, operations)
            metadata = self._metadata = await operations.share("metadata", fetch)
        return metadata

    async def post(
        self,
        operations: ServerOperations,
        url: str,
        form: Form,
        *,
        dpop: Callable[[str, str, str | None], str] | None = None,
        repeatable: bool = False,
    ) -> Answer:
        """Send a form. *dpop(method, url, nonce)* makes a DPoP proof; the server may choose the nonce.

        Raises:
            IssueError: The server did not answer.
            IdentityError: The client cannot authenticate itself.
        """
        prove = await operations.prove(self.issuer)

        def attempt(sent_to: str) -> Proof:
            fields, headers = prove()
            proof = {} if dpop is None else {"DPoP": dpop("POST", sent_to, self._nonce)}
            return Proof({**_reveal(form), **fields}, {**headers, **proof, "Accept": "application/json"})

        try:
            answer = await self._post(operations, url, attempt, repeatable)
            if dpop is not None and answer.status == 400 and self.error_code(answer) == "use_dpop_nonce":
                answer = await self._post(operations, url, attempt, repeatable)
        except IssueError:
            self._metadata = None
            raise
        if answer.status in _GONE:
            self._metadata = None
        return answer

    async def _post(
        self, operations: ServerOperations, url: str, attempt: Callable[[str], Proof], repeatable: bool
    ) -> Answer:
        auth = _NewProofAuth(attempt)
        answer: Answer = await operations.ask("POST", url, repeatable=repeatable, auth=auth)
        nonce = answer.headers.get("dpop-nonce", "")
        if _NONCE.fullmatch(nonce):
            self._nonce = nonce
        return answer

    def body(self, answer: Answer, *, for_user: bool = False) -> dict[str, Json]:
        """Return the JSON object of an answer with status 200. *for_user* says that it is about a user.

        Raises:
            GrantMissing: The server asks something of that user.
            IssueError: The status is another one, or the body is not a JSON object.
        """
        if answer.status == 200:
            return self._object(answer)
        self._log_description(answer)
        reason = f"answered {answer.status} {self.error_code(answer)}"
        members = self._error_members(answer) if for_user else {}
        if (code := missing_grant(members)) is not None:
            raise self.grant_missing(code, reason, grant_page(members, self.issuer))
        raise self.issue_error(reason)

    def grant_missing(self, code: str, reason: str, page: str | None = None) -> GrantMissing:
        """Return an error that says what this server misses of the user; *page* is one that it has named."""
        url = self._grant_url or page
        return GrantMissing(f"{self.issuer}: {reason}", code=code, issuer=self.issuer, url=url)

    def _log_description(self, answer: Answer) -> None:
        """Log the server's own words at DEBUG. They are in no error, since they may repeat what was sent."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s answered %d: %s", self.issuer, answer.status, self._description(answer))

    def _description(self, answer: Answer) -> str:
        members = self._error_members(answer)
        return label(str(members.get("error_description"))) if members else "no JSON"

    def error_code(self, answer: Answer) -> str:
        """Return the answer's error code if an RFC defines it, or a text that says there is none."""
        return error_code(self._error_members(answer)) or "without a known error"

    def _error_members(self, answer: Answer) -> dict[str, Json]:
        try:
            return self._object(answer)
        except IssueError:
            return {}

    async def check(self, operations: ServerOperations) -> None:
        """Ask the server whether it knows this client, by the revocation of a token that does not exist.

        Nothing is issued or ended. Unlike in other errors, the server's own words are told: they are for the
        person who has called this.

        Raises:
            IssueError: The server does not answer, has no such endpoint, or does not know the client.
            IdentityError: The client cannot authenticate itself.
        """
        metadata = await self.metadata(operations)
        if metadata.revocation is None:
            raise self.issue_error("its metadata has no revocation_endpoint")
        form: Form = {"token": secrets.token_urlsafe(16), "token_type_hint": "access_token"}
        answer = await self.post(operations, metadata.revocation, form, repeatable=True)
        if answer.status != 200:
            words = self._description(answer)
            raise self.issue_error(f"answered {answer.status} {self.error_code(answer)}: {words}")

    def issue_error(self, reason: str) -> IssueError:
        """Return an error that names this server and *reason*."""
        return IssueError(f"{self.issuer}: {reason}")

    def _object(self, answer: Answer) -> dict[str, Json]:
        try:
            body = strict_json(answer.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise self.issue_error("the answer is not a JSON object")
        return body

    async def _fetch(self, operations: ServerOperations) -> Metadata:
        for url in metadata_urls(self.issuer):
            answer = await operations.ask("GET", url, repeatable=True, headers={"Accept": "application/json"})
            if answer.status == 200:
                return self._read(self._object(answer))
        raise self.issue_error("publishes no metadata")

    def _read(self, members: Mapping[str, Json]) -> Metadata:
        if members.get("issuer") != self.issuer:
            raise self.issue_error("its metadata is another issuer's")
        token, revocation, introspection = (
            self._endpoint(members, f"{name}_endpoint") for name in ("token", "revocation", "introspection")
        )
        if token is None:
            raise self.issue_error("its metadata has no token_endpoint")
        return Metadata(token, revocation, introspection)

    def _endpoint(self, members: Mapping[str, Json], name: str) -> str | None:
        url = members.get(name)
        if url is None:
            return None
        if not isinstance(url, str) or not _is_endpoint(url, allow_http=self._allow_http):
            raise self.issue_error(f"its {name} is not reached by https")
        return url


class _NewProofAuth(httpx.Auth):
    """Makes a new proof for each attempt, since servers refuse a proof or assertion that they saw before."""

    def __init__(self, attempt: Callable[[str], Proof]) -> None:
        self._attempt = attempt

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        form, headers = self._attempt(str(request.url))
        all_headers = request.headers.copy()
        del all_headers["Content-Length"]  # of the empty body that the form replaces
        all_headers.update(headers)
        yield httpx.Request(
            request.method, request.url, headers=all_headers, data=form, extensions=request.extensions
        )


def _reveal(form: Form) -> dict[str, str]:
    return {name: value if isinstance(value, str) else value.reveal() for name, value in form.items()}


def metadata_urls(issuer: str) -> list[str]:
    """Return where metadata may be, in the order in which the places are tried.

    RFC 8414 section 3.1, OpenID Connect Discovery 1.0 section 4, then the OpenID name with the issuer's path
    behind it (RFC 8414 section 5). In each place the metadata must name the issuer. For an issuer without a
    path, the last two are one.
    """
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    places = (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
        f"{origin}/.well-known/openid-configuration{path}",
    )
    return list(dict.fromkeys(places))


def _is_endpoint(url: str, *, allow_http: bool) -> bool:
    try:
        normal = htu(url)
    except ValueError:
        return False
    return (allow_http or normal.startswith("https:")) and is_confidential_url(normal)
