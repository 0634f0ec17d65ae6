"""Each server is the real one, and refuses what it must: the ground that the other real tests stand on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any, Literal

import boto3
import httpx
import psycopg
import pytest
from botocore.exceptions import ClientError
from redis import Redis
from spiffe import JwtBundle, JwtSvid, TrustDomain, WorkloadApiClient

from agentguard.credentials.presentation import ProofKey
from agentguard.identity.local import LocalIdentity
from agentguard.jose import Signer, decode, public_key
from tests.real.conftest import OpenBao, Spire
from tests.servers.moto import enforce
from tests.servers.oidc import trust
from tests.servers.spire import SUPPORT, THIEF, TRUST_DOMAIN, bundle, public_keys, svid

ORDERS = "https://orders.example"
USERS = "https://users.example"
DETAIL = {"type": "agentguard_tool_call", "actions": ["get_order"], "digest": "abc"}


# --- OpenBao and PostgreSQL


def test_openbao_is_unsealed_and_refuses_a_token_that_it_does_not_know(openbao: OpenBao) -> None:
    with httpx.Client(base_url=openbao.url, trust_env=False) as client:
        assert client.get("/v1/sys/health").json()["sealed"] is False
        for token, status in ((openbao.token, 200), ("another", 403)):
            answer = client.get("/v1/auth/token/lookup-self", headers={"X-Vault-Token": token})
            assert answer.status_code == status


def test_postgres_executes_for_its_superuser_and_refuses_another_password(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        assert connection.execute("SELECT current_user, 6 * 7").fetchone() == ("agentguard", 42)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres, password="another")


# --- Redis and moto


def test_redis_lets_a_key_expire(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.set("seen", "1", nx=True, px=50)
        assert not client.set("seen", "2", nx=True)
        time.sleep(0.1)
        assert client.set("seen", "3", nx=True)


def test_moto_gives_a_role_and_refuses_keys_that_nobody_has(moto: str) -> None:
    def client(service: Literal["iam", "sts"], key: str) -> Any:
        return boto3.Session(key, "none", region_name="eu-west-1").client(service, endpoint_url=moto)

    trusted = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
    role = client("iam", "any").create_role(RoleName="reader", AssumeRolePolicyDocument=document)["Role"]
    session = client("sts", "any").assume_role(RoleArn=role["Arn"], RoleSessionName="call-1")
    assert session["AssumedRoleUser"]["Arn"].endswith("assumed-role/reader/call-1")

    enforce(moto)
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        client("sts", "AKIAUNKNOWN").assume_role(RoleArn=role["Arn"], RoleSessionName="call-2")


# --- the authorization server


class Client:
    """An agent that exchanges users' tokens, each attempt with a new assertion and a new proof."""

    def __init__(self, issuer: str) -> None:
        self.issuer, self.key, users = issuer, ProofKey(), Signer.generate()
        self.agent = LocalIdentity("agent://support", signer := Signer.generate())
        self.users = LocalIdentity(USERS, users)
        self._user, self._nonce = users, ""
        trust("users", USERS, {"keys": [users.public_jwk]})
        jwks = {"keys": [{**signer.public_jwk, "kid": signer.kid}]}
        trust("agents", "agent://support", jwks)
        trust("clients", "agent://support", {"jwks": jwks})

    def user(self, name: str) -> str:
        claims = {"iss": USERS, "sub": name, "aud": self.issuer, "exp": int(time.time()) + 60}
        return self._user.sign(self._user.head(typ="JWT"), claims)

    def authentication(self) -> dict[str, str]:
        return {
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": self.agent.token(self.issuer).reveal(),
        }

    def exchange(self, **changes: str) -> httpx.Response:
        """Exchange ada's token for one to read orders, but for *changes*; an empty one leaves out."""
        kind = "urn:ietf:params:oauth:token-type:jwt"
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": self.user("user:ada"),
            "subject_token_type": kind,
            "actor_token": self.agent.token(self.issuer).reveal(),
            "actor_token_type": kind,
            "resource": ORDERS,
            "scope": "orders:read",
            "authorization_details": json.dumps([DETAIL]),
        }
        return self.post("/token", **form | changes)

    def post(self, path: str, proof: str | None = None, **form: str) -> httpx.Response:
        url = self.issuer + path
        nonce = self._nonce or None
        answer = httpx.post(
            url,
            data={name: value for name, value in (self.authentication() | form).items() if value},
            headers={"DPoP": proof or self.key.proof("POST", url, nonce=nonce)},
            trust_env=False,
        )
        self._nonce = answer.headers.get("DPoP-Nonce", self._nonce)
        return answer


@pytest.fixture
def client(oidc: str) -> Client:
    """Return a client that has learnt the nonce."""
    client = Client(oidc)
    first = client.exchange()
    assert (first.status_code, first.json()["error"]) == (400, "use_dpop_nonce")
    return client


def test_an_opaque_token_names_user_and_agent_and_is_dead_once_it_is_revoked(oidc_opaque: str) -> None:
    client = Client(oidc_opaque)
    client.exchange()
    answer = client.exchange().json()
    assert (answer["token_type"], answer["scope"]) == ("DPoP", "orders:read")
    assert answer["authorization_details"] == [DETAIL]
    form = {"token": answer["access_token"]}
    claims = client.post("/token/introspection", **form).json()
    assert claims["active"]
    assert (claims["sub"], claims["act"]["sub"]) == ("user:ada", "agent://support")
    assert claims["cnf"] == {"jkt": client.key.thumbprint}
    assert claims["authorization_details"] == [DETAIL]
    assert client.post("/token/revocation", **form).status_code == 200
    assert client.post("/token/introspection", **form).json() == {"active": False}


def test_a_jwt_names_user_and_agent_and_verifies_by_the_servers_key(oidc_jwt: str) -> None:
    client = Client(oidc_jwt)
    client.exchange()
    token = client.exchange().json()["access_token"]
    [key] = httpx.get(f"{oidc_jwt}/jwks", trust_env=False).json()["keys"]
    claims = decode(token, lambda _header: public_key(key), typ=frozenset({"at+jwt"})).claims
    assert (claims["iss"], claims["aud"], claims["scope"]) == (oidc_jwt, ORDERS, "orders:read")
    assert (claims["sub"], claims["act"]["sub"]) == ("user:ada", "agent://support")
    assert claims["cnf"] == {"jkt": client.key.thumbprint}
    assert claims["authorization_details"] == [DETAIL]
    # oidc-provider's word: what verifies without it cannot be called back by it
    assert client.post("/token/revocation", token=token).json()["error"] == "unsupported_token_type"


@pytest.mark.parametrize("path", ["oauth-authorization-server", "openid-configuration"])
def test_the_authorization_server_has_metadata(oidc: str, path: str) -> None:
    metadata = httpx.get(f"{oidc}/.well-known/{path}", trust_env=False).json()
    assert metadata["issuer"] == oidc
    assert "urn:ietf:params:oauth:grant-type:token-exchange" in metadata["grant_types_supported"]
    assert metadata["authorization_details_types_supported"] == ["agentguard_tool_call"]


@pytest.mark.promise("no-impersonation")
@pytest.mark.parametrize(
    ("error", "changes"),
    [
        pytest.param("invalid_request", {"actor_token": "", "actor_token_type": ""}, id="impersonation"),
        pytest.param("invalid_scope", {"scope": "orders:read reports:read"}, id="another resource's scope"),
        pytest.param("invalid_scope", {"scope": ""}, id="no scope"),
        pytest.param("invalid_target", {"resource": "https://elsewhere.example"}, id="unknown resource"),
        pytest.param("invalid_target", {"resource": ""}, id="no resource"),
        pytest.param("invalid_request", {"subject_token": "e30.e30.e30"}, id="a forged subject"),
        pytest.param("invalid_authorization_details", {"authorization_details": '[{"type":"x"}]'}, id="type"),
        pytest.param("invalid_client", {"client_assertion": "e30.eyJzdWIiOiJ4In0.e30"}, id="another client"),
    ],
)
def test_the_authorization_server_refuses(client: Client, error: str, changes: dict[str, str]) -> None:
    answer = client.exchange(**changes)
    assert (answer.status_code // 100, answer.json()["error"]) == (4, error)


def test_the_authorization_server_gives_no_more_than_the_users_rights(client: Client) -> None:
    assert client.exchange(scope="orders:write").json()["scope"] == "orders:write"
    refused = client.exchange(scope="orders:write", subject_token=client.user("user:bob"))
    assert refused.json()["error"] == "invalid_scope"


def test_the_authorization_server_refuses_a_proof_or_an_assertion_that_it_has_seen(client: Client) -> None:
    proof = client.key.proof("POST", f"{client.issuer}/token", nonce=client._nonce)
    assert client.exchange(proof=proof).status_code == 200
    assert client.exchange(proof=proof).json()["error"] == "invalid_grant"
    once = client.authentication()
    assert client.exchange(**once).status_code == 200
    assert client.exchange(**once).json()["error"] == "invalid_client"


# --- SPIRE


def subject(token: str) -> str:
    signing = [key for key in bundle()["keys"] if key["use"] == "jwt-svid"]
    keys = JwtBundle.parse(TrustDomain(TRUST_DOMAIN), json.dumps({"keys": signing}).encode())
    return str(JwtSvid.parse_and_validate(token, keys, {"openbao"}).spiffe_id)


@pytest.mark.promise("other-identity-opens-nothing")
def test_spire_tells_workloads_apart_by_their_uid(spire: Spire, nobody: int) -> None:
    with WorkloadApiClient(spire.socket) as workload:
        assert subject(workload.fetch_jwt_svid({"openbao"}).token) == SUPPORT
    assert subject(svid("openbao", nobody)) == THIEF


def test_spires_admin_socket_is_for_its_owner_only(spire: Spire, nobody: int) -> None:
    reach = f"import os, socket; os.setuid({nobody}); socket.socket(socket.AF_UNIX).connect({spire.admin!r})"
    ran = subprocess.run([sys.executable, "-c", reach], capture_output=True, text=True)
    assert "PermissionError" in ran.stderr


def test_openbao_lets_in_the_workload_that_is_named_and_no_other(
    openbao: OpenBao, spire: Spire, nobody: int
) -> None:
    headers = {"X-Vault-Token": openbao.token}
    with httpx.Client(base_url=f"{openbao.url}/v1", headers=headers, trust_env=False) as root:
        root.post("/sys/auth/smoke", json={"type": "jwt"}).raise_for_status()
        root.post("/auth/smoke/config", json={"jwt_validation_pubkeys": public_keys()}).raise_for_status()
        role = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_subject": SUPPORT,
            "bound_audiences": ["openbao"],
        }
        root.post("/auth/smoke/role/agent", json=role).raise_for_status()
        for user, status in ((None, 200), (nobody, 400)):
            login = {"role": "agent", "jwt": svid("openbao", user)}
            assert root.post("/auth/smoke/login", json=login).status_code == status


def test_the_authorization_server_knows_a_client_by_its_jwt_svid(
    oidc: str, spire: Spire, nobody: int
) -> None:
    client = Client(oidc)
    trust("agents", TRUST_DOMAIN, bundle())
    trust("clients", SUPPORT, {})

    def exchange(user: int | None) -> httpx.Response:
        token = svid(oidc, user)
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
        changes = {"client_assertion": token, "client_assertion_type": kind, "actor_token": token}
        return client.exchange(**changes)

    assert exchange(None).json()["error"] == "use_dpop_nonce"
    assert exchange(None).json()["scope"] == "orders:read"
    assert (exchange(nobody).status_code, exchange(nobody).json()["error"]) == (401, "invalid_client")
