"""One trace, from the agent to the API that it calls: for Jaeger at OTEL_EXPORTER_OTLP_ENDPOINT."""

import time
from pathlib import Path
from threading import Thread

import httpx
import uvicorn
from langchain.agents import create_agent
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.responses import PlainTextResponse

import agentguard
from agentguard.resource import Verifier
from agentguard.resource.asgi import Protected, Rule
from agentguard.stores import SqliteStore
from agentguard.testing import ScriptedChatModel

HERE, ORIGIN = Path(__file__).parent, "http://127.0.0.1:8000"


def tracing(service: str) -> TracerProvider:
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


agents, orders = tracing("support-agent"), tracing("orders-api")
guard = agentguard.Guard.from_file(HERE / "agentguard.toml", tracer_provider=agents)

# the API, which is in production another process
keys, store = HERE / ".agentguard/jwks.json", SqliteStore(HERE / ".agentguard/state.db")
resource = agentguard.Resource(name="orders", origins=(ORIGIN,))
verifier = Verifier(issuer="https://agentguard.local", keys=keys, resource=resource, store=store)
rule = Rule("GET", "/orders/{order_id}", agentguard.ToolPath.READ, scope="orders:read")
api = Protected(PlainTextResponse("a kettle"), verifier, [rule], routes=(), tracer_provider=orders)
server = uvicorn.Server(uvicorn.Config(api, port=int(ORIGIN.rpartition(":")[2]), log_level="error"))
(thread := Thread(target=server.run)).start()
while not server.started:
    time.sleep(0.01)


def get_order(order_id: str) -> str:
    """Read an order."""
    return httpx.get(f"{ORIGIN}/orders/{order_id}", auth=agentguard.auth("orders")).text


calls = [[("get_order", {"order_id": number})] for number in ("4711", "4712")]  # the second one is denied
model = ScriptedChatModel(script=[*calls, "It is a kettle."])
agent = create_agent(model, [get_order], middleware=[guard.middleware()])
mandate = {"tools": ["get_order"], "args": {"order_id": ["4711"]}}
span = agents.get_tracer("shop").start_as_current_span("invoke_agent support")
with span, guard.task("Show order 4711", subject="user://alice", mandate=mandate):
    agent.invoke({"messages": [("user", "What is in order 4711?")]})
server.should_exit = True
for end in (thread.join, guard.close, store.close, agents.shutdown, orders.shutdown):
    end()
