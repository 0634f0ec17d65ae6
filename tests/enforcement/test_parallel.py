"""Sixty-four calls at once, with the real issuer, store and log: to each its own credential, and no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

import agentguard
from agentguard import Guard, Resource, ToolPath
from agentguard.audit.chain import verify
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.catalog import Catalog
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.errors import CredentialUnavailable
from agentguard.identity.local import LocalIdentity
from agentguard.jose import revocation_key, strict_json, unb64url
from agentguard.lease import Lease
from agentguard.model import Arguments
from agentguard.policies.cedar import CedarPolicy
from agentguard.stores.sqlite import SqliteStore
from tests.conftest import Mode, classified, scripted, tool_call

MANY = 64
ISSUER = "https://guard.example"


class Seen:
    """What each call saw of its credential: before and after others ran."""

    def __init__(self) -> None:
        self.tokens: dict[int, tuple[str, str]] = {}
        self.leases: list[Lease] = []

    def tool(self, mode: Mode) -> BaseTool:
        """Make the tool that reads its credential twice, around a pause."""

        def read(number: int) -> str:
            """Read one."""
            lease = agentguard.credential("orders")
            before = lease.reveal()
            time.sleep(0.02)
            self.note(number, lease, before)
            return str(number)

        async def aread(number: int) -> str:
            """Read one."""
            lease = agentguard.credential("orders")
            before = lease.reveal()
            await asyncio.sleep(0.02)
            self.note(number, lease, before)
            return str(number)

        made = StructuredTool.from_function(
            func=None if mode.asynchronous else read,
            coroutine=aread if mode.asynchronous else None,
            name="read_order",
        )
        return classified(made, path="write", resource="orders")

    def note(self, number: int, lease: Lease, before: str) -> None:
        self.leases.append(lease)
        self.tokens[number] = before, agentguard.credential("orders").reveal()


class Real:
    """A guard of the embedded parts alone."""

    def __init__(self, directory: Path) -> None:
        self.store = SqliteStore(directory / "store.db")
        self.audit = JsonLinesAudit(directory / "audit.jsonl")
        self.guard = Guard(
            catalog=Catalog(resources=[Resource(name="orders")]),
            policy=CedarPolicy.from_text('@id("all") permit (principal, action, resource);'),
            identity=LocalIdentity("agent://test"),
            brokers={(None, p): LocalIssuer(p, issuer=ISSUER, store=self.store) for p in ToolPath},
            store=self.store,
            audit=self.audit,
            timeout=30.0,  # not what is tested, on a busy machine
        )


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    made = Real(tmp_path)
    yield made
    made.guard.close()


def through_middleware(guard: Guard, tool: BaseTool) -> Any:
    calls = [tool_call(tool.name, f"c{n}", number=n) for n in range(MANY)]
    return create_agent(scripted(calls), [tool], middleware=[guard.middleware()])


def through_wrapped_tools(guard: Guard, tool: BaseTool) -> Any:
    calls = [tool_call(tool.name, f"c{n}", number=n) for n in range(MANY)]
    return create_agent(scripted(calls), guard.wrap(tool))


def through_a_tool_node(guard: Guard, tool: BaseTool) -> Any:
    calls = [tool_call(tool.name, f"c{n}", number=n) for n in range(MANY)]

    def ask(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("", tool_calls=calls)]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_node("tools", ToolNode(guard.wrap(tool)))
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "tools")
    return graph.compile()


Build = Callable[[Guard, BaseTool], Any]
WAYS = [through_middleware, through_wrapped_tools, through_a_tool_node]


async def run(agent: Any, mode: Mode) -> list[Any]:
    question = {"messages": [("user", "Read all.")]}
    result = await mode.invoke(agent, question, {"max_concurrency": MANY})
    return [message for message in result["messages"] if message.type == "tool"]


@pytest.mark.exhaustive
@pytest.mark.promise("parallel-own-credential")
@pytest.mark.parametrize("build", WAYS)
async def test_each_of_many_parallel_calls_has_a_credential_of_its_own_that_ends_with_it(
    real: Real, mode: Mode, build: Build
) -> None:
    seen = Seen()
    agent = build(real.guard, seen.tool(mode))
    with real.guard.task("read", subject="alice", mandate={"tools": "*"}, calls=MANY, writes=MANY) as task:
        answers = await run(agent, mode)
        assert real.store.live() == ()  # already before the task ends
        state = task.state()
    assert sorted(int(answer.content) for answer in answers) == list(range(MANY))
    assert all(before == after for before, after in seen.tokens.values())
    assert len({before for before, _ in seen.tokens.values()}) == MANY
    for lease in seen.leases:
        with pytest.raises(CredentialUnavailable):
            lease.reveal()
    assert (state.calls, state.writes, state.history) == (MANY, MANY, ("read_order",))
    ids = [claims(before)["jti"] for before, _ in seen.tokens.values()]
    assert all(real.store.known(revocation_key(ISSUER, jti)) for jti in ids)
    records = list(real.audit.records(task.id))
    assert sum(r["event"] == "outcome" and r["revoked"] for r in records) == MANY
    with real.audit.path.open("rb") as lines:
        report = verify(lines, real.audit.head())
    assert report.sound
    assert report.records == len(records) == 2 * MANY + 1


@pytest.mark.exhaustive
@pytest.mark.promise("parallel-own-credential")
@pytest.mark.parametrize("build", WAYS)
async def test_a_token_names_the_arguments_of_its_own_call(real: Real, mode: Mode, build: Build) -> None:
    seen = Seen()
    agent = build(real.guard, seen.tool(mode))
    with real.guard.task("read", subject="alice", mandate={"tools": "*"}) as task:
        await run(agent, mode)
    digests = {r["credential"]: r["digest"] for r in real.audit.records(task.id) if r["event"] == "decision"}
    for number, (token, _) in seen.tokens.items():
        (detail,) = claims(token)["authorization_details"]
        expected = Arguments.of({"number": number}).digest
        assert detail["digest"] == expected == digests[claims(token)["jti"]]


@pytest.mark.exhaustive
@pytest.mark.parametrize("build", WAYS)
async def test_a_budget_holds_to_the_last_of_parallel_calls(real: Real, mode: Mode, build: Build) -> None:
    seen = Seen()
    agent = build(real.guard, seen.tool(mode))
    with real.guard.task("read", subject="alice", mandate={"tools": "*"}, calls=40) as task:
        answers = await run(agent, mode)
        state = task.state()
    assert state.calls == len(seen.tokens) == 40
    assert sum(answer.status == "error" for answer in answers) == MANY - 40
    assert real.store.live() == ()


def claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = strict_json(unb64url(token.split(".")[1]))
    return found
