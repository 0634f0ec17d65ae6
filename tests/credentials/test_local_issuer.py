"""The embedded issuer mints for one path, one call, one key, and no longer than it was told."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import stat
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt import PyJWK

from agentguard.concurrency.drive import operation_pair
from agentguard.credentials.local_issuer import LocalIssuer, jwks, load_key
from agentguard.credentials.presentation import ProofKey
from agentguard.errors import ConfigurationError, IssueError
from agentguard.identity.local import LocalIdentity
from agentguard.jose import Algorithm, Json, Jws, Signer, decode, public_key, revocation_key, thumbprint
from agentguard.model import Arguments, Credential, Grant, Identity, Resource, ToolPath
from agentguard.ports import Broker, IdentitySource, Store
from agentguard.stores.memory import MemoryStore
from agentguard.testing import sample_grant

NOW = 1_700_000_000.75
ISSUER = "https://guard.example"
GRANT = Grant(
    id="call-1",
    task_id="task-1",
    identity=Identity(subject="user:4", actor="agent://support", chain=("agent://desk",)),
    tool="get_order",
    path=ToolPath.READ,
    resource=Resource(name="orders", origins=("https://api.example",)),
    scopes=frozenset({"orders:read", "items:read"}),
    digest=Arguments.of({"order_id": "4711"}).digest,
    lifetime=60.0,
)


def issuer(path: ToolPath = ToolPath.READ, **changes: Any) -> LocalIssuer:
    options = {"issuer": ISSUER, "store": MemoryStore(clock=lambda: NOW), "clock": lambda: NOW, **changes}
    return LocalIssuer(path, **options)


def read(credential: Credential, by: LocalIssuer) -> Jws:
    return decode(credential.reveal(), lambda _header: public_key(by.public_jwk), typ=frozenset({"at+jwt"}))


@pytest.mark.promise("credential-as-granted")
def test_a_token_says_exactly_what_was_granted() -> None:
    proofs = ProofKey()
    by = issuer(proof_key=proofs)
    credential = by.issue(GRANT)
    header, claims, _ = read(credential, by)
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": thumbprint(by.public_jwk)}
    assert claims == {
        "iss": ISSUER,
        "sub": "user:4",
        "act": {"sub": "agent://support", "act": {"sub": "agent://desk"}},
        "client_id": "agent://support",
        "aud": "orders/read",
        "scope": "items:read orders:read",
        "iat": 1_700_000_000,
        "exp": 1_700_000_060,
        "jti": "call-1",
        "txn": "task-1",
        "cnf": {"jkt": proofs.thumbprint},
        "authorization_details": [
            {
                "type": "agentguard_tool_call",
                "tool": "get_order",
                "path": "read",
                "locations": ["https://api.example"],
                "actions": ["get_order"],
                "digest": GRANT.digest,
                "digest_alg": "sha-256",
            }
        ],
    }
    assert (credential.id, credential.handle, credential.expires_at) == ("call-1", "call-1", 1_700_000_060)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_pyjwt_verifies_what_it_mints(algorithm: Algorithm) -> None:
    by = issuer(key=Signer.generate(algorithm))
    key = PyJWK(by.public_jwk)
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(
        by.issue(GRANT).reveal(),
        key,
        algorithms=[algorithm],
        audience="orders/read",
        issuer=ISSUER,
        options=options,
    )
    assert claims["jti"] == "call-1"


@pytest.mark.promise("credential-as-granted")
@pytest.mark.parametrize("lifetime", [60.0, 1.5, 59.999, 1.0])
def test_a_token_never_lives_longer_than_granted(lifetime: float) -> None:
    credential = issuer().issue(replace(GRANT, lifetime=lifetime))
    assert NOW < credential.expires_at <= NOW + lifetime


@pytest.mark.parametrize("lifetime", [0.0, 0.2, -5.0])
def test_a_lifetime_that_is_over_at_once_is_refused(lifetime: float) -> None:
    with pytest.raises(IssueError):
        issuer().issue(replace(GRANT, lifetime=lifetime))


@pytest.mark.promise("paths-apart")
def test_an_issuer_refuses_a_grant_for_another_path() -> None:
    by = issuer(ToolPath.READ)
    assert by.paths == frozenset({ToolPath.READ})
    for path in (ToolPath.WRITE, ToolPath.ESCALATION):
        with pytest.raises(IssueError, match="does not mint"):
            by.issue(replace(GRANT, path=path))


def test_each_issuer_has_a_key_of_its_own_pinned_to_its_path() -> None:
    keys = jwks(*(issuer(path) for path in ToolPath))["keys"]
    assert [key["agentguard_path"] for key in keys] == ["read", "write", "escalation"]
    assert len({key["kid"] for key in keys}) == 3
    for key in keys:
        assert key["kid"] == thumbprint(key)
        assert (key["alg"], key["use"]) == ("ES256", "sig")
        assert "d" not in key


@pytest.mark.promise("paths-apart")
def test_two_paths_with_one_key_are_a_configuration_error() -> None:
    key = Signer.generate()
    with pytest.raises(ConfigurationError, match="key file of its own"):
        jwks(issuer(ToolPath.READ, key=key), issuer(ToolPath.WRITE, key=key))


def test_no_proof_is_made_before_a_request_is_sent() -> None:
    sizes: list[int] = []

    def entropy(count: int) -> bytes:
        sizes.append(count)
        return b"\0" * count

    credential = issuer(proof_key=ProofKey(entropy=entropy)).issue(GRANT)
    assert sizes == []
    headers = credential.headers("GET", "https://api.example/orders/4711?q=1", "n-1")
    assert sizes == [16]
    assert headers["Authorization"] == f"DPoP {credential.reveal()}"
    claims = decode(headers["DPoP"], None, typ=frozenset({"dpop+jwt"})).claims
    assert (claims["htu"], claims["nonce"]) == ("https://api.example/orders/4711", "n-1")


@pytest.mark.promise("secrets-refuse-display")
def test_nothing_around_a_credential_shows_or_copies_the_token() -> None:
    by = issuer()
    credential = by.issue(GRANT)
    for thing in (credential, credential.headers, by):
        assert credential.reveal() not in f"{thing!r}{thing!s}{vars(type(thing))}"
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(credential.headers)


def test_a_failed_proof_holds_no_token_in_its_frames() -> None:
    credential = issuer().issue(GRANT)
    with pytest.raises(ValueError, match="URL") as caught:
        credential.headers("GET", "no url", None)
    frames = traceback.StackSummary.extract(
        (
            (f, n)
            for f, n in traceback.walk_tb(caught.value.__traceback__)
            if "agentguard" in f.f_code.co_filename
        ),
        capture_locals=True,
    )
    assert len(frames) >= 3
    assert credential.reveal() not in str([frame.locals for frame in frames])


class Slow:
    """A store that must not be asked on the event loop by its synchronous method."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.keys = fail, dict[str, float]()

    def remember(self, key: str, until: float) -> bool:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        if self.fail:
            raise OSError("disk full")
        self.keys[key] = until
        return True


def test_revocation_is_noted_by_issuer_and_jti_beyond_the_end_of_the_token() -> None:
    store = MemoryStore(clock=lambda: NOW)
    by = issuer(store=store)
    credential = by.issue(GRANT)
    by.revoke(credential.handle, credential.expires_at)
    by.revoke(credential.handle, credential.expires_at)
    assert store.known(revocation_key(ISSUER, "call-1"))
    slow = Slow()
    issuer(store=cast(Store, slow), leeway=30.0).revoke("x", 100.0)
    assert slow.keys == {revocation_key(ISSUER, "x"): 130.0}


async def test_revoking_does_not_block_the_event_loop() -> None:
    slow = Slow()
    by = issuer(store=cast(Store, slow))
    await operation_pair(by, "revoke").async_("x", 100.0)
    assert list(slow.keys) == [revocation_key(ISSUER, "x")]


async def test_what_is_not_known_to_be_revoked_is_an_error() -> None:
    by = issuer(store=cast(Store, Slow(fail=True)))
    with pytest.raises(IssueError, match="not known to be revoked"):
        await by.arevoke("x", 100.0)
    with pytest.raises(IssueError, match="not known to be revoked"):
        await asyncio.to_thread(by.revoke, "x", 100.0)


def test_it_is_a_broker_and_the_local_identity_a_source() -> None:
    assert isinstance(issuer(), Broker)
    assert isinstance(LocalIdentity("agent://support"), IdentitySource)
    assert LocalIdentity("agent://support").actor() == "agent://support"


@pytest.mark.parametrize(
    "name", ["", "support", "agent://", "agent://a b", "agent://a\nb", "agent://" + "x" * 300]
)
def test_an_identity_that_is_no_uri_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigurationError, match="agent://support"):
        LocalIdentity(name)


@pytest.mark.promise("secrets-refuse-display")
def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "read.pem"
    with ThreadPoolExecutor(8) as pool:
        kids = set(pool.map(lambda _: load_key(file).kid, range(16)))
    assert len(kids) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["read.pem"]
    assert (
        load_key(tmp_path / "ed.pem", "EdDSA").algorithm == load_key(tmp_path / "ed.pem").algorithm == "EdDSA"
    )


@pytest.mark.promise("secrets-refuse-display")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "read.pem"
    load_key(file)
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_key(file)


def _pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_a_key_file_of_another_kind_is_a_configuration_error(tmp_path: Path) -> None:
    contents: Mapping[str, bytes] = {
        "noise": b"noise",
        "empty": b"",
        "rsa": _pem(rsa.generate_private_key(65537, 2048)),
        "p384": _pem(ec.generate_private_key(ec.SECP384R1())),
    }
    for name, content in contents.items():
        file = tmp_path / name
        file.touch(mode=0o600)
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="P-256 or Ed25519"):
            load_key(file)
    with pytest.raises(ConfigurationError, match="cannot be read or made"):
        load_key(tmp_path / "absent" / "read.pem")
    with pytest.raises(ConfigurationError):
        load_key(tmp_path)


def test_a_token_is_signed_when_it_is_first_wanted_and_once_by_however_many_threads() -> None:
    signatures = list[str]()

    class Counting(Signer):
        def sign(self, head: str, claims: Mapping[str, Json]) -> str:
            signatures.append(super().sign(head, claims))
            return signatures[-1]

    signer = Counting(ec.generate_private_key(ec.SECP256R1()))
    by = LocalIssuer(ToolPath.WRITE, issuer="https://guard.example", store=MemoryStore(), key=signer)
    credential = by.issue(sample_grant(path=ToolPath.WRITE))
    assert (signatures, credential.secrets()) == ([], ())
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: credential.reveal(), range(64)))
    assert (signatures, credential.secrets()) == ([*tokens], (*tokens,))
