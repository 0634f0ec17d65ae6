"""A logout at a real identity provider, Keycloak, ends the tasks of that session, or all of the user."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from agentguard import Guard
from agentguard.catalog import Catalog
from agentguard.identity import LocalIdentity
from agentguard.jose import unverified_claims
from agentguard.model import Secret, TaskStatus
from agentguard.signals import Source
from agentguard.signals.events import SESSION_REVOKED
from agentguard.stores.memory import MemoryStore
from agentguard.tasks.task import Task
from agentguard.testing import FixedPolicy, RecordingAudit
from tests.real.conftest import needed
from tests.real.keycloak_realm import Realm
from tests.servers.server import free_port

AUDIENCE, HEADER = "https://agentguard.test/signals", "Bearer receiver"
PATIENCE = 40.0  # seconds; Keycloak sends its signals from an outbox


class SignalingRealm(Realm):
    """A realm with an application, and a receiver of signals."""

    def signal(self, password: str, url: str) -> None:
        """Make the realm, whose transmitter may push to *url*."""
        self.make(password, attributes={"ssf.transmitterEnabled": "true", "ssf.defaultSubjects": "ALL"})
        app = {"clientId": "app", "publicClient": True, "directAccessGrantsEnabled": True}
        self.admin("POST", f"/{self.name}/clients", app)
        of_receiver = {
            "ssf.enabled": "true",
            "ssf.validPushUrls": url,
            "ssf.defaultSubjects": "ALL",
            "ssf.profile": "SSF_1_0",
            "ssf.streamAudience": AUDIENCE,
            "ssf.supportedEvents": "CaepSessionRevoked",
        }
        receiver = {"clientId": "receiver", "serviceAccountsEnabled": True, "attributes": of_receiver}
        self.admin("POST", f"/{self.name}/clients", receiver)

    def stream(self, url: str) -> None:
        """Begin the stream of signals."""
        delivery = {
            "method": "urn:ietf:rfc:8935",
            "endpoint_url": url,
            "authorization_header": HEADER,
        }
        body = {"description": "agentguard", "delivery": delivery, "events_requested": [SESSION_REVOKED]}
        self.admin("POST", f"/{self.name}/ssf/clients/receiver/stream", body)

    def login(self, user: str) -> dict[str, str]:
        answer = self.post("token", grant_type="password", client_id="app", username=user, password=user)
        assert answer.is_success, answer.text
        tokens: dict[str, str] = answer.json()
        return tokens

    def logout(self, refresh_token: str) -> None:
        """Log out as the user does, in one session."""
        assert self.post("logout", client_id="app", refresh_token=refresh_token).is_success

    def logout_everywhere(self, user: str) -> None:
        """Log a user out as an administrator does, from all sessions."""
        (entry,) = self.admin("GET", f"/{self.name}/users?exact=true&username={user}")
        self.admin("POST", f"/{self.name}/users/{entry['id']}/logout")


@pytest.fixture
def guard() -> Iterator[Guard]:
    guard = Guard(
        catalog=Catalog([]),
        policy=FixedPolicy(),
        identity=LocalIdentity("agent://support"),
        brokers={},
        store=MemoryStore(),
        audit=RecordingAudit(),
    )
    yield guard
    guard.close()


@pytest.fixture
def realm(guard: Guard) -> Iterator[SignalingRealm]:
    """Return a realm that tells the guard of logouts."""
    port = free_port()
    url, server = f"http://127.0.0.1:{port}/signals", needed("AGENTGUARD_TEST_KEYCLOAK")
    with httpx.Client(base_url=server, trust_env=False, timeout=30) as http:
        realm = SignalingRealm(server, http)
        realm.signal(needed("AGENTGUARD_TEST_KEYCLOAK_PASSWORD"), url)
        source = Source(issuer=realm.issuer, keys=realm.keys(), authorization=Secret(HEADER))
        app: Any = guard.receiver([source], audience=AUDIENCE)
        receiver = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
        thread = threading.Thread(target=receiver.run)
        thread.start()
        try:
            realm.stream(url)
            yield realm
        finally:
            receiver.should_exit = True
            thread.join()
            realm.delete()


def until(true: Callable[[], bool]) -> bool:
    ends = time.monotonic() + PATIENCE
    while not true() and time.monotonic() < ends:
        time.sleep(0.1)
    return true()


@pytest.mark.promise("logout-ends-tasks")
def test_a_logout_at_keycloak_ends_the_tasks_of_that_session_and_then_all_of_the_user(
    guard: Guard, realm: SignalingRealm
) -> None:
    logins = [realm.login(user) for user in ("alice", "alice", "alice", "bob")]

    def begin(login: dict[str, str]) -> Task:
        claims = unverified_claims(login["access_token"]) or {}
        assert claims["sid"]
        # the subject is our own name of the user, of which Keycloak knows nothing
        token, subject = login["access_token"], f"user:{claims['preferred_username']}"
        return guard.task("x", subject=subject, mandate={"tools": "*"}, subject_token=token).begin()

    tasks = [begin(login) for login in logins]

    def ended() -> list[bool]:
        return [task.state().status is TaskStatus.REVOKED for task in tasks]

    realm.logout(logins[0]["refresh_token"])
    assert until(lambda: ended()[0])
    assert ended() == [True, False, False, False]
    realm.logout_everywhere("alice")
    assert until(lambda: ended() == [True, True, True, False])
    ends = [record for record in guard.enforcement.ports.audit.records() if record["event"] == "task"]
    assert {record["cause"].partition(":")[0] for record in ends} == {"signal of http"}
