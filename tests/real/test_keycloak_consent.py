"""A user who has not consented at a real Keycloak: the run waits, and goes on when they have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

import agentguard
from agentguard import Denied, Guard
from agentguard.errors import ADVICE, DenialCode
from agentguard.resource import Issuer
from tests.conftest import GO, Mode, scripted, tool_call, tool_messages
from tests.real.conftest import needed
from tests.real.keycloak_realm import Realm
from tests.real.test_keycloak_exchange import AGENT, ORIGIN, World

THREAD: Any = {"configurable": {"thread_id": "1"}}


class Consents:
    """The realm of the example, where Keycloak asks users before an agent's client may read their orders."""

    def __init__(self, world: World) -> None:
        self.world = world
        (agent,) = self._admin("GET", f"clients?clientId={AGENT.replace('/', '%2F')}")
        self._admin("PUT", f"clients/{agent['id']}", {**agent, "consentRequired": True})
        (self.scope,) = (s for s in self._admin("GET", "client-scopes") if s["name"] == "orders:read")
        shown = {**self.scope["attributes"], "display.on.consent.screen": "true"}
        self._admin("PUT", f"client-scopes/{self.scope['id']}", {**self.scope, "attributes": shown})

    def _admin(self, method: str, path: str, body: object = None) -> Any:
        return self.world.realm.admin(method, f"/{self.world.realm.name}/{path}", body)

    def agent(self, saver: InMemorySaver | None = None) -> Any:
        """Return an agent that reads an order."""
        transport = httpx.MockTransport(self.world.serve)

        @tool
        def get_order(order_id: str) -> str:
            """Read an order."""
            with httpx.Client(transport=transport, auth=agentguard.auth("orders")) as http:
                return http.get(f"{ORIGIN}/orders/{order_id}").text

        model = scripted(tool_call("get_order", order_id="4711"))
        return create_agent(
            model, [get_order], middleware=[self.world.guard.middleware()], checkpointer=saver
        )

    def give(self, user: str) -> None:
        """Consent as the user, by the API of their own account page."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": user, "password": user}
        token = self.world.realm.post("token", **form).json()["access_token"]
        client = AGENT.replace("/", "%2F")
        answer = httpx.post(
            f"{self.world.realm.issuer}/account/applications/{client}/consent",
            json={"grantedScopes": [{"id": self.scope["id"], "name": self.scope["name"]}]},
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=60,  # a Java program's first answer
        )
        assert answer.is_success, f"{answer.status_code} {answer.text}"


@pytest.fixture(scope="module")
def consents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consents]:
    server = needed("AGENTGUARD_TEST_KEYCLOAK")
    with httpx.Client(base_url=server, trust_env=False, timeout=30) as http:
        realm = Realm(server, http)
        realm.make(needed("AGENTGUARD_TEST_KEYCLOAK_PASSWORD"))
        try:
            world = World(realm, tmp_path_factory.mktemp("world"), "mapper")
            with suppress(Denied):  # a Java program's first answer may take longer than a call may
                asyncio.run(world.get_order(Mode("sync"), world.task()))
            settings = world.folder / "agentguard.toml"
            page = f'grant_url = "{realm.issuer}/account"'
            settings.write_text(
                settings.read_text().replace("[resources.orders]", f"{page}\n[resources.orders]")
            )
            world.guard.close()
            world.http.close()
            world.guard = Guard.from_file(settings)
            world.verifier = world._verifier(Issuer(realm.issuer, "azp"))
            yield Consents(world)
            world.guard.close()
            world.http.close()
        finally:
            realm.delete()


@pytest.mark.promise("missing-grant-asked", "missing-grant-judged-anew")
@pytest.mark.parametrize(("user", "mode"), [("alice", Mode("sync")), ("bob", Mode("async"))])
async def test_a_call_waits_for_the_users_consent_at_keycloak(
    consents: Consents, user: str, mode: Mode
) -> None:
    world, agent = consents.world, consents.agent(InMemorySaver())
    before, task = len(world.requests), world.task(user)
    with task.active():
        (question,) = (await mode.invoke(agent, GO, THREAD))["__interrupt__"]
        assert question.value["grant"] == {
            "code": "consent_required",
            "issuer": world.realm.issuer,
            "url": f"{world.realm.issuer}/account",
            "resource": "orders",
            "scopes": ["orders:read"],
        }
        (again,) = (await mode.invoke(agent, Command(resume={question.id: "yes"}), THREAD))["__interrupt__"]
        assert len(world.requests) == before
        consents.give(user)
        result = await mode.invoke(agent, Command(resume={again.id: "yes"}), THREAD)
    assert str(tool_messages(result)[0].content).endswith(f" by {AGENT}")
    assert len(world.requests) == before + 1
    task.complete()


@pytest.mark.promise("missing-grant-denied")
async def test_without_a_run_that_can_wait_keycloaks_refusal_is_a_denial(consents: Consents) -> None:
    world = consents.world
    users = world.realm.admin("GET", f"/{world.realm.name}/users?username=alice")
    client = AGENT.replace("/", "%2F")
    with suppress(AssertionError):  # there may be none yet
        world.realm.admin("DELETE", f"/{world.realm.name}/users/{users[0]['id']}/consents/{client}")
    with world.task():
        result = consents.agent().invoke(GO)
    assert str(tool_messages(result)[0].content) == f"Denied: {ADVICE[DenialCode.GRANT_MISSING]}"
