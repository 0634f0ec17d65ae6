"""No sink holds a secret, although every tool here gives its credential away, in every way that it can.

Each tool writes a canary beside its credential, and nothing redacts the canary. A sink that has the canary
would have the credential too without redaction. So the tests know that they look in the right places.
"""

from __future__ import annotations

import copy
import logging
import pickle
import re
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import AgentState, create_agent
from langchain_core.load import dumps
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langsmith import run_trees, utils

import agentguard
from agentguard import Credential, Grant, Guard, Resource, ToolPath
from agentguard.audit.jsonl import JsonLinesAudit
from agentguard.catalog import Catalog
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.identity.local import LocalIdentity
from agentguard.langchain.seal import running_call
from agentguard.policies.cedar import CedarPolicy
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing import CapturedSpans, captured_spans
from tests.conftest import GO, Mode, classified, scripted, tool_call
from tests.doubles.echoes import CANARY, calling, log, returning, telling
from tests.doubles.sinks import (
    LogSink,
    Recorder,
    Server,
    Tracer,
    drawn,
    langsmith_client,
    serving,
    shown,
    spelled,
)

MODES = ["updates", "values", "debug", "tasks", "checkpoints", "messages", "custom", "tools"]


class Watched(LocalIssuer):
    """The embedded issuer; it keeps the credentials that it mints where only the test reads them."""

    def __init__(self, path: ToolPath, store: SqliteStore) -> None:
        super().__init__(path, issuer="https://guard.example", store=store)
        self.minted: list[Credential] = []

    def issue(self, grant: Grant) -> Credential:
        self.minted.append(super().issue(grant))
        return self.minted[-1]

    def secrets(self) -> Iterator[str]:
        """Yield the texts that no sink may hold: tokens, their signatures, and the private keys."""
        for credential in self.minted:
            yield credential.reveal()
            yield credential.reveal().rpartition(".")[2]
        signers: list[Any] = [self._signing.signer, self._proofs._ProofKey__signer]  # type: ignore[attr-defined]  # hidden
        for signer in signers:
            number: int = signer._Signer__key.private_numbers().private_value
            raw = number.to_bytes(32, "big")
            yield from (str(number), f"{number:x}", raw.hex(), urlsafe_b64encode(raw).rstrip(b"=").decode())


class State(AgentState[Any]):
    note: str


class World:
    """One guarded agent, and every sink that records its runs."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory, self.captured = directory, list[Any]()
        self.server: Server = stack.enter_context(serving())
        self.spans: CapturedSpans = stack.enter_context(captured_spans())
        self.store = SqliteStore(directory / "store.db")
        self.issuers = {(None, path): Watched(path, self.store) for path in ToolPath}
        self.guard = Guard(
            catalog=Catalog(resources=[Resource(name="orders", origins=(self.server.origin,))]),
            policy=CedarPolicy.from_text('@id("all") permit (principal, action, resource);'),
            identity=LocalIdentity("agent://test"),
            brokers=self.issuers,  # type: ignore[arg-type]  # a dict's values are invariant
            store=self.store,
            audit=JsonLinesAudit(directory / "audit.jsonl"),
            tracer_provider=self.spans.tracer_provider,
        )
        stack.callback(self.guard.close)
        functions = [*returning(self.captured), *telling(), calling(self.server.origin)]
        self.tools = [classified(function, path="write", resource="orders") for function in functions]
        self.recorder, self.tracer, self.log = Recorder(), Tracer(), LogSink()
        self.seen: list[str] = []
        self.config: Any = {"callbacks": [self.recorder, self.tracer], "configurable": {"thread_id": "t"}}

    def secrets(self) -> list[str]:
        secrets = [secret for issuer in self.issuers.values() for secret in issuer.secrets()]
        assert len(secrets) > 2 * 3 * 4, "nothing was minted"
        return secrets

    def agent(self, way: str, names: list[str], saver: Any) -> Any:
        tools = [tool for tool in self.tools if tool.name in names]
        wrapped = way == "wrap"
        return create_agent(
            scripted(*(tool_call(name, f"call-{name}") for name in names)),
            self.guard.wrap(tools) if wrapped else tools,
            middleware=[] if wrapped else [self.guard.middleware()],
            state_schema=State,
            checkpointer=saver,
        )

    def sinks(self) -> dict[str, str]:
        """Return the content of every sink, by its name."""
        files = {path.name: path.read_bytes().decode("latin-1") for path in self.directory.iterdir()}
        return {
            **files,
            "callbacks": "\n".join(self.recorder.kept),
            "tracer": "\n".join(self.tracer.kept),
            "logs": "\n".join(self.log.kept),
            "spans": "\n".join(span.to_json() for span in self.spans.finished()),
            "seen": "\n".join(self.seen),
        }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with ExitStack() as stack:
        world = World(tmp_path, stack)
        root = logging.getLogger()
        monkeypatch.setattr(root, "level", logging.DEBUG)
        root.addHandler(world.log)
        stack.callback(root.removeHandler, world.log)
        yield world


@pytest.fixture
def langsmith(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Trace to a local sink with the real client, as LANGSMITH_TRACING does; return what was sent."""
    forget: Callable[[], None] = utils.get_env_var.cache_clear  # type: ignore[attr-defined]  # an lru_cache
    with serving() as server:
        client = langsmith_client(server)
        monkeypatch.setenv("LANGSMITH_TRACING", "true")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", server.origin)
        monkeypatch.setattr(run_trees, "_CLIENT", client)
        forget()

        def sent() -> str:
            client.flush()
            return "\n".join(server.received)

        yield sent
        client.cleanup()
        forget()


def assert_no_secret(sinks: dict[str, str], secrets: list[str]) -> None:
    leaks = [name for name, text in sinks.items() if any(secret in text for secret in secrets)]
    assert not leaks, f"a secret is in {leaks}"


QUIET = ["value", "artifact", "command", "handled", "logged", "streamed", "worded", "called"]
SAW_THE_ECHO = {"callbacks", "tracer", "langsmith", "logs", "seen", "checkpoints.db"}
NEVER_GIVEN = {"spans", "audit.jsonl", "store.db"}


@pytest.fixture(params=["middleware", "wrap"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.exhaustive
@pytest.mark.promise("no-secret-in-any-sink")
async def test_no_sink_of_a_run_holds_a_credential_that_its_tools_echo(
    world: World, langsmith: Callable[[], str], mode: Mode, way: str
) -> None:
    path = world.directory / "checkpoints.db"
    with world.guard.task("echo", subject="alice", mandate={"tools": "*"}):
        if mode.asynchronous:
            async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
                agent = world.agent(way, QUIET, saver)
                async for chunk in agent.astream(GO, world.config, stream_mode=MODES):
                    world.seen.append(spelled(chunk))
                sinks = world.sinks()  # with the write-ahead logs, before they are folded in
        else:
            connection = sqlite3.connect(path, check_same_thread=False)
            agent = world.agent(way, QUIET, SqliteSaver(connection))
            world.seen += [spelled(chunk) for chunk in agent.stream(GO, world.config, stream_mode=MODES)]
            sinks = world.sinks()
            connection.close()
    sinks = {f"{name} at the end": text for name, text in world.sinks().items()} | sinks
    sinks["langsmith"] = langsmith()
    assert_no_secret(sinks, world.secrets())
    saw = {name for name, text in sinks.items() if CANARY in text}
    assert saw >= SAW_THE_ECHO - {"checkpoints.db"}
    assert any(CANARY in text for name, text in sinks.items() if name.startswith("checkpoints.db"))
    for by in ("the runtime", "a delta", "the config", "its config", "a parameter"):
        assert re.search(rf"by {by}\W.*{CANARY} \[redacted\] {CANARY}", "\n".join(world.seen)), by
    assert not saw & NEVER_GIVEN
    assert sinks.keys() >= NEVER_GIVEN
    assert {"store.db-wal"} & sinks.keys()
    assert "on_tool_end" in world.recorder.events
    # the resource alone has received it, by agentguard.auth
    token = world.issuers[None, ToolPath.WRITE].minted[QUIET.index("called")].reveal()
    assert any(f"Authorization: DPoP {token}" in request for request in world.server.received)


@pytest.mark.exhaustive
@pytest.mark.promise("no-secret-in-any-sink")
async def test_the_memory_checkpoint_and_the_messages_hold_no_credential(
    world: World, mode: Mode, way: str
) -> None:
    saver = InMemorySaver()
    with world.guard.task("echo", subject="alice", mandate={"tools": "*"}):
        result = await mode.invoke(world.agent(way, QUIET, saver), GO, world.config)
    sinks = {
        "checkpoint": spelled([saver.storage, saver.blobs, saver.writes]),
        "messages": spelled(result) + dumps(result["messages"]),
        "pickle": pickle.dumps(result).decode("latin-1"),
    }
    assert_no_secret(sinks, world.secrets())
    assert all(CANARY in text for text in sinks.values())
    messages = {message.name: message for message in result["messages"] if message.type == "tool"}
    assert set(messages) - {None} >= {"value", "artifact", "handled", "logged", "called"}
    for name in ("value", "artifact", "handled", "called"):
        assert "[redacted]" in messages[name].content


@pytest.mark.exhaustive
@pytest.mark.promise("no-secret-in-exceptions")
async def test_an_exception_that_ends_the_run_holds_no_credential(
    world: World, langsmith: Callable[[], str], mode: Mode, way: str
) -> None:
    saver = InMemorySaver()
    agent = world.agent(way, ["fails"], saver)
    with world.guard.task("echo", subject="alice", mandate={"tools": "*"}):
        with pytest.raises(RuntimeError) as caught:
            await mode.invoke(agent, GO, world.config)
        log.error("the run failed", exc_info=caught.value)  # by whoever ran the agent
    error: Any = caught.value
    sinks = world.sinks() | {
        "langsmith": langsmith(),
        "exception": spelled(error),
        "drawn by rich": drawn(error),
        "attributes": repr([vars(error), error.__notes__, error.args]),
        "chain": spelled(error.__cause__) + spelled(error.__context__) + spelled(error.__cause__.__cause__),
        "checkpoint": spelled([saver.storage, saver.blobs, saver.writes]),
    }
    assert_no_secret(sinks, world.secrets())
    saw = {name for name, text in sinks.items() if CANARY in text}
    assert saw >= sinks.keys() - NEVER_GIVEN - {"store.db-wal", "store.db-shm", "seen"}
    assert not saw & NEVER_GIVEN


@pytest.mark.promise("no-secret-in-exceptions")
async def test_nothing_that_an_application_holds_shows_a_credential(
    world: World, mode: Mode, way: str
) -> None:
    with world.guard.task("echo", subject="alice", mandate={"tools": "*"}) as task:
        while_live: list[str] = []
        world.tools.append(classified(looking(world, while_live), path="write", resource="orders"))
        await mode.invoke(world.agent(way, ["value", "look"], InMemorySaver()), GO, world.config)
        lease, (permit, *judged) = world.captured
        minted = world.issuers[None, ToolPath.WRITE].minted
        wrapped = world.guard.wrap(classified(value_alone(), path="read"))
        objects = [world.guard, world.guard.enforcement, task, task.timeline(), world.guard.middleware()]
        objects += [lease, permit, permit.call, permit.grant, *judged, *minted, *(m.headers for m in minted)]
        objects += [*world.issuers.values(), *wrapped, wrapped[0].gate, *world.guard.callbacks()]
        objects += [agentguard.auth("orders"), list(objects)]
        texts = {f"{type(value).__name__} {n}": "\n".join(shown(value)) for n, value in enumerate(objects)}
    texts["while it was live"] = "\n".join(while_live)
    assert len(while_live) > 20
    assert_no_secret(texts, world.secrets())
    for secret in (lease, *minted, minted[0].headers):
        with pytest.raises(TypeError):
            pickle.dumps(secret)
        with pytest.raises(TypeError):
            copy.deepcopy(secret)


def looking(world: World, texts: list[str]) -> BaseTool:
    @tool
    def look() -> str:
        """Write out everything that can be inspected while the credential is live."""
        credential = world.issuers[None, ToolPath.WRITE].minted[-1]
        call = running_call.get()
        assert call is not None
        lease = agentguard.credential("orders")
        for value in (lease, call, call[0], credential, credential.headers):
            texts.extend(shown(value))
        return "seen"

    return look


def value_alone() -> BaseTool:
    @tool
    def alone() -> str:
        """Do nothing."""
        return ""

    return alone
