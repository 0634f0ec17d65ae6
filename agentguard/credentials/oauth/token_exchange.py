"""A credential for one call from an authorization server, in exchange for who the user and the agent are.

Token exchange (RFC 8693) keeps both: the token is the user's (`sub`) and names the agent that acts
(`act`). It is for one resource (RFC 8707), carries the exact call (RFC 9396), and is bound to a key
of this process (RFC 9449).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from agentguard.concurrency.drive import Operation, drive, operation_pair
from agentguard.credentials.oauth.client_auth import ClientAuth
from agentguard.credentials.oauth.response import (
    ACCESS_TOKEN,
    Asked,
    Unfit,
    claims_of,
    judge,
    token_in,
)
from agentguard.credentials.oauth.revocation import Revocation
from agentguard.credentials.oauth.server import AuthorizationServer, Form, Line
from agentguard.credentials.oauth.tokens import Living, LivingTokens
from agentguard.credentials.presentation import Bearer, Presentation, ProofKey
from agentguard.credentials.sealing import Seal
from agentguard.errors import AgentGuardError, ConfigurationError
from agentguard.jose import Json, number_claim, text_claim
from agentguard.model import Credential, Grant, Secret, ToolPath
from agentguard.model.credential import Headers
from agentguard.outbound.client import Outbound
from agentguard.ports import IdentitySource, Store

__all__ = ["JWT", "TokenExchange"]

JWT = "urn:ietf:params:oauth:token-type:jwt"
_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
_UNKNOWN = 86_400.0  # how long a token is taken to live that does not say it


class _Io(NamedTuple):
    token: Operation
    line: Line
    remember: Operation


class TokenExchange:
    """A `Broker` for *paths* that asks the authorization server *issuer* for each token.

    The user is proven by the grant's subject token, of *subject_token_type*; if it is a JWT, it must
    be of the task's subject, or nothing is sent. The agent is proven by *identity*. An agent that
    acts for itself has no user, and no `act`. *named* translates our names of users and agents to
    those of the issuer.

    The answer is used only if it is what was asked for: scopes, audience, call, key, subject, actor.
    An opaque token is introspected (RFC 7662), which costs a request for each; ``introspect=False``
    takes its subject and actor on trust. Whatever is refused is revoked. A token that the issuer lets
    live longer than granted is used for as long as granted, and is revoked then.

    Revocation: where the issuer can (RFC 7009), and for a JWT, which resources judge by themselves, a
    note in *store* too, kept *leeway* seconds beyond the token's end. With *seal*, any process that
    has its key revokes after a crash. Without, one that is left of a JWT is still noted; an opaque
    token is found in this process only, and after its end nobody can use it any more, for the key
    that it is bound to is gone as well. So *seal* is required for *bearer* tokens, which
    are worth as much to a thief.

    *resource_uris* gives an audience's URI for the issuer; an audience that is a URI is its own.
    ``details=False`` is for an issuer that does not know our authorization details: its tokens are
    then good for any call with their scopes. *http* is how the issuer is reached. Never share a
    *proof_key* between paths.

    Raises:
        ConfigurationError: The issuer is no https URL, or bearer tokens have no seal.
    """

    def __init__(
        self,
        issuer: str,
        *,
        paths: Iterable[ToolPath],
        identity: IdentitySource,
        client_auth: ClientAuth,
        store: Store,
        proof_key: ProofKey | None = None,
        seal: Seal | None = None,
        reuse: Iterable[ToolPath] = (),
        resource_uris: Mapping[str, str] | None = None,
        subject_token_type: str = JWT,
        bearer: bool = False,
        details: bool = True,
        introspect: bool = True,
        named: Callable[[str], str] = str,
        leeway: float = 60.0,
        limit: int = 10_000,
        http: Outbound | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if bearer and seal is None:
            raise ConfigurationError("bearer tokens outlive a crash", hint="give their handles a seal")
        self.issuer, self.paths, self.reuse = issuer, frozenset(paths), frozenset(reuse)
        self.binds_arguments = details
        self._http = http or Outbound(issuer, issuer, timeout=2.0)
        self._server = AuthorizationServer(issuer, client_auth, self._http)
        self._proofs = None if bearer else proof_key or ProofKey(clock=clock)
        self._living = LivingTokens(seal, context=f"token_exchange {issuer}", limit=limit)
        self._revocation = Revocation(self._server, self._living, leeway=leeway, clock=clock)
        self._resource_uris = dict(resource_uris or {})
        self._subject_token_type, self._named = subject_token_type, named
        self._details, self._introspect, self._clock = details, introspect, clock
        token, remember = operation_pair(identity, "token"), operation_pair(store, "remember", shielded=True)
        self._sync = _Io(token.sync, self._server.sync, remember.sync)
        self._async = _Io(token.async_, self._server.async_, remember.async_)

    def issue(self, grant: Grant) -> Credential:
        """Obtain a token for exactly this call.

        Raises:
            IssueError: The grant cannot be asked for, or the issuer did not give exactly it.
            IdentityError: The agent cannot prove itself to the issuer.
        """
        return drive(self._issue(grant, self._sync))

    async def aissue(self, grant: Grant) -> Credential:
        """As `issue`, without blocking the event loop."""
        return await self._issue(grant, self._async)

    def revoke(self, handle: str, expires_at: float) -> None:
        """Make a token useless; a handle that is unknown here, or was changed, sends nothing.

        Raises:
            IssueError: It is not known to be revoked.
        """
        drive(self._revocation.revoke(handle, self._sync.line, self._sync.remember))

    async def arevoke(self, handle: str, expires_at: float) -> None:
        """As `revoke`, without blocking the event loop."""
        await self._revocation.revoke(handle, self._async.line, self._async.remember)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- asking

    async def _issue(self, grant: Grant, io: _Io) -> Credential:
        self._require(grant)
        subject_token = self._subject_token(grant)
        form = await self._form(grant, subject_token, io)
        metadata = await self._server.metadata(io.line)
        now = self._clock()
        proof = None if self._proofs is None else self._prove
        body = self._server.body(await self._server.post(io.line, metadata.token, form, dpop=proof))
        try:
            token = token_in(body)
        except Unfit as unfit:
            raise self._server.failed(str(unfit)) from None
        return await self._accept(grant, token, body, now, io)

    def _require(self, grant: Grant) -> None:
        if grant.path not in self.paths:
            raise self._server.failed(f"this broker does not mint for {grant.path}")
        if grant.lifetime < 1:
            raise self._server.failed("a lifetime of less than one second is over before it begins")
        if self._living.full(self._clock()):
            raise self._server.failed("too many tokens are alive")

    def _subject_token(self, grant: Grant) -> Secret | None:
        """Return the user's token, or None where there is no user."""
        who, token = grant.identity, grant.subject_token
        if (token is None) is not (who.subject == who.actor):
            raise self._server.failed("a token of the user is given exactly where the task has a user")
        if token is not None:
            claims = claims_of(token)
            if claims is None and self._subject_token_type == JWT:
                raise self._server.failed("the token of the user is no JWT")
            if claims is not None and claims.get("sub") != self._named(who.subject):
                raise self._server.failed("the token of the user is not of the task's subject")
        return token

    async def _form(self, grant: Grant, subject_token: Secret | None, io: _Io) -> Form:
        agent: Secret = await io.token(self.issuer)
        subject = agent if subject_token is None else subject_token
        uri = self._resource_uri(grant)
        form: dict[str, str | Secret] = {
            "grant_type": _GRANT_TYPE,
            "requested_token_type": ACCESS_TOKEN,
            "subject_token": subject,
            "subject_token_type": JWT if subject_token is None else self._subject_token_type,
            **({"audience": grant.audience} if uri is None else {"resource": uri}),
        }
        if subject_token is not None:
            form |= {"actor_token": agent, "actor_token_type": JWT}
        if grant.scopes:
            form["scope"] = " ".join(sorted(grant.scopes))
        if self._details:
            form["authorization_details"] = json.dumps([grant.detail()])
        return form

    def _resource_uri(self, grant: Grant) -> str | None:
        own = grant.audience if "://" in grant.audience else None
        return self._resource_uris.get(grant.audience, own)

    def _prove(self, method: str, url: str, nonce: str | None) -> str:
        assert self._proofs is not None  # noqa: S101  given as a proof only where there is a key
        return self._proofs.proof(method, url, nonce=nonce)

    # --- accepting

    def _presentation(self, token: str) -> Headers:
        return Bearer(token) if self._proofs is None else Presentation(token, self._proofs)

    async def _accept(
        self, grant: Grant, token: Secret, body: Mapping[str, Json], now: float, io: _Io
    ) -> Credential:
        """Use the token if it is what was asked for; from here on it is kept, or known to be revoked."""
        living = Living.of(token, now + _UNKNOWN)
        self._living.keep(grant.id, living)
        try:
            claims = await self._claims(token, io.line)
            judge(self._asked(grant), body, claims)
            first, last = self._ends(body, claims, now)
        except (Unfit, AgentGuardError) as unfit:
            await self._revocation.discard(grant.id, living, io.line, io.remember)
            raise (self._server.failed(str(unfit)) if isinstance(unfit, Unfit) else unfit) from None
        handle = self._living.handle(grant.id, Living.of(token, last))
        headers = self._presentation(token.reveal())
        expires_at = min(first, now + grant.lifetime)
        return Credential(token.reveal(), id=grant.id, expires_at=expires_at, headers=headers, handle=handle)

    async def _claims(self, token: Secret, line: Line) -> Mapping[str, Json] | None:
        claims, metadata = claims_of(token), await self._server.metadata(line)
        if claims is not None:
            if text_claim(claims, "jti") is None or number_claim(claims, "exp") is None:
                raise Unfit("the token has no jti or no exp, so it cannot be revoked")
            return claims
        if metadata.revocation is None:
            raise Unfit("the token is opaque, and there is no revocation_endpoint")
        if not self._introspect:
            return None
        if metadata.introspection is None:
            raise Unfit("the token is opaque, and there is no introspection_endpoint")
        form: Form = {"token": token, "token_type_hint": "access_token"}
        post = self._server.post(line, metadata.introspection, form, repeatable=True)
        seen = self._server.body(await post)
        if seen.get("active") is not True:
            raise Unfit("the token is not active")
        return {"iss": self.issuer, **seen}

    def _asked(self, grant: Grant) -> Asked:
        who, uri = grant.identity, self._resource_uri(grant)
        return Asked(
            issuer=self.issuer,
            subject=self._named(who.subject),
            actor=None if who.subject == who.actor else self._named(who.actor),
            scopes=grant.scopes,
            audiences=frozenset({grant.audience} if uri is None else {grant.audience, uri}),
            detail=grant.detail() if self._details else None,
            thumbprint=None if self._proofs is None else self._proofs.thumbprint,
        )

    def _ends(
        self, body: Mapping[str, Json], claims: Mapping[str, Json] | None, now: float
    ) -> tuple[float, float]:
        """Return when the token ends at the earliest and at the latest; its issuer may say it twice."""
        lasts, exp = number_claim(body, "expires_in"), number_claim(claims or {}, "exp")
        said = [end for end in (exp, None if lasts is None else now + lasts) if end is not None]
        if not said or (lasts is None and "expires_in" in body):
            raise Unfit("it is not said when the token ends")
        if min(said) <= self._clock():
            raise Unfit("the token is over already")
        return min(said), max(said)

    def __repr__(self) -> str:
        return f"<TokenExchange {self.issuer} {' '.join(sorted(self.paths))}>"
