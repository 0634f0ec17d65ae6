"""A realm of its own at a real Keycloak, made by the admin REST API, as an administrator would."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from functools import cache
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentguard.jose import Signer

__all__ = ["Realm", "audience", "client", "mapper", "scope"]


class Realm:
    """A realm; `make` logs in as the administrator, and makes it with two users, alice and bob."""

    def __init__(self, server: str, http: httpx.Client) -> None:
        self.name = f"realm-{secrets.token_hex(4)}"
        self.issuer = f"{server}/realms/{self.name}"
        self.http, self._password = http, ""

    def make(self, password: str, **settings: Any) -> None:
        self._password = password
        self._log_in()
        realm = {"realm": self.name, "enabled": True, "sslRequired": "none", "components": _keys()}
        self.admin("POST", "", {**realm, **settings})
        for name in ("alice", "bob"):
            user = {"username": name, "enabled": True, "email": f"{name}@corp.example", "emailVerified": True}
            credentials = [{"type": "password", "value": name, "temporary": False}]
            more = {"firstName": name, "lastName": "x", "credentials": credentials}
            self.admin("POST", f"/{self.name}/users", {**user, **more})

    def _log_in(self) -> None:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin"}
        url = "/realms/master/protocol/openid-connect/token"
        answer = self.http.post(url, data={**form, "password": self._password})
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def admin(self, method: str, path: str, body: object = None) -> Any:
        answer = self.http.request(method, f"/admin/realms{path}", json=body)
        if answer.status_code == 401:  # the administrator's token has ended, after a minute
            self._log_in()
            answer = self.http.request(method, f"/admin/realms{path}", json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def sign_by_es256(self) -> None:
        """Give the realm a key that resources can verify."""
        realm = self.admin("GET", f"/{self.name}")
        config = {"priority": ["200"], "ecdsaEllipticCurveKey": ["P-256"]}
        kind = {"providerId": "ecdsa-generated", "providerType": "org.keycloak.keys.KeyProvider"}
        key = {"name": "es256", "parentId": realm["id"], "config": config, **kind}
        self.admin("POST", f"/{self.name}/components", key)

    def add_call_scope(self) -> None:
        """Add the parameterized scope that carries a call into a token."""
        call = mapper("call", "oidc-parameterized-scope-mapper", **{"claim.name": "authorization_details"})
        call["config"]["jsonType.label"] = "JSON"
        attributes = {
            "is.parameterized.scope": "true",
            "parameterized.scope.type": "string",
            "parameterized.scope.repeatable": "false",
            "include.in.token.scope": "false",
        }
        self.admin("POST", f"/{self.name}/client-scopes", scope("agentguard_call", call, **attributes))

    def post(self, endpoint: str, **form: str) -> httpx.Response:
        """Send a form to an endpoint of the realm, without the administrator's token."""
        url = f"{self.issuer}/protocol/openid-connect/{endpoint}"
        return httpx.post(url, data=form, trust_env=False, timeout=30)

    def keys(self) -> dict[str, Any]:
        keys: dict[str, Any] = self.http.get(f"{self.issuer}/protocol/openid-connect/certs").json()
        return keys

    def delete(self) -> None:
        self.admin("DELETE", f"/{self.name}")


@cache
def _keys() -> dict[str, Any]:
    """Return the key providers of a new realm, with an RSA key: Keycloak takes six seconds to make two."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    secrets = {"hmac-generated": {"algorithm": ["HS512"]}, "aes-generated": {}}
    return {
        "org.keycloak.keys.KeyProvider": [
            {"name": kind, "providerId": kind, "config": {"priority": ["100"], **config}}
            for kind, config in {"rsa": {"privateKey": [pem]}, **secrets}.items()
        ]
    }


def mapper(name: str, kind: str, **config: str) -> dict[str, Any]:
    everywhere = {"access.token.claim": "true", "introspection.token.claim": "true"}
    return {
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": kind,
        "config": {**everywhere, **config},
    }


def audience(client: str) -> dict[str, Any]:
    return mapper(f"aud {client}", "oidc-audience-mapper", **{"included.client.audience": client})


def client(
    name: str, key: Signer, attributes: Mapping[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    keys = {"keys": [{**key.public_jwk, "kid": key.kid, "alg": "ES256", "use": "sig"}]}
    return {
        "clientId": name,
        "clientAuthenticatorType": "client-jwt",
        "standardFlowEnabled": False,
        "fullScopeAllowed": False,
        "attributes": {
            "use.jwks.string": "true",
            "jwks.string": json.dumps(keys),
            "token.endpoint.auth.signing.alg": "ES256",
            **(attributes or {}),
        },
        **more,
    }


def scope(name: str, *mappers: dict[str, Any], **attributes: str) -> dict[str, Any]:
    attributes = {"include.in.token.scope": "true", "display.on.consent.screen": "false", **attributes}
    return {
        "name": name,
        "protocol": "openid-connect",
        "attributes": attributes,
        "protocolMappers": list(mappers),
    }
