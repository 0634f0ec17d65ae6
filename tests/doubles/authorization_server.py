"""A strict authorization server without a network: it refuses what RFC 8693, 7523 and 9449 refuse.

Each test may twist what it answers, or put a fault in the place of an endpoint.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import httpx

from agentguard.credentials import oauth
from agentguard.credentials.oauth import PrivateKeyJwt, TokenExchange
from agentguard.credentials.presentation import ProofKey
from agentguard.errors import VerificationError
from agentguard.identity.local import LocalIdentity
from agentguard.jose import Signer, decode, public_key, thumbprint
from agentguard.model import Grant, Identity, Resource, Secret, ToolPath
from agentguard.outbound.client import Outbound
from agentguard.stores.memory import MemoryStore
from agentguard.testing.samples import sample_grant

NOW = 1_700_000_000.0
ISSUER = "https://as.example"
AGENT = "agent://support"
USER = "user:ada"
ORDERS = Resource(name="orders", origins=("https://orders.example",))
TYPE = "urn:ietf:params:oauth:token-type:"
USERS, AGENTS, CLIENT = Signer.generate(), Signer.generate(), Signer.generate()

Fault = Callable[[httpx.Request], httpx.Response]


def user_token(sub: str = USER, **changes: Any) -> Secret:
    claims = {"iss": "https://users.example", "sub": sub, "aud": ISSUER, "exp": NOW + 60, **changes}
    return Secret(USERS.sign(USERS.head(typ="JWT"), claims))


def grant(id: str = "call-1", **changes: Any) -> Grant:
    facts = {
        "identity": Identity(subject=USER, actor=AGENT),
        "tool": "get_order",
        "path": ToolPath.READ,
        "resource": ORDERS,
        "scopes": frozenset({"orders:read"}),
        "subject_token": user_token(),
    }
    return sample_grant(id, **(facts | changes))


def own_grant(id: str = "call-1", **changes: Any) -> Grant:
    """Return a grant of an agent that acts for itself."""
    return grant(id, **{"identity": Identity(subject=AGENT, actor=AGENT), "subject_token": None, **changes})


def _verified(token: str, key: Signer, typ: str = "jwt") -> Mapping[str, Any]:
    try:
        return decode(token, lambda _: public_key(key.public_jwk), typ=frozenset({typ})).claims
    except VerificationError:
        return {}


class Refusal(Exception):
    """An error answer of RFC 6749 section 5.2."""


class AuthorizationServer:
    """Answers httpx; `sent` is what it was sent, `alive` the claims of each token that lives."""

    def __init__(self, form: str = "opaque", issuer: str = ISSUER) -> None:
        self.issuer = issuer
        self.jwt = form == "jwt"
        self.key = Signer.generate()
        self.sent: list[tuple[str, dict[str, str]]] = []
        self.alive: dict[str, dict[str, Any]] = {}
        self.nonce = "nonce-1"
        self.lifetime = 60.0
        self.faults: dict[str, Fault] = {}
        self.metadata: dict[str, Any] = {
            "issuer": issuer,
            **{f"{name}_endpoint": f"{issuer}/{name}" for name in ("token", "revocation", "introspection")},
        }
        self.says: dict[str, Any] = {}  # what the answer says instead; ... leaves a member out
        self.claims: dict[str, Any] = {}  # what the token says instead
        self.introspects = frozenset[str]()  # which of `iss` and `jti` its introspection tells
        self.assertion_typ, self.idp_key = "oauth-id-jag+jwt", self.key
        self._seen: set[str] = set()

    def calls(self, endpoint: str) -> list[dict[str, str]]:
        return [form for path, form in self.sent if path == f"/{endpoint}"]

    def handle(self, request: httpx.Request) -> httpx.Response:
        path, form = request.url.path, dict(parse_qsl(request.content.decode()))
        self.sent.append((path, form))
        if (fault := self.faults.get(path)) is not None:
            return fault(request)
        if path == "/.well-known/oauth-authorization-server":
            return httpx.Response(200, json=self.metadata)
        answers = {"/token": self._token, "/revocation": self._revoke, "/introspection": self._introspect}
        if path not in answers:
            return httpx.Response(404)
        try:
            self._authenticate(form)
            return httpx.Response(200, json=answers[path](form, request), headers={"DPoP-Nonce": self.nonce})
        except Refusal as refusal:
            status = 401 if str(refusal) == "invalid_client" else 400
            members = {"error": str(refusal), "error_description": "s3cret-of-the-server"}
            return httpx.Response(status, json=members, headers={"DPoP-Nonce": self.nonce})

    def _once(self, jti: str, refusal: str) -> None:
        if jti in self._seen:
            raise Refusal(refusal)
        self._seen.add(jti)

    def _authenticate(self, form: dict[str, str]) -> None:
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        if form.get("client_assertion_type") != kind:
            raise Refusal("invalid_client")
        jws = decode(
            form["client_assertion"],
            lambda _: public_key(CLIENT.public_jwk),
            typ=frozenset({"client-authentication+jwt"}),
        )
        if (jws.claims["iss"], jws.claims["sub"], jws.claims["aud"]) != ("client-1", "client-1", self.issuer):
            raise Refusal("invalid_client")
        self._once(jws.claims["jti"], "invalid_client")

    def _proof(self, request: httpx.Request) -> str:
        if "DPoP" not in request.headers:
            raise Refusal("invalid_dpop_proof")
        header, claims, _ = decode(request.headers["DPoP"], None, typ=frozenset({"dpop+jwt"}))
        if claims.get("nonce") != self.nonce:
            raise Refusal("use_dpop_nonce")
        if (claims["htm"], claims["htu"]) != ("POST", f"{self.issuer}/token"):
            raise Refusal("invalid_dpop_proof")
        self._once(claims["jti"], "invalid_dpop_proof")
        return thumbprint(header["jwk"])

    def _who(self, form: dict[str, str], role: str) -> str:
        if form.get(f"{role}_token_type") not in (f"{TYPE}jwt", f"{TYPE}id_token"):
            raise Refusal("invalid_request")
        for key in (USERS, AGENTS):
            claims = _verified(form[f"{role}_token"], key)
            if claims.get("aud") == self.issuer:
                return str(claims["sub"])
        raise Refusal("invalid_request")

    def _token(self, form: dict[str, str], request: httpx.Request) -> dict[str, Any]:
        if form.get("requested_token_type") == f"{TYPE}id-jag":
            return self._assertion(form)
        jkt = self._proof(request)
        if form["grant_type"].endswith("jwt-bearer"):
            assertion = _verified(form["assertion"], self.idp_key, typ="oauth-id-jag+jwt")
            return self._answer({"sub": assertion["sub"], **self._facts(form, jkt)}, exchanged=False)
        if form["grant_type"] == "client_credentials":
            return self._answer({"sub": "account-7", **self._facts(form, jkt)}, exchanged=False)
        if form.get("requested_token_type") != f"{TYPE}access_token":
            raise Refusal("invalid_request")
        act = {"act": {"sub": self._who(form, "actor")}} if "actor_token" in form else {}
        return self._answer({"sub": self._who(form, "subject"), **act, **self._facts(form, jkt)})

    def _assertion(self, form: dict[str, str]) -> dict[str, Any]:
        claims = {
            "iss": self.issuer,
            "sub": self._who(form, "subject"),
            "aud": form["audience"],
            "client_id": "client-1",
            "scope": form.get("scope", ""),
            "exp": NOW + 60,
            "jti": secrets.token_urlsafe(8),
        }
        claims = {name: value for name, value in (claims | self.claims).items() if value is not ...}
        head = self.idp_key.head(typ=self.assertion_typ, kid=self.idp_key.kid)
        members = {
            "access_token": self.idp_key.sign(head, claims),
            "issued_token_type": f"{TYPE}id-jag",
            "token_type": "N_A",
        }
        return {name: value for name, value in (members | self.says).items() if value is not ...}

    def _facts(self, form: dict[str, str], jkt: str) -> dict[str, Any]:
        scopes = form.get("scope", "").split()
        carried = [scope.partition(":")[2] for scope in scopes if scope.startswith("agentguard_call:")]
        return {
            "iss": self.issuer,
            "client_id": "client-1",
            "aud": form.get("resource") or form.get("audience", "orders/read"),
            "scope": " ".join(scope for scope in scopes if not scope.startswith("agentguard_call:")),
            "iat": int(NOW),
            "exp": NOW + self.lifetime,
            "jti": secrets.token_urlsafe(8),
            "cnf": {"jkt": jkt},
            "authorization_details": json.loads(form.get("authorization_details", (carried or ["[]"])[0])),
        }

    def _answer(self, claims: dict[str, Any], *, exchanged: bool = True) -> dict[str, Any]:
        claims = {name: value for name, value in (claims | self.claims).items() if value is not ...}
        token = self._minted(claims)
        self.alive[token] = claims
        members = {
            "access_token": token,
            "issued_token_type": f"{TYPE}access_token" if exchanged else ...,
            "token_type": "DPoP",
            "expires_in": self.lifetime,
            "scope": claims.get("scope"),
            "authorization_details": claims.get("authorization_details"),
        }
        return {name: value for name, value in (members | self.says).items() if value is not ...}

    def _minted(self, claims: dict[str, Any]) -> str:
        if self.jwt:
            return self.key.sign(self.key.head(typ="at+jwt", kid=self.key.kid), claims)
        return secrets.token_urlsafe(24)

    def _revoke(self, form: dict[str, str], _request: httpx.Request) -> dict[str, Any]:
        if self.jwt:
            raise Refusal("unsupported_token_type")
        self.alive.pop(form["token"], None)
        return {}

    def _introspect(self, form: dict[str, str], _request: httpx.Request) -> dict[str, Any]:
        if self.jwt:
            raise Refusal("unsupported_token_type")
        claims = self.alive.get(form["token"])
        if claims is None:
            return {"active": False}
        return {
            "active": True,
            "token_type": "DPoP",
            **{k: v for k, v in claims.items() if k not in {"jti", "iss"} - self.introspects},
        }

    # --- its client

    def http(self) -> Outbound:
        transport = httpx.MockTransport(self.handle)
        return Outbound(self.issuer, self.issuer, transport=transport, async_transport=transport)

    def broker(self, *, issuer: str = ISSUER, **changes: Any) -> TokenExchange:
        """Make a broker; *changes* are options of the broker, its profile or the server."""
        auth = changes.pop("client_auth", PrivateKeyJwt("client-1", CLIENT, clock=lambda: NOW))
        page = changes.pop("grant_url", None)
        http = changes.pop("http", None) or self.http()
        server = oauth.AuthorizationServer(issuer, auth, http, grant_url=page)
        names = oauth.IssuerProfile.__dataclass_fields__.keys() & changes.keys()
        options: dict[str, Any] = {
            "paths": {ToolPath.READ},
            "identity": LocalIdentity(AGENT, AGENTS, clock=lambda: NOW),
            "store": MemoryStore(clock=lambda: NOW),
            "proof_key": ProofKey(clock=lambda: NOW),
            "profile": oauth.IssuerProfile(**{name: changes.pop(name) for name in names}),
            "clock": lambda: NOW,
            **changes,
        }
        return TokenExchange(server, **options)
