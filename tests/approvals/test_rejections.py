"""A no stays a no, and questions to persons are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import product
from typing import Annotated, Any
from unicodedata import category

import pytest
from langchain_core.tools import StructuredTool
from langgraph.types import Command
from pydantic import AfterValidator, BaseModel

from agentguard import AccessRequest, Guard
from agentguard.errors import ApprovalError, Denied
from agentguard.langchain.canonical import canonicalize
from agentguard.model import QUESTIONS, Arguments
from agentguard.stores import MemoryStore, SqliteStore
from tests.approvals.bank import Bank, asks_a_person, payment
from tests.conftest import GO, PERMIT, Kit, Mode, classified, tool_call, tool_messages

ALICE: dict[str, Any] = {"subject": "user:alice", "mandate": {"tools": "*"}}
BOTH = pytest.mark.parametrize("by", ["wrap", "middleware"])


class Carol:
    """Answers each question with what *answer* says, and remembers the questions."""

    def __init__(self, answer: Callable[[dict[str, Any]], bool] = lambda _arguments: False) -> None:
        self.asked = list[dict[str, Any]]()
        self._answer = answer

    def __call__(self, request: AccessRequest) -> bool:
        self.asked.append(request.arguments.values)
        return self._answer(request.arguments.values)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "agentguard.db")
    yield store
    getattr(store, "close", lambda: None)()


def desk(kit: Kit, carol: Any, paid: list[Any], **changes: Any) -> tuple[Guard, Any]:
    """Return a guard whose questions go to *carol*, and its one tool."""
    kit.rule.answer = asks_a_person
    guard = kit.another(approver=carol, **changes)
    return guard, guard.wrap([payment(paid)])[0]


async def pay(mode: Mode, tool: Any, call_id: str | None = "c1", **arguments: Any) -> Any:
    return await mode.invoke(tool, tool_call("pay", call_id, **({"to": "mallory", "amount": 5} | arguments)))


@pytest.mark.promise("a-no-stays-a-no")
async def test_a_rejected_call_is_not_asked_again_under_another_id(mode: Mode, kit: Kit, store: Any) -> None:
    carol = Carol(lambda _arguments: len(carol.asked) == 200)
    guard, tool = desk(kit, carol, paid := list[Any](), store=store)
    with guard.task("t", **ALICE):
        for n in range(200):
            message = await pay(mode, tool, f"c{n}")
            assert message.status == "error"
        with pytest.raises(Denied, match="did not approve"):
            await mode.invoke(tool, {"to": "mallory", "amount": 5})  # without any id
    assert len(carol.asked) == 1
    assert paid == []
    assert set(kit.decisions()) == {"approval_refused"}


@pytest.mark.promise("a-no-stays-a-no")
@BOTH
async def test_a_rejection_by_interrupt_holds_in_a_later_turn(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    call = tool_call("pay", "c1", to="mallory", amount=5)
    bank = Bank(kit, mode, by, call, {**call, "id": "c2"}, call)
    await bank.answer(await bank.asked(GO), approved=False)
    for _ in range(2):
        state = await bank.go(GO)
        assert "__interrupt__" not in state
        assert "did not approve" in tool_messages(state)[-1].text
    assert bank.paid == []
    assert kit.decisions() == ["approval_refused"] * 3


@pytest.mark.promise("a-no-stays-a-no")
async def test_a_rejection_holds_in_another_thread_and_another_guard(
    mode: Mode, kit: Kit, store: Any
) -> None:
    call = tool_call("pay", "c1", to="mallory", amount=5)
    first, second = kit.another(store=store), kit.another(store=store)
    with first.task("t", **ALICE) as task:
        bank = Bank(kit, mode, "wrap", call, guard=first)
        await bank.answer(await bank.asked(GO), approved=False)
        with second.find(task.id).active():
            state = await Bank(kit, mode, "middleware", call, guard=second).go(GO)
            assert "__interrupt__" not in state
            assert not second.decide("pay", {"to": "mallory", "amount": 5}).permitted
            assert second.decide("pay", {"to": "bob", "amount": 5}).permitted


@pytest.mark.promise("a-no-stays-a-no")
@pytest.mark.parametrize("direction", ["child of", "parent of", "sibling of"])
async def test_a_rejection_holds_in_the_whole_family(
    direction: str, mode: Mode, kit: Kit, store: Any
) -> None:
    carol = Carol()
    guard, tool = desk(kit, carol, paid := list[Any](), store=store)
    with guard.task("t", **ALICE) as parent:
        rejected, again = parent.narrow().begin(), parent.narrow().begin()
        if direction == "child of":
            rejected = parent
        elif direction == "parent of":
            again = parent
        for task in (rejected, again):
            with task.active():
                await pay(mode, tool, f"in {task.id}")
    assert len(carol.asked) == 1
    assert paid == []


@pytest.mark.promise("a-no-stays-a-no")
async def test_control_another_task_is_another_question(mode: Mode, kit: Kit, store: Any) -> None:
    carol = Carol()
    guard, tool = desk(kit, carol, [], store=store)
    for _ in range(2):
        with guard.task("t", **ALICE):
            await pay(mode, tool)
    assert len(carol.asked) == 2


@pytest.mark.promise("a-no-stays-a-no")
async def test_a_rejection_holds_for_another_spelling_and_not_for_another_call(mode: Mode, kit: Kit) -> None:
    carol = Carol()
    kit.rule.answer = asks_a_person
    guard = kit.another(approver=carol)

    def act(to: Annotated[str, AfterValidator(str.strip)], what: dict[str, int]) -> str:
        """Act."""
        return "done"

    spelled = guard.wrap([classified(StructuredTool.from_function(act), path="write")])[0]

    with guard.task("t", **ALICE):
        for n, (to, what) in enumerate(
            [("bob", {"a": 1, "b": 2}), (" bob", {"a": 1, "b": 2}), ("bob", {"b": 2, "a": 1})]
        ):
            await mode.invoke(spelled, tool_call("act", f"c{n}", to=to, what=what))
        assert len(carol.asked) == 1
        await mode.invoke(spelled, tool_call("act", "c9", to="bob", what={"a": 2, "b": 1}))
        assert len(carol.asked) == 2


UNSEEN = (
    "\ufe0f\u034f\u115f\u3164\u17b4\u180b\U000e0100\u200d\ufeff\u00ad\uffa0\u2060"
    "\u0000\u0007\u007f\u0085\U000e0041\U0001d173"
)
SPELLINGS: list[tuple[Any, Any]] = [
    ("caf\u00e9", "cafe\u0301"),
    ("bob", "bo\u200bb"),
    ("bob", "\u202ebob\u202c"),
    ({"\u00e9": [1]}, {"e\u0301": [1]}),
    ([1, 2], [1.0, 2]),
    ({"a": [5]}, {"a": [5.0]}),
    ([[5, "caf\u00e9"]], [[5.0, "cafe\u0301"]]),
    *(("mallory", f"mal{letter}lory") for letter in UNSEEN[:4]),
    ("caf\u00e9", "cafe\u034f\u0301"),
    ("a b", "a\u00a0b"),
    ("a b", "a\u3000b "),
    ("bob", "\tbob\r\n"),
    ({"to": "bob"}, {"t\ufe0fo": "bob"}),
    ({"a": ["bob"]}, {"a": ["bob\u3164"]}),
    ("all to\nmallory", "all to \r\nmallory"),
    ("all\n\nto\nmallory", "all\n \n\u200bto\u00a0\u200b\nmallory"),
    (["a:\n  b"], ["a:\t\u200b\u2028  b\u2029"]),
    ("e" + "\u0301" * 40, "\u00e9" + "\u0301" * 50),
]


@pytest.mark.promise("a-no-stays-a-no")
@pytest.mark.parametrize(("value", "spelling"), SPELLINGS)
async def test_a_rejection_holds_for_what_looks_the_same_and_an_approval_does_not(
    value: Any, spelling: Any, mode: Mode, kit: Kit
) -> None:
    carol = Carol()
    kit.rule.answer = asks_a_person
    guard = kit.another(approver=carol)

    def act(what: Any) -> str:
        """Act."""
        return "done"

    guarded = guard.wrap([classified(StructuredTool.from_function(act), path="write")])[0]
    with guard.task("t", **ALICE):
        for n, what in enumerate([value, spelling, value]):
            await mode.invoke(guarded, tool_call("act", f"c{n}", what=what))
        assert len(carol.asked) == 1
        await mode.invoke(guarded, tool_call("act", "c9", what="another"))
    one, other = (canonicalize({"what": what}) for what in (value, spelling))
    assert one.digest != other.digest


def test_all_characters_of_unicode_that_nobody_sees_are_passed_over() -> None:
    bob = Arguments.of({"to": "bob"}).shown_digest
    unseen = [chr(code) for code in range(0x110000) if category(chr(code)) in ("Cf", "Cc", "Zs")]
    for letter in [*unseen, *UNSEEN]:
        shown = Arguments.of({"to": f"bob{letter}"}).shown_digest
        assert shown == bob, ascii(letter)
    for letter in "\n-_.\u0301\u0430\U0001f600":
        assert Arguments.of({"to": f"b{letter}ob"}).shown_digest != bob, ascii(letter)
    assert Arguments.of({"to": "b ob"}).shown_digest != bob


def test_the_ends_of_lines_are_one_and_what_a_person_sees_of_lines_counts() -> None:
    lines = Arguments.of({"text": "pay\n bob"}).shown_digest
    for end in ("\n", "\r", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029"):
        for blank in ("", " ", "\t", "\u3000 ", "\u200b", "\u00a0\ufeff"):
            assert Arguments.of({"text": f"pay{blank}{end} bob"}).shown_digest == lines, ascii(blank + end)
    for text in ("pay bob", "pay\nbob", "pay\n\n bob", "pay\n\r bob", "pay\n   bob", "paybob"):
        assert Arguments.of({"text": text}).shown_digest != lines, ascii(text)


@pytest.mark.promise("judged-in-bounded-time")
def test_names_that_look_the_same_do_not_nest() -> None:
    pairs = list(product("\u200b\u200c", repeat=11))
    names = {"".join(("to", *pair)): 1 for pair in pairs}
    assert (
        Arguments.of({"to": names}).shown_digest
        == Arguments.of({"to": {"to": [1] * len(pairs)}}).shown_digest
    )


class Options(BaseModel):
    """Options of an act, each with a default."""

    fast: bool = False
    note: str = ""
    many: int = 1


@pytest.mark.promise("a-no-stays-a-no")
async def test_a_rejection_holds_when_defaults_are_written_out(mode: Mode, kit: Kit) -> None:
    carol = Carol()
    kit.rule.answer = asks_a_person
    guard = kit.another(approver=carol)

    def act(options: Options, to: str = "bob") -> str:
        """Act."""
        return "done"

    guarded = guard.wrap([classified(StructuredTool.from_function(act), path="write")])[0]
    options: list[dict[str, Any]] = [
        {},
        {"fast": False},
        {"note": ""},
        {"many": 1, "note": ""},
        {"fast": False, "many": 1},
    ]
    with guard.task("t", **ALICE):
        for n, arguments in enumerate([{"options": o} for o in options] + [{"options": {}, "to": "bob"}]):
            await mode.invoke(guarded, tool_call("act", f"c{n}", **arguments))
        assert len(carol.asked) == 1
        await mode.invoke(guarded, tool_call("act", "c9", options={"many": 2}))
        assert len(carol.asked) == 2


@pytest.mark.promise("a-no-stays-a-no")
def test_a_rejection_of_one_class_is_none_of_another() -> None:
    """The order of keys is no difference to a person, and the class of a value is one."""
    values = {"item": {"b": 1, "a": 2}}
    draft = Arguments.of(values, ("item: class Draft", 'item: order ["b", "a"]'), "raw")
    assert draft.shown_digest == Arguments.of(values, ("item: class Draft",)).shown_digest
    assert draft.shown_digest != Arguments.of(values, ("item: class Publish",)).shown_digest
    assert draft.shown_digest != Arguments.of({"item": {"b": 2, "a": 1}}, ("item: class Draft",)).shown_digest


@pytest.mark.promise("a-no-stays-a-no")
async def test_a_rejection_holds_when_the_rules_would_now_permit(mode: Mode, kit: Kit) -> None:
    guard, tool = desk(kit, Carol(), paid := list[Any]())
    with guard.task("t", **ALICE) as task:
        await pay(mode, tool, "c1")
        kit.rule.answer = lambda _request: PERMIT
        await pay(mode, tool, "c2")
        with task.narrow().active():
            await pay(mode, tool, "c4")
        assert paid == []
        await pay(mode, tool, "c3", to="bob")
    assert paid == [("bob", 5)]


@pytest.mark.promise("a-no-stays-a-no")
@BOTH
async def test_of_equal_calls_that_wait_the_first_no_ends_all_that_nobody_has_approved(
    by: str, mode: Mode, kit: Kit, task: Any
) -> None:
    calls = [tool_call("pay", f"c{n}", to="mallory", amount=5) for n in range(3)]
    bank = Bank(kit, mode, by, calls)
    first, second, third = (await bank.go(GO))["__interrupt__"]
    yes = await mode.call(bank.guard, "answer", first.value, approved=True, approver="user:carol")
    await mode.call(bank.guard, "answer", second.value, approved=False, approver="user:carol")
    with pytest.raises(ApprovalError, match="rejected by user:carol"):
        await mode.call(bank.guard, "answer", third.value, approved=True, approver="user:carol")
    state = await bank.go(Command(resume={i.id: yes for i in (first, second, third)}))
    assert bank.paid == [("mallory", 5)]
    assert "__interrupt__" not in state
    assert sorted(kit.decisions()) == ["approval_refused", "approval_refused", "permit"]


@pytest.mark.promise("a-no-stays-a-no")
async def test_a_no_that_comes_late_is_a_no_and_a_yes_that_comes_late_is_none(mode: Mode, kit: Kit) -> None:
    now = [1000.0]
    store = MemoryStore(clock=lambda: now[0])

    def carol(request: AccessRequest) -> bool:
        asked.append(request.arguments.values["to"])
        now[0] += 60.0
        return bool(request.arguments.values["to"] == "bob")

    asked, paid = list[str](), list[Any]()
    guard, tool = desk(kit, carol, paid, store=store, clock=lambda: now[0], approval_lifetime=60.0)
    with guard.task("t", **ALICE):
        for n in range(2):
            await pay(mode, tool, f"a{n}", to="bob")
            await pay(mode, tool, f"b{n}", to="mallory")
    assert asked == ["bob", "mallory", "bob"]
    assert paid == []


# --- questions are counted


@pytest.mark.promise("questions-are-counted")
async def test_a_task_asks_as_often_as_its_budget_says_and_by_default_twenty_times(
    mode: Mode, kit: Kit, store: Any
) -> None:
    carol = Carol(lambda _arguments: True)
    guard, tool = desk(kit, carol, paid := list[Any](), store=store)
    for limit, questions in ((QUESTIONS, None), (3, 3), (0, 0)):
        carol.asked.clear()
        with guard.task("t", **ALICE, questions=questions) as task:
            for n in range(limit + 5):
                message = await pay(mode, tool, f"c{n}", amount=n)
            assert message.status == "error"
            assert "budget" in message.text
            assert task.state().questions == limit
        assert len(carol.asked) == limit
    assert len(paid) == QUESTIONS + 3
    refused = [r for r in kit.audit.records() if r.get("code") == "budget"]
    assert len(refused) == 15
    assert all("questions" in r["reason"] for r in refused)


@pytest.mark.promise("questions-are-counted")
async def test_a_family_shares_its_questions(mode: Mode, kit: Kit, store: Any) -> None:
    carol = Carol(lambda _arguments: True)
    guard, tool = desk(kit, carol, [], store=store)
    with guard.task("t", **ALICE, questions=3) as parent:
        for n in range(5):
            with parent.narrow().active():
                await pay(mode, tool, f"c{n}", amount=n)
        await pay(mode, tool, "c9", amount=9)
    assert len(carol.asked) == 3
    assert kit.decisions() == ["permit"] * 3 + ["budget"] * 3


@pytest.mark.promise("questions-are-counted")
async def test_a_step_that_runs_again_is_counted_once(mode: Mode, kit: Kit, task: Any) -> None:
    bank = Bank(kit, mode, "middleware", tool_call("pay", "c1", to="bob", amount=5))
    question = await bank.asked(GO)
    for _ in range(3):
        assert await bank.asked(None) == question
    assert task.state().questions == 1
    await bank.answer(question, approved=True)
    assert (task.state().questions, bank.paid) == (1, [("bob", 5)])


@pytest.mark.promise("questions-are-counted")
async def test_rules_see_how_many_questions_the_family_has_asked(mode: Mode, kit: Kit) -> None:
    guard, tool = desk(kit, Carol(lambda _arguments: True), [])
    with guard.task("t", **ALICE) as parent:
        for n in range(3):
            with parent.narrow().active():
                await pay(mode, tool, f"c{n}", amount=n)
    counts = [request.task.questions for request in kit.rule.asked if request.approval is None]
    assert counts == [0, 1, 2]


@pytest.mark.promise("questions-are-counted")
async def test_of_many_parallel_questions_no_more_are_asked_than_the_budget_says(
    kit: Kit, store: Any
) -> None:
    carol = Carol(lambda _arguments: True)
    guard, tool = desk(kit, carol, paid := list[Any](), store=store)
    async with guard.task("t", **ALICE, questions=4):
        await asyncio.gather(*(pay(Mode("async"), tool, f"c{n}", amount=n) for n in range(12)))
    assert len(carol.asked) == len(paid) == 4


@pytest.mark.promise("questions-are-counted")
async def test_a_template_may_give_a_limit_of_questions(tmp_path: Any) -> None:
    file = tmp_path / "agentguard.toml"
    file.write_text(
        '[tools.pay]\npath = "write"\n[tasks.bill]\ntools = ["pay"]\nquestions = 50\n'
        '[policy]\ncedar = ["policy.cedar"]\n'
    )
    (tmp_path / "policy.cedar").write_text('@id("all") permit (principal, action, resource);')
    guard = Guard.from_file(file)
    assert "questions: 50" in str(guard.mandate("bill"))
    for questions, limit in ((None, 50), (7, 7), (70, 50)):
        with guard.task(
            "t", subject="user:alice", mandate=guard.mandate("bill"), questions=questions
        ) as task:
            assert task.state().budget.questions == limit
    guard.close()
