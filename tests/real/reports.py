"""A database of reports in PostgreSQL, and an OpenBao that makes roles for it: one for each path."""

from __future__ import annotations

import time
from typing import Any

import httpx
import psycopg
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from psycopg.conninfo import conninfo_to_dict

from agentguard.credentials.openbao import OpenBao
from agentguard.credentials.openbao.session import OpenBaoSession
from agentguard.jose import Signer
from agentguard.model import Credential, Secret, ToolPath

AGENT = "spiffe://example.test/agent"
MOUNT = "agents"
DATABASE = "reports-db"
TRANSIT = "reports-transit"
RIGHTS = {
    ToolPath.READ: "GRANT SELECT ON report TO {role}",
    ToolPath.WRITE: "GRANT SELECT, INSERT, UPDATE ON report TO {role}",
    ToolPath.ESCALATION: "GRANT CREATE ON SCHEMA public TO {role}",
}
CREATION = """CREATE ROLE "{{{{name}}}}" LOGIN PASSWORD '{{{{password}}}}' VALID UNTIL '{{{{expiration}}}}'
 IN ROLE {role}"""
REVOCATION = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';
REASSIGN OWNED BY "{{name}}" TO agentguard; DROP OWNED BY "{{name}}"; DROP ROLE IF EXISTS "{{name}}" """
# the answer to a revocation may wait for the database where the policy says so: not on WRITE
AWAITED = 'path "sys/leases/revoke" { capabilities = ["update"] }'


class Platform:
    """What says who an agent is: signs its proofs, as a SPIRE server would."""

    inline = True

    def __init__(
        self,
        subject: str = AGENT,
        key: ec.EllipticCurvePrivateKey | None = None,
        *,
        lifetime: float = 300.0,
    ) -> None:
        self.subject, self.lifetime = subject, lifetime
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self._signer = Signer(self.key)

    @classmethod
    def of(cls, pem: bytes) -> Platform:
        """Make the same platform in another process."""
        key = load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key=key)

    def actor(self) -> str:
        return self.subject

    def token(self, audience: str) -> Secret:
        now = int(time.time())
        claims = {"sub": self.subject, "aud": [audience], "iat": now, "exp": now + self.lifetime}
        return Secret(self._signer.sign(self._signer.head(typ="JWT"), claims))

    def public_pem(self) -> str:
        public = self.key.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def private_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Reports:
    """The two servers as their operators see them, and brokers as the agent's application has them."""

    def __init__(self, address: str, token: str, database: str, platform: Platform | None = None) -> None:
        self.address, self.database, self.platform = address, database, platform or Platform()
        server = conninfo_to_dict(database)
        self.server = {name: str(server[name]) for name in ("host", "port", "dbname")}
        self._sessions: list[OpenBaoSession] = []
        self.operator = httpx.Client(
            base_url=f"{address}/v1/", headers={"X-Vault-Token": token}, trust_env=False
        )

    def close(self) -> None:
        self.release()
        self.operator.close()

    def post(self, path: str, **body: Any) -> Any:
        answer = self.operator.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else {}

    def configure(self) -> None:
        """Do what the operators of OpenBao and PostgreSQL do, once."""
        with psycopg.connect(self.database) as connection:
            connection.execute("CREATE TABLE report (id int PRIMARY KEY, text text)")
            connection.execute("INSERT INTO report VALUES (1, 'all is well')")
            for path, rights in RIGHTS.items():
                connection.execute(f"CREATE ROLE reports_{path} NOLOGIN".encode())
                connection.execute(rights.format(role=f"reports_{path}").encode())
        for kind, mount in (("mounts", DATABASE), ("mounts", TRANSIT), ("auth", MOUNT)):
            engine = {DATABASE: "database", TRANSIT: "transit", MOUNT: "jwt"}[mount]
            self.post(f"sys/{kind}/{mount}", type=engine)
        self.post(f"auth/{MOUNT}/config", jwt_validation_pubkeys=[self.platform.public_pem()])
        target = conninfo_to_dict(self.database)
        url = f"postgresql://{{{{username}}}}:{{{{password}}}}@{target['host']}:{target['port']}/{target['dbname']}"
        self.post(
            f"{DATABASE}/config/reports",
            plugin_name="postgresql-database-plugin",
            connection_url=f"{url}?sslmode=disable",
            allowed_roles="*",
            username=target["user"],
            password=target["password"],
        )
        for path in ToolPath:
            self.database_role(path.value, path)
            also = "" if path is ToolPath.WRITE else AWAITED
            creds = f'path "{DATABASE}/creds/{path}" {{ capabilities = ["read"] }} '
            self.login_role(path.value, creds + also)
        self.login_role("revoker", 'path "auth/token/revoke-accessor" { capabilities = ["update"] }')
        signing = f'path "{TRANSIT}/keys/issuer" {{ capabilities = ["read"] }} '
        self.login_role("issuer", signing + f'path "{TRANSIT}/sign/issuer" {{ capabilities = ["update"] }}')
        self.post(f"{TRANSIT}/keys/issuer", type="ecdsa-p256")

    def database_role(self, name: str, path: ToolPath, revocation: str = REVOCATION) -> None:
        self.post(
            f"{DATABASE}/roles/{name}",
            db_name="reports",
            creation_statements=CREATION.format(role=f"reports_{path}"),
            revocation_statements=revocation,
            default_ttl="60s",
            max_ttl="1h",
        )

    def login_role(self, name: str, policy: str, **changes: Any) -> None:
        self.post(f"sys/policies/acl/reports-{name}", policy=policy)
        role = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_subject": AGENT,
            "bound_audiences": [f"openbao/{name}"],
            "token_policies": [f"reports-{name}"],
            "token_ttl": "60s",
            "token_max_ttl": "1h",
        }
        self.post(f"auth/{MOUNT}/role/{name}", **role | changes)

    # --- the agent's side

    def session(self, role: str, **changes: Any) -> OpenBaoSession:
        options: dict[str, Any] = {"identity": self.platform, "audience": f"openbao/{role}", "mount": MOUNT}
        self._sessions.append(OpenBaoSession(self.address, role=role, **options | changes))
        return self._sessions[-1]

    def release(self) -> None:
        while self._sessions:
            self._sessions.pop().close()

    def broker(self, path: ToolPath, *, role: str | None = None, **changes: Any) -> OpenBao:
        options = {"revoker": self.session("revoker"), "server": self.server, **changes}
        session = options.pop("session", None) or self.session(role or path.value)
        return OpenBao(path, session, creds=f"{DATABASE}/creds/{role or path}", **options)

    # --- what the servers say

    def living(self, accessor: str) -> bool:
        """Return whether OpenBao knows the token of that accessor."""
        return self.operator.post("auth/token/lookup-accessor", json={"accessor": accessor}).is_success

    def connect(self, credential: Credential) -> psycopg.Connection[Any]:
        fields: dict[str, Any] = credential.fields()
        user, password = fields.pop("username"), fields.pop("password")
        return psycopg.connect(user=user, password=password, connect_timeout=5, autocommit=True, **fields)

    def roles(self, username: str = "v-%") -> int:
        """Return how many roles of that name PostgreSQL has."""
        with psycopg.connect(self.database) as connection:
            cursor = connection.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE %s", [username])
            return int(cursor.fetchone()[0])  # type: ignore[index]  # a count always has a row

    def gone(self, username: str, *, within: float) -> bool:
        ends = time.monotonic() + within
        while self.roles(username):
            if time.monotonic() > ends:
                return False
            time.sleep(0.02)
        return True
