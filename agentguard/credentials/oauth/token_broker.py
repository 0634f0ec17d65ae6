"""What the brokers of an authorization server share: the request, the check of the answer, the revocation."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import ClassVar, NamedTuple, Required, TypedDict

from agentguard.concurrency.drive import Operation, drive, operation_pair
from agentguard.credentials.oauth.profile import IssuerProfile
from agentguard.credentials.oauth.refusals import LOGIN_REQUIRED
from agentguard.credentials.oauth.request import (
    InvalidRequest,
    NoUserToken,
    TokenRequest,
    is_for_itself,
)
from agentguard.credentials.oauth.response import (
    ExpectedToken,
    InvalidResponse,
    claims_of,
    token_in,
    validate_response,
)
from agentguard.credentials.oauth.revocation import TokenRevoker
from agentguard.credentials.oauth.server import AuthorizationServer, Form, ServerOperations
from agentguard.credentials.oauth.tokens import LiveToken, LiveTokens
from agentguard.credentials.presentation import Bearer, Presentation, ProofKey
from agentguard.credentials.sealing import SealingKey
from agentguard.errors import AgentGuardError, ConfigurationError
from agentguard.jose import Json, number_claim, text_claim
from agentguard.model import Credential, Grant, Secret, ToolPath
from agentguard.model.credential import Headers
from agentguard.outbound.client import Outbound
from agentguard.outbound.services import AsksServices
from agentguard.ports import BrokerTraits, Store

__all__ = ["BrokerOptions", "TokenBroker"]

_PROFILE = IssuerProfile()
MakeRequest = Callable[[Grant], Awaitable[TokenRequest]]
_ASSUMED_LIFETIME = 86_400.0  # seconds, for a token that does not say when it expires


class BrokerOptions(TypedDict, total=False):
    """The options of a `TokenBroker`."""

    paths: Required[Iterable[ToolPath]]
    store: Required[Store]
    proof_key: ProofKey | None
    seal: SealingKey | None
    reuse: Iterable[ToolPath]
    profile: IssuerProfile
    leeway: float
    clock: Callable[[], float]


class _Operations(NamedTuple):
    """What the broker needs from others, on the synchronous or the asynchronous path."""

    server: ServerOperations
    remember: Operation


class TokenBroker(AsksServices, ABC):
    """A `Broker` for *paths* that asks the authorization server *server* for each token.

    A subclass makes the request, on both paths. *profile* says what the server supports, and how it names
    things.

    The broker uses a token only if it is the one that was asked for: scopes, audience, call, key,
    subject and actor. An opaque token is introspected for this (RFC 7662). A token that the broker
    refuses is revoked. If the issuer lets a token live longer than granted, the broker uses it for the
    granted lifetime, and it is then revoked.

    A token is revoked at the issuer if the issuer can do so (RFC 7009). A JWT is also written to
    *store*, because resource servers verify it by themselves; the entry is kept until *leeway*
    seconds after the token's expiry. With *seal*, every process that has its key can revoke after a
    crash. Without *seal*, another process can still write a JWT to the store, but it cannot find an
    opaque token. Nobody can use that token after the crash, since the key that it is bound to is gone
    too. Bearer tokens are bound to no key, so they require *seal*.

    Two paths must not share a *proof_key*; by default each broker generates its own.

    Raises:
        ConfigurationError: The profile says bearer tokens, and there is no seal.
    """

    kind: ClassVar[str]
    """Its kind in agentguard.toml. A sealed handle is of one kind and one issuer."""

    def __init__(
        self,
        server: AuthorizationServer,
        *,
        paths: Iterable[ToolPath],
        store: Store,
        proof_key: ProofKey | None = None,
        seal: SealingKey | None = None,
        reuse: Iterable[ToolPath] = (),
        profile: IssuerProfile = _PROFILE,
        leeway: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if profile.bearer and seal is None:
            raise ConfigurationError("bearer tokens outlive a crash", hint="give their handles a seal")
        self.issuer, self.paths = server.issuer, frozenset(paths)
        self.traits = BrokerTraits(
            reuse=frozenset(reuse), binds_arguments=profile.details, outlives=_ASSUMED_LIFETIME
        )
        self._server, self._profile, self._clock = server, profile, clock
        self._proofs = None if profile.bearer else proof_key or ProofKey(clock=clock)
        self._tokens = LiveTokens(seal, context=f"{self.kind} {server.issuer}")
        self._revoker = TokenRevoker(
            server, self._tokens, leeway=leeway, outlives=_ASSUMED_LIFETIME, clock=clock
        )
        remember = operation_pair(store, "remember", shielded=True)
        self._sync = _Operations(server.sync, remember.sync)
        self._async = _Operations(server.async_, remember.async_)

    def issue(self, grant: Grant) -> Credential:
        """Get a token for exactly this call.

        Raises:
            GrantMissing: The issuer asks something of the user first.
            IssueError: The broker cannot ask for this grant, or the issuer did not give exactly it.
            IdentityError: The agent cannot prove its identity to the issuer.
        """
        return drive(self._issue(grant, self._sync, self._request))

    async def aissue(self, grant: Grant) -> Credential:
        """Do the same as `issue`, without blocking the event loop."""
        return await self._issue(grant, self._async, self._arequest)

    def revoke(self, handle: str, expires_at: float) -> None:
        """Make a token useless. Nothing is sent for a handle that is unknown here or was changed.

        Raises:
            IssueError: The token is not known to be revoked.
        """
        drive(self._revoker.revoke(handle, expires_at, self._sync.server, self._sync.remember))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """Do the same as `revoke`, without blocking the event loop."""
        await self._revoker.revoke(handle, expires_at, self._async.server, self._async.remember)

    def jti_of(self, handle: str) -> str | None:
        """Return the `jti` of a handle's token, or None for a handle that is unknown here.

        That of an opaque token is what its introspection told; None if it told none, or nobody asked.
        """
        token = self._tokens.find(handle)
        return None if token is None else token.jti or token.name

    def check(self) -> None:
        """Ask the server whether it knows the broker's client. Nothing is issued or ended.

        Raises:
            IssueError: The server does not answer, or does not know the client; with the server's own words.
            IdentityError: The client cannot authenticate itself.
        """
        drive(self._server.check(self._sync.server))

    @property
    def services(self) -> tuple[Outbound, ...]:
        """The authorization server."""
        return (self._server.http,)

    def close(self) -> None:
        """Close the server's connections."""
        self._server.close()

    # --- the request

    @property
    def _login_server(self) -> AuthorizationServer:
        """Where the users have logged in."""
        return self._server

    @abstractmethod
    async def _request(self, grant: Grant) -> TokenRequest:
        """Return the request for a token, on the synchronous path.

        Raises:
            InvalidRequest: The broker cannot ask for this grant.
            IssueError: What the request needs could not be had.
            IdentityError: The agent cannot prove its identity.
        """

    @abstractmethod
    async def _arequest(self, grant: Grant) -> TokenRequest:
        """Do the same as `_request`, without blocking the event loop."""

    async def _issue(self, grant: Grant, operations: _Operations, make_request: MakeRequest) -> Credential:
        self._tokens.revoked.add(grant.id)  # nothing is asked for yet
        self._require(grant)
        try:
            request = await make_request(grant)
        except NoUserToken as invalid:
            raise self._login_server.grant_missing(LOGIN_REQUIRED, str(invalid)) from None
        except InvalidRequest as invalid:
            raise self._server.issue_error(str(invalid)) from None
        metadata = await self._server.metadata(operations.server)
        now = self._clock()
        dpop = None if self._proofs is None else self._proof
        self._tokens.revoked.discard(grant.id)  # an answer that is lost may have had a token
        answer = await self._server.post(operations.server, metadata.token, request.form, dpop=dpop)
        if 400 <= answer.status < 500:
            self._tokens.revoked.add(grant.id)
        body = self._server.body(answer, for_user=not is_for_itself(grant))
        try:
            token = token_in(body)
        except InvalidResponse as invalid:
            self._tokens.revoked.add(grant.id)
            raise self._server.issue_error(str(invalid)) from None
        return await self._accept(grant, token, body, now, request.expected, operations)

    def _require(self, grant: Grant) -> None:
        if grant.path not in self.paths:
            raise self._server.issue_error(f"this broker does not mint for {grant.path}")
        if grant.lifetime < 1:
            raise self._server.issue_error("a lifetime of less than one second is over before it begins")
        if self._tokens.is_full(self._clock()):
            raise self._server.issue_error("too many tokens are alive")

    @property
    def _thumbprint(self) -> str | None:
        return None if self._proofs is None else self._proofs.thumbprint

    def _proof(self, method: str, url: str, nonce: str | None) -> str:
        assert self._proofs is not None  # noqa: S101  `_issue` passes this method only if there is a key
        return self._proofs.proof(method, url, nonce=nonce)

    # --- the answer

    def _presentation(self, token: str) -> Headers:
        return Bearer(token) if self._proofs is None else Presentation(token, self._proofs)

    async def _accept(
        self,
        grant: Grant,
        token: Secret,
        body: Mapping[str, Json],
        now: float,
        expected: ExpectedToken,
        operations: _Operations,
    ) -> Credential:
        """Use the token if it is the expected one, else revoke it. It stays known until it is revoked."""
        live = LiveToken.of(token, now + _ASSUMED_LIFETIME)
        self._tokens.add(grant.id, live)
        try:
            claims = await self._claims(token, operations.server)
            validate_response(expected, body, claims)
            earliest, latest = self._expiries(body, claims, now)
        except (InvalidResponse, AgentGuardError) as error:
            await self._revoker.discard(grant.id, live, operations.server, operations.remember)
            if isinstance(error, InvalidResponse):
                raise self._server.issue_error(str(error)) from None
            raise error from None
        handle = self._tokens.handle(grant.id, LiveToken.of(token, latest, claims))
        headers = self._presentation(token.reveal())
        expires_at = min(earliest, grant.ends_at(now))
        return Credential(token.reveal(), id=grant.id, expires_at=expires_at, headers=headers, handle=handle)

    async def _claims(self, token: Secret, operations: ServerOperations) -> Mapping[str, Json] | None:
        """Return the token's claims, its introspection if it is opaque, or None if that is switched off."""
        claims, metadata = claims_of(token), await self._server.metadata(operations)
        if claims is not None:
            if text_claim(claims, "jti") is None or number_claim(claims, "exp") is None:
                raise InvalidResponse("the token has no jti or no exp, so it cannot be revoked")
            return claims
        if metadata.revocation is None:
            raise InvalidResponse("the token is opaque, and there is no revocation_endpoint")
        if not self._profile.introspect:
            return None
        if metadata.introspection is None:
            raise InvalidResponse("the token is opaque, and there is no introspection_endpoint")
        form: Form = {"token": token, "token_type_hint": "access_token"}
        answer = await self._server.post(operations, metadata.introspection, form, repeatable=True)
        introspection = self._server.body(answer)
        if introspection.get("active") is not True:
            raise InvalidResponse("the token is not active")
        return {"iss": self.issuer, **introspection}

    def _expiries(
        self, body: Mapping[str, Json], claims: Mapping[str, Json] | None, now: float
    ) -> tuple[float, float]:
        """Return the token's earliest and latest expiry: its issuer may say it in two places."""
        lifetime, exp = number_claim(body, "expires_in"), number_claim(claims or {}, "exp")
        end = None if lifetime is None else now + lifetime
        expiries = [expiry for expiry in (exp, end) if expiry is not None]
        if not expiries or (lifetime is None and "expires_in" in body):
            raise InvalidResponse("it is not said when the token ends")
        if min(expiries) <= self._clock():
            raise InvalidResponse("the token is over already")
        return min(expiries), max(expiries)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.issuer} {' '.join(sorted(self.paths))}>"
