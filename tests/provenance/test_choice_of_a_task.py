"""A secret does not leave in small pieces: what the calls of a task say together is charged to the task."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any

import pytest
from langchain_core.tools import StructuredTool

from agentguard import Denied, Guard
from agentguard.catalog import Catalog
from agentguard.model import CHOICE_BITS, Sensitivity, ToolPath, ToolSpec
from agentguard.policies import CedarPolicy
from agentguard.ports import Store
from tests.conftest import Kit, Mode

RULES = """
@id("all") permit (principal, action, resource);
@id("no-leak") forbid (principal, action == Action::"post", resource)
when { context.provenance.args.word.sensitivity > context.clearance };
"""
SECRET = "sk-live-9f8e7d6c5b4a39281706f5e4d3c2b1a0ffee42"
WORDS = [f"w{number:03x}" for number in range(256)]
ANY: dict[str, Any] = {"subject": "alice", "mandate": {"tools": "*"}, "words": " ".join(WORDS)}
SPECS = [
    ToolSpec(name="secrets", path=ToolPath.READ, sensitivity=Sensitivity.RESTRICTED),
    ToolSpec(name="post", path=ToolPath.WRITE, clearance=Sensitivity.PUBLIC),
]
PER_CALL = 10  # bits: which of 256 words this is, that it is one of them, and which of two tools this is


@pytest.fixture
def sent() -> list[str]:
    return []


@pytest.fixture
def guard(store: Store) -> Guard:
    return Kit().another(catalog=Catalog(SPECS), policy=CedarPolicy.from_text(RULES), store=store, brokers={})


@pytest.fixture
def tools(guard: Guard, sent: list[str]) -> dict[str, Any]:
    def secrets() -> str:
        return SECRET

    def post(word: str) -> str:
        sent.append(word)
        return "posted"

    functions = (secrets, post)
    unguarded = [StructuredTool.from_function(function, description="d") for function in functions]
    return {one.name: one for one in guard.wrap(unguarded)}


@pytest.mark.promise("small-pieces-are-charged")
async def test_a_secret_that_leaves_byte_by_byte_is_cut_off_at_the_limit_and_the_operator_is_told(
    guard: Guard, tools: dict[str, Any], mode: Mode, sent: list[str]
) -> None:
    with guard.task("Post", **ANY, choice_bits=160) as task:
        for byte in SECRET.encode()[:20]:  # before anything was read, nothing is charged
            await mode.invoke(tools["post"], {"word": WORDS[byte]})
        await mode.invoke(tools["secrets"], {})
        sent.clear()
        with pytest.raises(Denied) as denied:  # noqa: PT012  one of these calls is the first that is denied
            for byte in SECRET.encode():
                await mode.invoke(tools["post"], {"word": WORDS[byte]})
    assert len(sent) == 16
    reason = "says 10 bits, and the task has used 160 of its 160 choice bits: so all of them count as"
    assert reason in denied.value.reason
    assert "choice bits" not in denied.value.advice
    assert any(
        reason in record.get("reason", "") for record in guard.enforcement.ports.audit.records(task.id)
    )


@pytest.mark.promise("small-pieces-are-charged")
async def test_a_family_has_one_limit_whatever_its_children_are_given(
    guard: Guard, tools: dict[str, Any], mode: Mode, sent: list[str]
) -> None:
    with guard.task("Post", **ANY, choice_bits=89) as task:
        await mode.invoke(tools["secrets"], {})
        for number in range(12):
            with (
                task.narrow("Go on") if number % 2 else guard.task("Go on", **ANY, choice_bits=10_000),
                pytest.raises(Denied) if number >= 8 else nullcontext(),
            ):
                await mode.invoke(tools["post"], {"word": WORDS[number]})
    assert len(sent) == 8


@pytest.mark.promise("small-pieces-are-charged")
async def test_the_own_limit_of_a_child_counts_from_its_beginning(
    guard: Guard, tools: dict[str, Any], mode: Mode, sent: list[str]
) -> None:
    with guard.task("Post", **ANY, choice_bits=640):
        await mode.invoke(tools["secrets"], {})
        await mode.invoke(tools["post"], {"word": WORDS[0]})
        with guard.task("Go on", **ANY, choice_bits=20):
            await mode.invoke(tools["post"], {"word": WORDS[1]})
            await mode.invoke(tools["post"], {"word": WORDS[2]})
            with pytest.raises(Denied) as denied:
                await mode.invoke(tools["post"], {"word": WORDS[3]})
            assert "has used 30 of its 30 choice bits" in denied.value.reason
    assert sent == WORDS[:3]


@pytest.mark.promise("small-pieces-are-charged")
def test_parallel_calls_do_not_overrun_the_limit(
    guard: Guard, tools: dict[str, Any], sent: list[str]
) -> None:
    with guard.task("Post", **ANY, choice_bits=105):
        tools["secrets"].invoke({})

        def attempt(number: int) -> str:
            try:
                return str(tools["post"].invoke({"word": WORDS[number]}))
            except Denied as denied:
                return denied.reason

        with ThreadPoolExecutor(8) as pool:
            contexts = [copy_context() for _ in range(40)]
            answers = list(pool.map(lambda n: contexts[n].run(attempt, n), range(40)))

        async def together() -> list[Any]:
            calls = (tools["post"].ainvoke({"word": word}) for word in WORDS[:10])
            return await asyncio.gather(*calls, return_exceptions=True)

        assert all(isinstance(error, Denied) for error in asyncio.run(together()))
    assert len(sent) == answers.count("posted") == 10
    assert all("105 choice bits" in answer for answer in answers if answer != "posted")


async def test_an_ordinary_task_is_not_charged_for_what_is_as_sensitive_anyway(
    guard: Guard, tools: dict[str, Any], store: Store, mode: Mode
) -> None:
    with guard.task("Post", **ANY) as task:
        await mode.invoke(tools["secrets"], {})
        with pytest.raises(Denied) as denied:
            await mode.invoke(tools["post"], {"word": SECRET})
        assert "bits" not in denied.value.reason
        await mode.invoke(tools["post"], {"word": WORDS[1]})
        state = store.task(task.id)
    assert state is not None
    assert (state.choice_bits, state.budget.choice_bits) == (PER_CALL, CHOICE_BITS)


@pytest.mark.promise("small-pieces-are-charged")
async def test_a_call_that_is_denied_or_says_too_much_by_itself_is_not_charged(
    guard: Guard, tools: dict[str, Any], store: Store, mode: Mode
) -> None:
    with guard.task("Post", subject="alice", mandate={"tools": "*"}, words=" ".join(WORDS[:2])) as task:
        await mode.invoke(tools["secrets"], {})
        await mode.invoke(tools["post"], {"word": WORDS[0]})
        for _ in range(3):
            with pytest.raises(Denied):
                await mode.invoke(tools["post"], {"word": WORDS[9]})
        state = store.task(task.id)
    assert state is not None
    assert state.choice_bits == 3
