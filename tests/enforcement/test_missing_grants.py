"""What an issuer misses of the user: the user is asked, the run waits, and the call is judged anew."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.types import Command, interrupt

from agentguard import AccessRequest, Credential, Denied, Grant, ToolPath
from agentguard.approvals import InterruptApprover
from agentguard.errors import ApprovalError, DenialCode, GrantMissing, StoreError
from agentguard.langchain.interrupts import interrupt as graph_interrupt
from agentguard.langchain.interrupts import is_resumed
from agentguard.model import Approval, ApprovalStatus
from agentguard.ports import BrokerTraits
from agentguard.stores import MemoryStore
from agentguard.testing import RecordingBroker, captured_spans
from tests.conftest import ASK, DENY, GO, PERMIT, Kit, Mode, classified, scripted, tool_call, tool_messages

PAGE = "https://login.example/consents"
CALL = tool_call("pay", to="ben", amount=5)
THREAD: Any = {"configurable": {"thread_id": "1"}}


@dataclass
class Shop:
    """An agent with one tool, whose issuer misses a consent until `give`. *by* is how its tool is guarded."""

    mode: Mode
    by: str
    kit: Kit = field(default_factory=Kit)
    calls: list[Any] = field(default_factory=lambda: [CALL])
    saver: Any = field(default_factory=InMemorySaver)
    asks_itself: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    paid: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.attempts = 0
        self.error: GrantMissing | None = missing()
        self.guard = self.kit.another(
            brokers={(None, path): _Counting(self) for path in ToolPath}, **self.changes
        )
        pay = self._tool()
        tools, layers = [pay], [self.guard.middleware()]
        if self.by == "wrap":
            tools, layers = list(self.guard.wrap([pay])), []
        self.agent: Any = create_agent(
            scripted(*self.calls), tools, middleware=layers, checkpointer=self.saver
        )
        self.task = self.guard.task("pay ben", subject="user:alice", mandate={"tools": "*"})

    def _tool(self) -> BaseTool:
        @tool
        def pay(to: str, amount: int) -> str:
            """Pay."""
            self.paid.append(interrupt("really?") if self.asks_itself else to)
            return f"paid {amount}"

        return classified(pay, path="write", resource="orders")

    def give(self) -> None:
        self.error = None

    async def go(self, message: Any = GO) -> Any:
        with self.task.active():
            return await self.mode.invoke(self.agent, message, THREAD if self.saver else None)

    async def asked(self, message: Any = GO) -> Any:
        (question,) = (await self.go(message))["__interrupt__"]
        return question

    async def resume(self, question: Any, value: Any = True) -> Any:
        return await self.go(Command(resume={question.id: value}))

    def records(self, event: str) -> list[Any]:
        return [r for r in self.kit.audit.records() if r["event"] == event]


class _Counting:
    """The kit's broker, which counts how often a credential was asked for."""

    inline, paths = True, frozenset(ToolPath)

    def __init__(self, shop: Shop) -> None:
        self._shop, self._broker = shop, shop.kit.broker
        self.revoke = self._broker.revoke

    def issue(self, grant: Grant) -> Credential:
        self._shop.attempts += 1
        if (error := self._shop.error) is not None:
            raise error
        return self._broker.issue(grant)


def missing(url: str | None = PAGE) -> GrantMissing:
    return GrantMissing(
        "https://login.example: answered 400 consent_required",
        code="consent_required",
        issuer="https://login.example",
        url=url,
    )


@pytest.fixture(params=["wrap", "middleware"])
def by(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shop(mode: Mode, by: str) -> Iterator[Shop]:
    shop = Shop(mode, by)
    yield shop
    shop.task.complete()


@pytest.mark.promise("missing-grant-asked")
async def test_the_user_is_asked_and_the_call_goes_on_when_they_have_given_it(shop: Shop) -> None:
    question = await shop.asked()
    assert question.value["type"] == "agentguard.grant"
    assert question.value["grant"] == {
        "code": "consent_required",
        "issuer": "https://login.example",
        "url": PAGE,
        "resource": "orders",
        "scopes": [],
    }
    assert question.value["arguments"] == {"to": "ben", "amount": 5}
    assert shop.paid == []
    assert shop.kit.broker.issued == []
    shop.give()
    result = await shop.resume(question)
    assert tool_messages(result)[0].content == "paid 5"
    assert shop.paid == ["ben"]
    assert shop.attempts == 2
    assert len(shop.kit.broker.issued) == 1
    assert shop.kit.broker.live == ()


@pytest.mark.promise("missing-grant-asked")
async def test_the_record_and_the_span_say_what_is_missing(mode: Mode, by: str) -> None:
    with captured_spans() as spans:
        shop = Shop(mode, by, changes={"tracer_provider": spans.tracer_provider})
        question = await shop.asked()
        shop.give()
        await shop.resume(question)
        first, last = (dict(span.attributes or {}) for span in spans.finished())
    waiting, done = shop.records("outcome")
    assert (waiting["outcome"], done["outcome"]) == ("suspended", "done")
    assert waiting["missing_grant"] == {
        "code": "consent_required",
        "issuer": "https://login.example",
        "url": PAGE,
        "question": question.value["approval_id"],
    }
    assert "missing_grant" not in done
    assert "suspended, consent required" in repr(shop.task.timeline())
    assert first["agentguard.grant.missing"] == "consent_required"
    assert first["agentguard.grant.question"] == question.value["approval_id"]
    assert first["agentguard.outcome"] == "suspended"
    assert not {name for name in last if "grant." in name}


@pytest.mark.promise("missing-grant-judged-anew")
async def test_a_resumed_call_is_judged_anew(shop: Shop) -> None:
    question = await shop.asked()
    shop.give()
    shop.kit.rule.answer = lambda _request: DENY
    result = await shop.resume(question)
    assert tool_messages(result)[0].status == "error"
    assert shop.kit.decisions()[-1] == DenialCode.POLICY
    assert (shop.paid, shop.attempts) == ([], 1)


@pytest.mark.promise("missing-grant-judged-anew")
async def test_a_task_that_ended_meanwhile_mints_nothing(shop: Shop) -> None:
    question = await shop.asked()
    shop.give()
    shop.task.revoke("because")
    await shop.resume(question)
    assert shop.kit.decisions()[-1] == DenialCode.TASK_ENDED
    assert (shop.paid, shop.attempts) == ([], 1)


@pytest.mark.promise("missing-grant-judged-anew")
async def test_a_value_to_resume_with_gives_nothing(shop: Shop) -> None:
    question = await shop.asked()
    value = {"approval_id": question.value["approval_id"], "answered": True, "url": "https://evil.example"}
    again = await shop.asked(Command(resume={question.id: value}))
    assert again.value["grant"]["url"] == PAGE
    assert again.value["approval_id"] != question.value["approval_id"]
    assert shop.paid == []
    assert shop.attempts == 2  # one for each run of the step


@pytest.mark.promise("missing-grant-asked")
async def test_the_user_is_asked_three_times_about_one_call(shop: Shop) -> None:
    question = await shop.asked()
    ids = {question.value["approval_id"]}
    for _ in range(2):
        question = await shop.asked(Command(resume={question.id: True}))
        ids.add(question.value["approval_id"])
    result = await shop.resume(question)
    (message,) = tool_messages(result)
    assert "was asked" in str(message.content)
    assert PAGE not in str(message.content)
    assert len(ids) == 3
    assert shop.kit.decisions()[-1] == DenialCode.GRANT_MISSING
    assert (shop.paid, shop.attempts) == ([], 4)


@pytest.mark.promise("missing-grant-asked")
async def test_questions_are_a_budget_of_the_task(shop: Shop) -> None:
    shop.task.complete()
    shop.task = shop.guard.task("pay ben", subject="user:alice", mandate={"tools": "*"}, questions=1)
    question = await shop.asked()
    await shop.resume(question)
    assert shop.kit.decisions()[-1] == DenialCode.BUDGET
    assert shop.paid == []


async def test_the_call_counts_once_however_often_it_waits(shop: Shop) -> None:
    shop.task.complete()
    shop.task = shop.guard.task("pay ben", subject="user:alice", mandate={"tools": "*"}, calls=1)
    question = await shop.asked()
    question = await shop.asked(Command(resume={question.id: True}))
    shop.give()
    await shop.resume(question)
    assert shop.paid == ["ben"]


@pytest.mark.promise("missing-grant-asked")
async def test_a_no_holds_for_the_task(mode: Mode, by: str) -> None:
    again = tool_call("pay", "c2", to="ben", amount=5)
    shop = Shop(mode, by, calls=[CALL, again])
    question = await shop.asked()
    shop.give()
    no = {"approved": False, "approver": "user:alice", "reason": "never"}
    value = await mode.call(shop.guard, "answer", question.value, **no)
    result = await shop.resume(question, value)
    assert [message.status for message in tool_messages(result)] == ["error", "error"]
    assert shop.kit.decisions()[-2:] == [DenialCode.APPROVAL_REFUSED] * 2
    assert (shop.paid, shop.attempts) == ([], 1)


@pytest.mark.promise("missing-grant-judged-anew")
async def test_a_yes_to_the_question_approves_no_call(shop: Shop) -> None:
    question = await shop.asked()
    yes = {"approved": True, "approver": "user:alice"}
    value = await shop.mode.call(shop.guard, "answer", question.value, **yes)
    shop.give()
    shop.kit.rule.answer = lambda request: PERMIT if request.approval else ASK
    again = await shop.asked(Command(resume={question.id: value}))
    assert again.value["type"] == "agentguard.approval"
    assert (shop.paid, shop.attempts) == ([], 1)


async def test_a_call_that_was_approved_is_not_asked_about_again(shop: Shop) -> None:
    shop.kit.rule.answer = lambda request: PERMIT if request.approval else ASK
    approval = await shop.asked()
    yes = {"approved": True, "approver": "user:carol"}
    value = await shop.mode.call(shop.guard, "answer", approval.value, **yes)
    question = await shop.asked(Command(resume={approval.id: value}))
    assert question.value["type"] == "agentguard.grant"
    shop.give()
    await shop.resume(question)
    assert shop.paid == ["ben"]
    assert shop.attempts == 2


async def test_an_interrupt_of_the_tool_gets_its_own_value(mode: Mode, by: str) -> None:
    shop = Shop(mode, by, asks_itself=True)
    question = await shop.asked()
    shop.give()
    own = await shop.asked(Command(resume={question.id: "for the guard"}))
    assert own.value == "really?"
    await shop.resume(own, "for the tool")
    assert shop.paid == ["for the tool"]


@pytest.mark.promise("missing-grant-denied")
@pytest.mark.parametrize("by_id", [True, False])
async def test_a_value_for_the_tools_own_interrupt_answers_no_question_that_nobody_has_seen(
    mode: Mode, by: str, by_id: bool
) -> None:
    """The consent ends while the tool waits for an answer of its own."""
    shop = Shop(mode, by, asks_itself=True)
    shop.give()
    own = await shop.asked()
    assert own.value == "really?"
    shop.error = missing()
    result = await shop.go(Command(resume={own.id: "yes"} if by_id else "yes"))
    assert "has not given the permission" in str(tool_messages(result)[0].content)
    denial = shop.records("decision")[-1]
    assert denial["code"] == DenialCode.GRANT_MISSING
    assert "resumed with a value for another question, so the user was not asked" in denial["reason"]
    assert "question" not in shop.records("outcome")[-1]["missing_grant"]
    state = shop.kit.store.task(shop.task.id)
    assert state is not None
    assert (state.questions, shop.paid) == (0, [])


@pytest.mark.promise("missing-grant-asked")
async def test_after_such_a_denial_the_next_call_asks_the_user(mode: Mode, by: str) -> None:
    shop = Shop(mode, by, asks_itself=True, calls=[CALL, tool_call("pay", "c2", to="ben", amount=5)])
    shop.give()
    own = await shop.asked()
    shop.error = missing()
    question = await shop.asked(Command(resume={own.id: "yes"}))
    assert question.value["type"] == "agentguard.grant"
    shop.give()
    own = await shop.asked(Command(resume={question.id: True}))
    assert own.value == "really?"
    await shop.resume(own, "for the tool")
    assert shop.paid == ["for the tool"]


@pytest.mark.promise("missing-grant-asked")
@pytest.mark.parametrize("times", [1, 2])
async def test_a_question_is_open_until_the_issuer_has_given_the_credential(
    mode: Mode, by: str, times: int
) -> None:
    shop = Shop(mode, by)
    question, ids = await shop.asked(), list[str]()
    for _ in range(times - 1):
        ids.append(question.value["approval_id"])
        question = await shop.asked(Command(resume={question.id: True}))
    ids.append(question.value["approval_id"])
    assert [_approval(shop, id_).status for id_ in ids] == [ApprovalStatus.PENDING] * times
    shop.give()
    await shop.resume(question)
    closed = [_approval(shop, id_) for id_ in ids]
    assert {(one.status, one.approver) for one in closed} == {
        (ApprovalStatus.APPROVED, "issuer:https://login.example")
    }
    with pytest.raises(ApprovalError, match="already approved"):
        await mode.call(shop.guard, "pending", ids[-1])
    assert shop.paid == ["ben"]


def _approval(shop: Shop, approval_id: str) -> Approval:
    approval = shop.kit.store.approval(approval_id)
    assert approval is not None
    return approval


async def test_a_store_that_cannot_note_the_end_of_a_question_ends_no_call(
    mode: Mode, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(mode, by, kit=Kit(store=_Forgetful()))
    question = await shop.asked()
    shop.give()
    await shop.resume(question)
    assert shop.paid == ["ben"]
    assert "the end of a question failed" in caplog.text


class _Forgetful(MemoryStore):
    """A store that notes no answer."""

    def answer_approval(self, answer: Approval) -> None:
        raise StoreError("no space left")


@pytest.mark.promise("missing-grant-url")
async def test_what_the_page_shows_comes_from_the_store(shop: Shop) -> None:
    question = await shop.asked()
    approval_id = question.value["approval_id"]
    assert await shop.mode.call(shop.guard, "pending", approval_id) == question.value
    edited = json.loads(json.dumps(question.value).replace(PAGE, "https://evil.example/"))
    with pytest.raises(ApprovalError, match="grant"):
        await shop.mode.call(shop.guard, "answer", edited, approved=True, approver="user:alice")


async def test_a_call_that_waits_is_asked_for_again_by_a_second_run_and_counts_no_second_question(
    shop: Shop,
) -> None:
    question = await shop.asked()
    again = await shop.asked(None)
    assert again.value == question.value
    state = shop.kit.store.task(shop.task.id)
    assert state is not None
    assert state.questions == 1


@pytest.mark.promise("missing-grant-denied")
async def test_without_a_checkpointer_the_denial_says_so(mode: Mode, by: str) -> None:
    shop = Shop(mode, by, saver=None)
    result = await shop.go()
    assert "has not given the permission" in str(tool_messages(result)[0].content)
    assert shop.kit.decisions()[-1] == DenialCode.GRANT_MISSING
    denial = shop.records("decision")[-1]
    assert "checkpointer" in denial["reason"]
    assert shop.records("outcome")[-1]["missing_grant"]["url"] == PAGE
    assert shop.kit.broker.issued == []


@pytest.mark.promise("missing-grant-denied")
async def test_an_approver_that_answers_at_once_is_not_asked_for_it(mode: Mode, by: str) -> None:
    asked = list[Any]()

    def approve(request: AccessRequest) -> bool:
        asked.append(request)
        return True

    shop = Shop(mode, by, changes={"approver": approve})
    await shop.go()
    assert shop.kit.decisions()[-1] == DenialCode.GRANT_MISSING
    assert asked == []
    assert "cannot ask" in shop.records("decision")[-1]["reason"]


@pytest.mark.promise("missing-grant-denied")
async def test_outside_a_graph_it_is_a_denial(kit: Kit, mode: Mode) -> None:
    kit.broker.issue_error = missing()

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    guarded = kit.wrap(look)
    task = kit.guard.task("look", subject="user:alice", mandate={"tools": "*"})
    with task, pytest.raises(Denied) as denial:
        await mode.invoke(guarded, {})
    assert denial.value.code is DenialCode.GRANT_MISSING
    assert PAGE not in str(denial.value)
    assert kit.outcomes() == ["failed"]


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example/",
        "javascript:alert(1)",
        "https://login.example/\nhttps://evil.example",
        f"https://login.example/{'a' * 3000}",
        "login.example",
        "https://login.example@evil.example/",
        "https://login.example:x@evil.example/consent",
        "https://login.example\\@evil.example/",
        "https://log\u0456n.example/",
        "https://a b.example/",
        None,
    ],
)
async def test_nobody_is_sent_to_what_is_no_https_page(shop: Shop, url: str | None) -> None:
    shop.error = missing(url)
    question = await shop.asked()
    assert "url" not in question.value["grant"]


async def test_a_credential_that_serves_a_task_is_asked_for_too(mode: Mode, by: str) -> None:
    shop = Shop(mode, by, calls=[CALL, tool_call("pay", "c2", to="ben", amount=5)])
    reusing = RecordingBroker()
    reusing.issue_error = missing()
    reusing.traits = BrokerTraits(reuse=frozenset(ToolPath))  # type: ignore[attr-defined]  # a broker may say so
    guard = shop.kit.another(brokers={(None, path): reusing for path in ToolPath})
    agent: Any = create_agent(
        scripted(*shop.calls), list(guard.wrap([shop._tool()])), checkpointer=InMemorySaver()
    )
    with guard.task("pay", subject="user:alice", mandate={"tools": "*"}):
        (question,) = (await mode.invoke(agent, GO, THREAD))["__interrupt__"]
        reusing.issue_error = None
        await mode.invoke(agent, Command(resume={question.id: True}), THREAD)
    assert shop.paid == ["ben", "ben"]
    assert len(reusing.issued) == 1


async def test_two_calls_of_one_step_are_asked_about_and_resumed_by_themselves(mode: Mode, by: str) -> None:
    other = tool_call("pay", "c2", to="eve", amount=7)
    shop = Shop(mode, by, calls=[[CALL, other]])
    first, second = (await shop.go())["__interrupt__"]
    assert first.value["approval_id"] != second.value["approval_id"]
    shop.give()
    await shop.go(Command(resume={first.id: True, second.id: True}))
    assert sorted(shop.paid) == ["ben", "eve"]


async def test_a_call_whose_arguments_are_made_anew_is_denied_before_anybody_is_asked(
    kit: Kit, mode: Mode
) -> None:
    from uuid import uuid4

    from pydantic import BaseModel, Field

    class Order(BaseModel):
        key: str = Field(default_factory=lambda: uuid4().hex)

    @tool(args_schema=Order)
    def order(key: str) -> str:
        """Order."""
        return key

    kit.broker.issue_error = missing()
    agent: Any = create_agent(scripted(tool_call("order")), [kit.wrap(order)], checkpointer=InMemorySaver())
    with kit.guard.task("order", subject="user:alice", mandate={"tools": "*"}):
        result = await mode.invoke(agent, GO, THREAD)
    assert "__interrupt__" not in result
    assert kit.decisions()[-1] == DenialCode.GRANT_MISSING


class Token:
    """Stands for the user's token, which a broker has in its frame."""


async def test_what_suspends_the_run_leads_to_no_frame_that_holds_a_token(kit: Kit, mode: Mode) -> None:
    raised, tokens = list[BaseException](), list[weakref.ref[Token]]()

    class Approving:
        inline = asks_for_grants = True

        def approve(self, pending: Approval, request: AccessRequest) -> Approval:
            raised.append(GraphInterrupt())
            raise raised[0]

    class Refusing(RecordingBroker):
        def issue(self, grant: Grant) -> Credential:
            token = Token()
            tokens.append(weakref.ref(token))
            raise missing()

    broker = Refusing()
    guard = kit.another(approver=Approving(), brokers={(None, path): broker for path in ToolPath})

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    tools = guard.wrap([classified(look)])
    agent: Any = create_agent(scripted(tool_call("look")), tools, checkpointer=InMemorySaver())
    with guard.task("look", subject="user:alice", mandate={"tools": "*"}):
        await mode.invoke(agent, GO, THREAD)
    gc.collect()
    assert len(raised) == 1
    assert [token() for token in tokens] == [None]
    assert kit.outcomes() == ["suspended"]


async def test_an_approver_of_the_application_that_interrupts_asks_too(mode: Mode, by: str) -> None:
    shop = Shop(mode, by, changes={"approver": InterruptApprover(interrupt)}, asks_itself=True)
    question = await shop.asked()
    shop.give()
    own = await shop.asked(Command(resume={question.id: True}))
    await shop.resume(own, "for the tool")
    assert shop.paid == ["for the tool"]


class Notifying(InterruptApprover):
    """Tells a chat of each question; the chat is down when the run goes on."""

    is_down = False

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        if self.is_down:
            raise ConnectionError("chat.example is down")
        return super().approve(pending, request)


@pytest.mark.promise("never-unrecorded")
async def test_an_approver_that_fails_when_the_run_goes_on_denies_the_call(mode: Mode, by: str) -> None:
    approver = Notifying(graph_interrupt, is_resumed=is_resumed)
    shop = Shop(mode, by, changes={"approver": approver})
    question = await shop.asked()
    shop.give()
    approver.is_down = True
    result = await shop.resume(question)
    assert tool_messages(result)[0].status == "error"
    assert shop.kit.decisions()[-1] == "grant_missing"
    assert shop.paid == []
