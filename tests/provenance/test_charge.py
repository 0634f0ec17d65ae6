"""A task is charged for what a lower sensitivity permits; without room a call is judged as one without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property
from threading import Barrier
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from agentguard import AccessRequest, Decision, Denied, Effect, Guard, Obligation, Policy
from agentguard.catalog import Catalog
from agentguard.model import ApprovalStatus, Sensitivity, ToolPath, ToolSpec
from agentguard.policies import CedarPolicy
from agentguard.ports import Store
from tests.approvals.bank import THREAD
from tests.conftest import GO, Kit, Mode, scripted, tool_call, tool_messages
from tests.provenance.test_choice_of_a_task import ANY, SECRET, WORDS

PERMIT = '@id("all") permit (principal, action, resource);'
CLEAR = "when { context.provenance.args.word.sensitivity > context.clearance }"
FORBID = f'@id("no-leak") forbid (principal, action == Action::"post", resource) {CLEAR};'
ASK = FORBID.replace(";", " unless { context has approval };")
ASK_ALL = (
    """@id("ask") forbid (principal, action == Action::"post", resource) unless { context has approval };"""
)
BITS = 10  # which of 256 words, that it is a word, and which of two tools
PROMISE = pytest.mark.promise("small-pieces-are-charged")
BY = pytest.mark.parametrize("by", ["wrap", "middleware"])


class Office:
    """A guard with a tool that reads a secret and one that posts a word; `sent` are the words."""

    def __init__(
        self,
        store: Store,
        rules: str | Policy,
        clearance: Sensitivity = Sensitivity.PUBLIC,
        **options: Any,
    ) -> None:
        post = ToolSpec(name="post", path=ToolPath.WRITE, clearance=clearance)
        secrets = ToolSpec(name="secrets", path=ToolPath.READ, sensitivity=Sensitivity.RESTRICTED)
        policy = CedarPolicy.from_text("\n".join((PERMIT, rules))) if isinstance(rules, str) else rules
        self.store, self.sent = store, list[str]()
        self.before: Callable[[], object] = lambda: None
        self.guard: Guard = Kit().another(
            catalog=Catalog([secrets, post]), policy=policy, store=store, brokers={}, **options
        )

        def read() -> str:
            return SECRET

        def send(word: str) -> str:
            self.before()
            self.sent.append(word)
            return "posted"

        named: dict[str, Callable[..., str]] = {"secrets": read, "post": send}
        self.plain = [
            StructuredTool.from_function(function, name=name, description="d")
            for name, function in named.items()
        ]

    @cached_property
    def tools(self) -> list[Any]:
        """The tools that ask the guard by themselves."""
        return list(self.guard.wrap(self.plain))

    def leaves_nothing(self) -> bool:
        """Return whether the guard holds no call that it has not ended."""
        calls = self.guard.enforcement.calls
        return not calls.running and not calls.in_progress

    def bits(self, task: Any) -> int:
        state = self.store.task(task.id)
        assert state is not None
        return state.choice_bits

    def agent(self, by: str, *calls: Any) -> Any:
        """Make an agent that makes these calls, one by one."""
        tools = self.tools if by == "wrap" else self.plain
        middleware = [] if by == "wrap" else [self.guard.middleware()]
        return create_agent(scripted(*calls), tools, middleware=middleware, checkpointer=InMemorySaver())


def calls(*words: str) -> list[Any]:
    posts = [tool_call("post", f"p{number}", word=word) for number, word in enumerate(words)]
    return [tool_call("secrets", "s"), *posts]


# --- a resumed call


@PROMISE
@BY
async def test_a_resumed_call_for_which_there_was_just_room_goes_on(
    store: Store, mode: Mode, by: str
) -> None:
    office = Office(store, FORBID)
    office.before = lambda: interrupt("sure?")
    agent = office.agent(by, *calls(WORDS[1], WORDS[2]))
    with office.guard.task("Post", **ANY, choice_bits=BITS) as task:
        await mode.invoke(agent, GO, THREAD)
        assert office.bits(task) == BITS
        office.before = lambda: None
        result = await mode.invoke(agent, Command(resume="yes"), THREAD)
        assert office.bits(task) == BITS
    assert office.sent == WORDS[1:2]
    assert [message.status for message in tool_messages(result)] == ["success", "success", "error"]


@PROMISE
@BY
async def test_an_approved_call_that_was_resumed_counts_its_charge_once(
    store: Store, mode: Mode, by: str
) -> None:
    office = Office(store, FORBID + ASK_ALL)
    agent = office.agent(by, *calls(WORDS[1]))
    office.before = lambda: interrupt("sure?")
    with office.guard.task("Post", **ANY, choice_bits=BITS) as task:
        (asked,) = (await mode.invoke(agent, GO, THREAD))["__interrupt__"]
        answer = await mode.call(office.guard, "answer", asked.value, approved=True, approver="user:carol")
        (waits,) = (await mode.invoke(agent, Command(resume=answer), THREAD))["__interrupt__"]
        assert (waits.value, office.bits(task)) == ("sure?", BITS)
        office.before = lambda: None
        await mode.invoke(agent, Command(resume="yes"), THREAD)
        assert office.bits(task) == BITS
    assert office.sent == WORDS[1:2]


@BY
async def test_nobody_is_asked_about_a_call_for_which_there_is_no_room(
    store: Store, mode: Mode, by: str
) -> None:
    office = Office(store, FORBID + ASK_ALL)
    agent = office.agent(by, *calls(WORDS[1]))
    with office.guard.task("Post", **ANY, choice_bits=BITS - 1) as task:
        result = await mode.invoke(agent, GO, THREAD)
        state = office.store.task(task.id)
        assert state is not None
        assert state.questions == 0
    assert "__interrupt__" not in result
    assert office.sent == []


# --- room that only the store knows of


@PROMISE
async def test_a_grandchilds_call_beyond_the_limit_of_its_parent_is_judged_without_a_charge(
    store: Store, mode: Mode
) -> None:
    office = Office(store, FORBID)
    with office.guard.task("Post", **ANY), office.guard.task("Go on", **ANY, choice_bits=BITS) as parent:
        await mode.invoke(office.tools[0], {})
        with office.guard.task("Further", **ANY) as child:
            await mode.invoke(office.tools[1], {"word": WORDS[1]})
            with pytest.raises(Denied) as denied:
                await mode.invoke(office.tools[1], {"word": WORDS[2]})
            assert f"{BITS} bits, and the task has used {BITS} of its {BITS} choice bits: so" in (
                denied.value.reason
            )
            assert denied.value.policy_ids == ("no-leak",)
            assert (office.bits(child), office.bits(parent)) == (BITS, BITS)
            assert office.leaves_nothing()
    assert office.sent == WORDS[1:2]


@PROMISE
async def test_a_grandchilds_call_beyond_the_limit_of_its_parent_is_asked_of_a_person_where_rules_say_so(
    store: Store, mode: Mode
) -> None:
    office = Office(store, ASK)
    agent = office.agent("wrap", *calls(WORDS[1], WORDS[2]))
    with office.guard.task("Post", **ANY), office.guard.task("Go on", **ANY, choice_bits=BITS) as parent:
        with office.guard.task("Further", **ANY):
            (asked,) = (await mode.invoke(agent, GO, THREAD))["__interrupt__"]
            assert (office.sent, asked.value["arguments"]) == (WORDS[1:2], {"word": WORDS[2]})
            answer = await mode.call(
                office.guard, "answer", asked.value, approved=True, approver="user:carol"
            )
            await mode.invoke(agent, Command(resume=answer), THREAD)
        assert office.bits(parent) == BITS
    assert office.sent == WORDS[1:3]


class Race:
    """A policy by which two calls wait for each other while both have room. It limits one without charge."""

    inline, version = False, "1"

    def __init__(self) -> None:
        self.both = Barrier(2)

    def decide(self, request: AccessRequest) -> Decision:
        if request.choice.bits:
            self.both.wait(10)
        values = request.provenance.values()
        if request.tool.name == "post" and any(value.sensitivity for value in values):
            return Decision(
                effect=Effect.PERMIT,
                obligations=(Obligation(kind="shorten_lifetime", parameters={"seconds": 5}),),
            )
        return Decision(effect=Effect.PERMIT)


@PROMISE
def test_of_parallel_calls_at_the_limit_the_loser_is_judged_without_a_charge(
    store: Store, mode: Mode
) -> None:
    office = Office(store, Race())
    with office.guard.task("Post", **ANY, choice_bits=BITS) as task:
        office.tools[0].invoke({})
        contexts = [copy_context() for _ in range(2)]

        def attempt(number: int) -> None:
            contexts[number].run(lambda: asyncio.run(mode.invoke(office.tools[1], {"word": WORDS[number]})))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(attempt, range(2)))
        assert office.bits(task) == BITS
        assert office.leaves_nothing()
    assert sorted(office.sent) == WORDS[:2]


class Asks:
    """A policy that asks a person about each post; *sensitive* is its answer on an approved sensitive one."""

    inline, version = True, "1"

    def __init__(self, sensitive: Decision) -> None:
        self.sensitive = sensitive

    def decide(self, request: AccessRequest) -> Decision:
        if request.tool.name != "post":
            return Decision(effect=Effect.PERMIT)
        if request.approval is None:
            return Decision(effect=Effect.PERMIT, obligations=(Obligation(kind="approve"),))
        is_sensitive = any(value.sensitivity for value in request.provenance.values())
        return self.sensitive if is_sensitive else Decision(effect=Effect.PERMIT)


@PROMISE
@pytest.mark.parametrize(
    ("sensitive", "code"),
    [
        (
            Decision(
                effect=Effect.PERMIT,
                obligations=(Obligation(kind="shorten_lifetime", parameters={"seconds": 5}),),
            ),
            "",
        ),
        (Decision(effect=Effect.DENY, reason="sensitive"), "policy"),
        (Decision(effect=Effect.PERMIT, obligations=(Obligation(kind="approve"),)), "obligation"),
    ],
)
async def test_an_approved_call_whose_room_another_took_is_judged_without_a_charge(
    store: Store, mode: Mode, sensitive: Decision, code: str
) -> None:
    office = Office(store, Asks(sensitive))
    agent, ids = office.agent("wrap", *calls(WORDS[1])), list[str]()
    other = office.agent("wrap", tool_call("post", "other", word=WORDS[2]))
    threads: list[Any] = [{"configurable": {"thread_id": str(number)}} for number in range(2)]
    with office.guard.task("Post", **ANY, choice_bits=BITS) as task:
        answers = list[Any]()
        for one, thread in zip((agent, other), threads, strict=True):
            (asked,) = (await mode.invoke(one, GO, thread))["__interrupt__"]
            ids.append(asked.value["approval_id"])
            answers.append(
                await mode.call(office.guard, "answer", asked.value, approved=True, approver="user:carol")
            )
        for one, answer, thread in zip((agent, other), answers, threads, strict=True):
            await mode.invoke(one, Command(resume=answer), thread)
        assert office.bits(task) == BITS
    first, second = (office.store.approval(id_) for id_ in ids)
    assert first is not None
    assert second is not None
    assert (first.status, second.status) == (
        ApprovalStatus.USED,
        ApprovalStatus.APPROVED if code else ApprovalStatus.USED,
    )
    assert office.sent == WORDS[1 : 2 if code else 3]
    records = office.guard.enforcement.ports.audit.records(task.id)
    assert [record["code"] for record in records if record.get("code")] == ([code] if code else [])
    assert office.leaves_nothing()


# --- what is charged


@PROMISE
@pytest.mark.parametrize(
    ("rules", "clearance", "bits"),
    [
        (FORBID, Sensitivity.PUBLIC, BITS),
        (FORBID, Sensitivity.CONFIDENTIAL, BITS),
        (FORBID, Sensitivity.RESTRICTED, 0),
        (FORBID.replace("context.clearance", "1"), Sensitivity.RESTRICTED, BITS),
        ("", Sensitivity.PUBLIC, 0),
        (ASK, Sensitivity.PUBLIC, BITS),
    ],
)
async def test_a_call_is_charged_where_rules_would_not_permit_it_just_so_with_sensitive_values(
    store: Store, mode: Mode, rules: str, clearance: Sensitivity, bits: int
) -> None:
    office = Office(store, rules, clearance)
    with office.guard.task("Post", **ANY) as task:
        await mode.invoke(office.tools[0], {})
        await mode.invoke(office.tools[1], {"word": WORDS[1]})
        assert office.bits(task) == bits
        assert office.guard.decide("post", {"word": WORDS[1]}, task=task).permitted
        assert office.bits(task) == bits


@PROMISE
async def test_an_approved_call_is_not_charged_where_rules_ask_a_person_whatever_is_in_it(
    store: Store, mode: Mode
) -> None:
    office = Office(store, ASK_ALL)
    agent = office.agent("wrap", *calls(WORDS[1]))
    with office.guard.task("Post", **ANY) as task:
        (asked,) = (await mode.invoke(agent, GO, THREAD))["__interrupt__"]
        answer = await mode.call(office.guard, "answer", asked.value, approved=True, approver="user:carol")
        await mode.invoke(agent, Command(resume=answer), THREAD)
        assert office.bits(task) == 0
    assert office.sent == WORDS[1:2]


@PROMISE
async def test_without_room_a_call_runs_that_needs_no_charge(store: Store, mode: Mode) -> None:
    office = Office(store, FORBID, Sensitivity.RESTRICTED)
    with office.guard.task("Post", **ANY, choice_bits=0) as task:
        await mode.invoke(office.tools[0], {})
        await mode.invoke(office.tools[1], {"word": WORDS[1]})
        assert office.bits(task) == 0
    assert office.sent == WORDS[1:2]


@PROMISE
@pytest.mark.parametrize(("tools", "more"), [("*", 1), (["secrets", "post"], 1), (["post"], 0)])
async def test_which_tool_of_those_of_the_mandate_is_called_is_charged(
    store: Store, mode: Mode, tools: Any, more: int
) -> None:
    office = Office(store, FORBID)
    with office.guard.task("Post", **ANY), office.guard.task("Read", **ANY | {"mandate": {"tools": "*"}}):
        await mode.invoke(office.tools[0], {})
        with office.guard.task("Go on", **ANY | {"mandate": {"tools": tools}}) as task:
            await mode.invoke(office.tools[1], {"word": WORDS[1]})
            assert office.bits(task) == BITS - 1 + more


async def test_a_call_in_observe_mode_that_is_denied_anyway_is_charged_nothing(
    store: Store, mode: Mode
) -> None:
    office = Office(store, FORBID, observe=True)
    with office.guard.task("Post", **ANY, choice_bits=BITS) as task:
        await mode.invoke(office.tools[0], {})
        await mode.invoke(office.tools[1], {"word": SECRET})
        await mode.invoke(office.tools[1], {"word": WORDS[1]})
        await mode.invoke(office.tools[1], {"word": WORDS[2]})
        assert office.bits(task) == BITS
    assert office.sent == [SECRET, *WORDS[1:3]]
