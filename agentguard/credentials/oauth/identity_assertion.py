"""The broker for a service of another company: by an assertion of the user's own identity provider.

The user has logged in at the identity provider of their company. The other side has an authorization server
of its own. The broker exchanges the user's ID token at the identity provider for an assertion that is for
that server (RFC 8693), and has the server issue a token for it (RFC 7523). The assertion is an ID-JAG
(draft-ietf-oauth-identity-assertion-authz-grant-03); MCP calls this Enterprise-Managed Authorization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Unpack

from agentguard.concurrency.drive import drive
from agentguard.credentials.oauth.profile import TOKEN_TYPE
from agentguard.credentials.oauth.request import (
    CallFields,
    InvalidRequest,
    TokenRequest,
    User,
    call_fields,
    user_of,
)
from agentguard.credentials.oauth.response import ExpectedToken, InvalidResponse, token_in
from agentguard.credentials.oauth.server import AuthorizationServer, Form, ServerOperations
from agentguard.credentials.oauth.token_broker import BrokerOptions, TokenBroker
from agentguard.errors import ConfigurationError
from agentguard.jose import Json, dpop_key, number_claim, unverified_parts
from agentguard.model import Grant, Secret
from agentguard.outbound.client import Outbound

__all__ = ["IdentityAssertion", "IdentityProvider"]

ID_JAG = f"{TOKEN_TYPE}id-jag"
_TYP = "oauth-id-jag+jwt"


class IdentityProvider(NamedTuple):
    """The company's identity provider, as the agent's client uses it.

    With *linked* False, the other server's tokens must have the same `sub` as the assertion. With True, that
    server has accounts of its own, linked with the company's: which account a token is for is then not
    compared, and a wrong link there gives the agent another user's account.
    """

    server: AuthorizationServer
    linked: bool = False


class IdentityAssertion(TokenBroker):
    """A `TokenBroker` whose *server* is the other side's, for users of the identity provider *idp*.

    The grant's subject token is the user's ID token, of *idp*. An agent without a user gets no token.

    The profile is that of *server*, with the agent's client id there as `actor_client`; its `subject` is our
    name of a user by a claim of the ID token. The assertion must be for this user, this server and this
    client, and for the agent's key if it is bound to one; else it is sent nowhere. It ends by itself, and
    servers take it once. A server need not hold to the scopes of the assertion (Keycloak 26.7 does not), so
    a token with more of them is refused and revoked.

    Raises:
        ConfigurationError: The profile has no `actor_client`.
    """

    kind: ClassVar[str] = "identity_assertion"

    def __init__(
        self, server: AuthorizationServer, *, idp: IdentityProvider, **options: Unpack[BrokerOptions]
    ) -> None:
        super().__init__(server, **options)
        if self._profile.actor_client is None:
            raise ConfigurationError(
                "the agent's client id at the other server is not known", hint="name it as actor_client"
            )
        self._idp, self._linked = idp.server, idp.linked

    def check(self) -> None:
        """Ask both servers whether they know the broker's clients (see `TokenBroker.check`)."""
        drive(self._idp.check(self._idp.sync))
        super().check()

    @property
    def services(self) -> tuple[Outbound, ...]:
        """Both authorization servers."""
        return (*super().services, self._idp.http)

    def close(self) -> None:
        """Close the connections of both servers."""
        super().close()
        self._idp.close()

    @property
    def _login_server(self) -> AuthorizationServer:
        return self._idp

    async def _request(self, grant: Grant) -> TokenRequest:
        return await self._assert(grant, self._idp.sync)

    async def _arequest(self, grant: Grant) -> TokenRequest:
        return await self._assert(grant, self._idp.async_)

    async def _assert(self, grant: Grant, operations: ServerOperations) -> TokenRequest:
        user = user_of(grant, self._profile, self._idp.issuer)
        if user is None:
            raise InvalidRequest("only a user's agent can have an assertion of the user's identity")
        call = call_fields(grant, self._profile)
        metadata = await self._idp.metadata(operations)
        form: Form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": ID_JAG,
            "subject_token": user.token,
            "subject_token_type": f"{TOKEN_TYPE}id_token",
            "audience": self.issuer,
            **call.resource,
            **({"scope": " ".join(sorted(grant.scopes))} if grant.scopes else {}),
        }
        body = self._idp.body(await self._idp.post(operations, metadata.token, form), for_user=True)
        try:
            assertion = token_in(body)
            if body.get("issued_token_type") != ID_JAG:
                raise InvalidResponse("issued another type of token")
            scopes = self._validate(assertion, user, grant)
        except InvalidResponse as invalid:
            raise self._idp.issue_error(str(invalid)) from None
        return TokenRequest(
            {
                "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
                "assertion": assertion,
                **call.resource,
                **call.form(scopes),
            },
            self._expected(grant, user, call, scopes.union(call.scopes)),
        )

    def _validate(self, assertion: Secret, user: User, grant: Grant) -> frozenset[str]:
        """Return the scopes that the assertion is for, if it is the one that was asked for.

        Its signature is not verified: it comes from the identity provider itself, and the other server
        verifies it.

        Raises:
            InvalidResponse: It is for somebody or something else.
        """
        header, claims = unverified_parts(assertion.reveal()) or ({}, {})
        if header.get("typ") != _TYP:
            raise InvalidResponse("the assertion is no ID-JAG")
        for reason, is_wrong in self._faults(claims, user).items():
            if is_wrong():
                raise InvalidResponse(f"the assertion is {reason}")
        scope = claims.get("scope", " ".join(grant.scopes))
        if not isinstance(scope, str) or not grant.scopes.issuperset(scope.split()):
            raise InvalidResponse("the assertion's scope is wider than asked")
        return frozenset(scope.split())

    def _faults(self, claims: Mapping[str, Json], user: User) -> Mapping[str, Callable[[], bool]]:
        ends, (thumbprint, is_bound_to_more) = number_claim(claims, "exp"), dpop_key(claims)
        is_bound = thumbprint is not None or is_bound_to_more
        return {
            "by another issuer": lambda: claims.get("iss") != self._idp.issuer,
            "for another server": lambda: claims.get("aud") not in (self.issuer, [self.issuer]),
            "for another subject": lambda: claims.get("sub") != user.subject,
            "for another client": lambda: claims.get("client_id") != self._profile.actor_client,
            "over, or does not end": lambda: ends is None or ends <= self._clock(),
            "not bound to our key": lambda: is_bound and (is_bound_to_more or thumbprint != self._thumbprint),
        }

    def _expected(self, grant: Grant, user: User, call: CallFields, scopes: frozenset[str]) -> ExpectedToken:
        profile = self._profile
        return ExpectedToken(
            issuer=self.issuer,
            subject=None if self._linked else user.subject,
            actor=profile.party_name(grant.identity.actor),
            actor_issuers=frozenset({self.issuer, self._idp.issuer}),
            actor_client=profile.actor_client,
            scopes=scopes,
            audiences=frozenset({grant.audience, *call.target.values()}),
            detail=grant.detail() if profile.details else None,
            thumbprint=self._thumbprint,
            exchanged=False,
        )
