"""Token exchange (RFC 8693): an authorization server gives each call a token of the user, for this agent."""

import os
from pathlib import Path

import httpx
from langchain.agents import create_agent

from agentguard import Guard, Resource, ToolPath, auth
from agentguard.credentials.local_issuer import load_key
from agentguard.credentials.oauth import AuthorizationServer, IssuerProfile, PrivateKeyJwt, TokenExchange
from agentguard.credentials.sealing import SealingKey
from agentguard.identity.local import LocalIdentity
from agentguard.resource import Verifier
from agentguard.stores import SqliteStore
from agentguard.testing import ScriptedChatModel

KEYS, ISSUER, URI = Path(__file__).parent / ".agentguard", os.environ["ISSUER"], "https://orders.example"
store = SqliteStore(KEYS / "state.db")  # shared: a token that is revoked here is refused there
# --- the resource server, which knows the issuer's public keys
jwks = httpx.get(f"{ISSUER}/jwks", trust_env=False).json()
orders = Resource(name="orders", audiences={ToolPath.READ: URI})
verifier = Verifier(issuer=ISSUER, keys=jwks, resource=orders, store=store, by_audience=[ToolPath.READ])


def serve(request: httpx.Request) -> httpx.Response:
    claims = verifier.verify(request.method, str(request.url), request.headers, path=ToolPath.READ)
    agent = claims.act["sub"]
    return httpx.Response(200, text=f"order 4711 for {claims.subject} by {agent}, {claims.tool} only")


# --- the agent; its key is registered with the issuer, and proves the agent and the client
key = load_key(KEYS / "agent.pem")
broker = TokenExchange(
    AuthorizationServer(ISSUER, PrivateKeyJwt("agent://support", key)),
    paths={ToolPath.READ},
    identity=(identity := LocalIdentity("agent://support", key)),
    store=store,
    seal=SealingKey.from_file(KEYS / "handles.key"),  # another process can revoke after a crash
    profile=IssuerProfile(resource_uris={"orders/read": URI}),
)


def get_order(order_id: str) -> str:
    """Read an order."""
    with httpx.Client(transport=httpx.MockTransport(serve), auth=auth("orders")) as client:
        return client.get(f"http://127.0.0.1:8000/orders/{order_id}").text


model = ScriptedChatModel(script=[[("get_order", {"order_id": "4711"})], "That is your order."])
tools, brokers = Path(__file__).with_name("agentguard.toml"), {(None, ToolPath.READ): broker}
guard = Guard.from_file(tools, identity=identity, brokers=brokers, store=store)
agent = create_agent(model, [get_order], middleware=[guard.middleware()])
token, mandate = os.environ["SUBJECT_TOKEN"], {"tools": ["get_order"]}  # the token is from the user's login
with guard.task("Read order 4711", subject="user:ada", mandate=mandate, subject_token=token) as task:
    print("tool:", agent.invoke({"messages": [("user", "Where is my order?")]})["messages"][-2].text)
print(f"left: {len(store.live())} credentials alive\n\n{task.timeline()}")
guard.close()
broker.close()
