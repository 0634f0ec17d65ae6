"""Keycloak decides by AuthZEN; the guard gets a token for itself, and asks by Keycloak's name of the user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from langchain_core.tools import BaseTool, tool

from agentguard import Guard
from agentguard.credentials.local_issuer import load_key
from agentguard.errors import Denied
from tests.conftest import Mode
from tests.real.conftest import needed
from tests.real.keycloak_realm import Realm, client

SETTINGS = """
[agent]
id = "agent://support"
[policy]
pdps = ["corp"]
[pdps.corp]
kind = "authzen"
url = "{issuer}"
version = "1"
timeout = 10.0
subject_type = "user"
subject = "user:{{id}}"
client = {{ issuer = "{issuer}", client_id = "orders", client_key = "pdp.pem" }}
[resources.orders]
origins = ["https://orders.example"]
[tools.get_order]
path = "read"
resource = "orders"
[tools.refund_order]
path = "write"
resource = "orders"
"""


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """Return a guard whose policy is a realm in which alice may get orders, and nobody may refund one."""
    folder = tmp_path_factory.mktemp("pdp")
    with httpx.Client(base_url=needed("AGENTGUARD_TEST_KEYCLOAK"), trust_env=False, timeout=30) as http:
        realm = Realm(needed("AGENTGUARD_TEST_KEYCLOAK"), http)
        realm.make(needed("AGENTGUARD_TEST_KEYCLOAK_PASSWORD"))
        try:
            permit_alice(realm, folder)
            (folder / "agentguard.toml").write_text(SETTINGS.format(issuer=realm.issuer))
            guard = Guard.from_file(folder / "agentguard.toml")
            yield guard
            guard.close()
        finally:
            realm.delete()


def permit_alice(realm: Realm, folder: Path) -> None:
    of_client = client("orders", load_key(folder / "pdp.pem"), serviceAccountsEnabled=True)
    clients = f"/{realm.name}/clients"
    realm.admin("POST", clients, {**of_client, "authorizationServicesEnabled": True})
    (entry,) = realm.admin("GET", f"{clients}?clientId=orders")
    server = f"{clients}/{entry['id']}/authz/resource-server"
    scopes = [{"name": "get_order"}, {"name": "refund_order"}]
    for scope in scopes:
        realm.admin("POST", f"{server}/scope", scope)
    realm.admin("POST", f"{server}/resource", {"name": "orders", "type": "orders", "scopes": scopes})
    (alice,) = realm.admin("GET", f"/{realm.name}/users?exact=true&username=alice")
    realm.admin("POST", f"{server}/policy/user", {"name": "alice", "users": [alice["id"]]})
    permission = {"name": "p", "scopes": ["get_order"], "resources": ["orders"], "policies": ["alice"]}
    realm.admin("POST", f"{server}/permission/scope", permission)


@pytest.fixture(scope="module")
def tools(guard: Guard) -> dict[str, BaseTool]:
    @tool
    def get_order(order_id: str) -> str:
        """Read an order."""
        return f"order {order_id}"

    @tool
    def refund_order(order_id: str) -> str:
        """Refund an order."""
        return f"refunded {order_id}"

    return {guarded.name: guarded for guarded in guard.wrap([get_order, refund_order])}


@pytest.mark.promise("pdp-authenticated", "pdp-clear-permit")
@pytest.mark.parametrize(
    ("subject", "name", "is_permitted"),
    [
        ("user:alice", "get_order", True),
        ("user:alice", "refund_order", False),
        ("user:bob", "get_order", False),
        ("user:nobody", "get_order", False),
        ("alice", "get_order", False),  # a subject of another form is not that user
    ],
)
async def test_keycloak_permits_what_its_own_permissions_say(
    guard: Guard, tools: dict[str, BaseTool], mode: Mode, subject: str, name: str, is_permitted: bool
) -> None:
    async with guard.task("Look", subject=subject, mandate={"tools": "*"}):
        if is_permitted:
            assert await mode.call(tools[name], "invoke", {"order_id": "4711"}) == "order 4711"
            return
        with pytest.raises(Denied):
            await mode.call(tools[name], "invoke", {"order_id": "4711"})
