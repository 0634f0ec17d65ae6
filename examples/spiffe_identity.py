"""SPIFFE: the platform says who the agent is, and the agent proves it to an issuer without a secret."""

import os

from agentguard import AccessRequest, Guard, Resource, ToolPath, credential
from agentguard.audit import JsonLinesAudit
from agentguard.catalog import Catalog
from agentguard.credentials.oauth import AuthorizationServer, IssuerProfile, SpiffeJwt, TokenExchange
from agentguard.errors import IdentityError
from agentguard.identity.spiffe import SpiffeIdentity
from agentguard.stores import SqliteStore

URI = "https://orders.example"
identity = SpiffeIdentity()  # the Workload API at SPIFFE_ENDPOINT_SOCKET; rotation is noticed
print("agent: ", identity.actor())
store = SqliteStore(".agentguard/state.db")
broker = TokenExchange(
    # its JWT-SVID in place of a client secret
    AuthorizationServer(os.environ["ISSUER"], SpiffeJwt(identity.actor(), identity)),
    paths=[ToolPath.READ],
    identity=identity,
    store=store,
    profile=IssuerProfile(resource_uris={"orders/read": URI}),
)


def only_support(request: AccessRequest) -> bool:
    return request.identity.actor.endswith("/agent/support")


guard = Guard(
    catalog=Catalog(resources=[Resource(name="orders", origins=(URI,))]),
    policy=only_support,
    identity=identity,
    brokers={("orders", ToolPath.READ): broker},
    store=store,
    audit=JsonLinesAudit(".agentguard/audit.jsonl"),
)


@guard.tool(path="read", resource="orders", scopes=["orders:read"])
def count_orders() -> str:
    """Count the orders of today."""
    headers = credential("orders").headers("GET", f"{URI}/orders")
    return f"would send {' and '.join(sorted(headers))}, {headers['Authorization'].split()[0]} and not Bearer"


# no user stands behind this task: the agent acts for itself
with guard.task("Daily report", subject=identity.actor(), mandate={"tools": ["count_orders"]}) as task:
    print("tool:  ", count_orders.invoke({}))
print(f"left:   {len(store.live())} credentials alive\n\n{task.timeline()}")
guard.close()
broker.close()
identity.close()
try:
    identity.token(URI)
except IdentityError as error:
    print("\nlater: ", type(error).__name__)
