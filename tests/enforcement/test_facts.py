"""Facts in the flow of a call: when they are asked, and that nothing but a good record lets a call run."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.tools import BaseTool, tool

from agentguard import AccessRequest, Decision, Effect, Guard
from agentguard.catalog import Catalog
from agentguard.enforcement.fact_cache import FactCache
from agentguard.errors import ConfigurationError, DenialCode, Denied
from agentguard.facts import SqlFact, fact_of
from agentguard.model import FactSpec, FactType, Identity, ToolPath, ToolSpec
from agentguard.testing import sample_request
from tests.conftest import ASK, PERMIT, Kit, Mode, classified

SECRET = "hunter2-4711"
DENY = Decision(effect=Effect.DENY, reason="not pending")


@dataclass
class Order:
    status: str
    total: Decimal = Decimal("10.10")
    weight: float = 1.5


@tool
def refund_order(order_id: str, amount: float = 1.0) -> str:
    """Refund an order."""
    return f"refunded {order_id}"


def pending(request: AccessRequest) -> Decision:
    """Permit what is about a pending order."""
    return PERMIT if request.facts["order"]["status"] == "pending" else DENY


def order_of(order_id: str) -> Order:
    return Order("pending" if order_id == "4711" else "shipped")


def refunding(kit: Kit, guard: Guard | None = None) -> BaseTool:
    refund: BaseTool = refund_order.model_copy()
    return (guard or kit.guard).wrap(classified(refund, path="write"))[0]


def declare(guard: Guard, function: Callable[..., Any], **options: Any) -> None:
    guard.fact(**{"tools": ["refund_order"], "key": "order_id", "name": "order", **options})(function)


def working(kit: Kit, subject: str = "alice", guard: Guard | None = None, **mandate: Any) -> Any:
    return (guard or kit.guard).task("test", subject=subject, mandate={"tools": "*", **mandate})


async def denial(mode: Mode, refund: BaseTool, order_id: str = "4711") -> Denied:
    with pytest.raises(Denied) as caught:
        await mode.invoke(refund, {"order_id": order_id})
    return caught.value


def decisions(kit: Kit) -> list[Any]:
    return [record for record in kit.audit.records() if record["event"] == "decision"]


# --- asking


async def test_a_rule_sees_the_record_that_the_call_is_about(kit: Kit, mode: Mode) -> None:
    kit.rule.answer = pending
    declare(kit.guard, order_of)
    refund = refunding(kit)
    with working(kit):
        assert await mode.invoke(refund, {"order_id": "4711"}) == "refunded 4711"
        denied = await denial(mode, refund, "4712")
    assert (denied.code, denied.reason) == (DenialCode.POLICY, "not pending")
    assert kit.rule.asked[0].facts["order"] == {"status": "pending", "total": "10.10", "weight": 1.5}


@pytest.mark.parametrize("form", ["async", "of the request", "inline"])
async def test_the_function_of_a_fact_has_several_forms(kit: Kit, mode: Mode, form: str) -> None:
    async def later(order_id: str) -> Order:
        await asyncio.sleep(0)
        return order_of(order_id)

    def of_request(request: AccessRequest, order_id: str) -> Order:
        assert request.identity.subject == "alice"
        return order_of(order_id)

    kit.rule.answer = pending
    functions: dict[str, Any] = {"async": later, "of the request": of_request, "inline": order_of}
    function = functions[form]
    declare(kit.guard, function, inline=form == "inline")
    refund = refunding(kit)
    with working(kit):
        assert await mode.invoke(refund, {"order_id": "4711"}) == "refunded 4711"


async def test_a_fact_that_is_declared_after_its_tool_was_wrapped_holds_all_the_same(
    kit: Kit, mode: Mode
) -> None:
    kit.rule.answer = pending
    refund = refunding(kit)
    declare(kit.guard, order_of)
    with working(kit):
        assert await mode.invoke(refund, {"order_id": "4711"}) == "refunded 4711"


@pytest.mark.promise("facts-are-asked-once-and-only-where-needed")
async def test_a_record_is_read_once_a_decision_and_only_where_the_policy_looks_at_it(
    kit: Kit, mode: Mode
) -> None:
    reads: list[str] = []

    def remembering(order_id: str) -> Order:
        reads.append(order_id)
        return order_of(order_id)

    class Choosy(type(kit.rule)):  # type: ignore[misc]  # a class of the fixture
        names: tuple[str, ...] = ("order",)

        def facts_for(self, tool: ToolSpec) -> tuple[str, ...]:
            return self.names

    rule = Choosy()
    guard = kit.another(policy=rule)
    declare(guard, remembering)
    declare(guard, remembering, name="other")
    refund = refunding(kit, guard)
    with working(kit, guard=guard):
        await mode.invoke(refund, {"order_id": "4711"})
        assert reads == ["4711"]
        assert list(rule.asked[-1].facts) == ["order"]
        rule.names = ()
        await mode.invoke(refund, {"order_id": "4711"})
        assert reads == ["4711"]
        assert not rule.asked[-1].facts


@pytest.mark.promise("facts-are-asked-once-and-only-where-needed")
async def test_nothing_is_read_for_a_call_that_the_mandate_rules_out(kit: Kit, mode: Mode) -> None:
    reads: list[str] = []

    def remembering(order_id: str) -> Order:
        reads.append(order_id)
        return order_of(order_id)

    declare(kit.guard, remembering)
    refund = refunding(kit)
    with working(kit, args={"order_id": ["4711"]}):
        denied = await denial(mode, refund, "4712")
        await mode.invoke(refund, {"order_id": "4711"})
    assert denied.code is DenialCode.MANDATE
    assert reads == ["4711"]


async def test_all_facts_of_a_call_are_read_at_once(kit: Kit, mode: Mode) -> None:
    present = threading.Barrier(3, timeout=5)

    def meeting(order_id: str) -> Order:
        present.wait()
        return order_of(order_id)

    for name in ("order", "customer", "carrier"):
        declare(kit.guard, meeting, name=name, timeout=10.0)
    refund = refunding(kit)
    with working(kit):
        assert await mode.invoke(refund, {"order_id": "4711"}) == "refunded 4711"


async def test_async_functions_are_read_at_once_too(kit: Kit) -> None:
    present = asyncio.Barrier(3)

    async def meeting(order_id: str) -> Order:
        async with asyncio.timeout(5), present:
            return order_of(order_id)

    for name in ("order", "customer", "carrier"):
        declare(kit.guard, meeting, name=name, timeout=10.0)
    refund = refunding(kit)
    with working(kit):
        assert await refund.ainvoke({"order_id": "4711"}) == "refunded 4711"


async def test_a_record_is_read_anew_when_a_call_is_judged_again_after_an_approval(
    kit: Kit, mode: Mode
) -> None:
    status = ["pending"]

    def changing(order_id: str) -> Order:
        return Order(status[-1])

    def asking(request: AccessRequest) -> Decision:
        if request.facts["order"]["status"] != "pending":
            return DENY
        return ASK if request.approval is None else PERMIT

    def approve(_request: AccessRequest) -> bool:
        status.append("shipped")
        return True

    kit.rule.answer = asking
    guard = kit.another(approver=approve)
    declare(guard, changing)
    refund = refunding(kit, guard)
    with working(kit, guard=guard):
        denied = await denial(mode, refund)
    assert denied.reason == "not pending"


# --- what is no good record


def raising(order_id: str) -> Order:
    raise ConnectionError(f"no route to db as {SECRET}")


def leaving(order_id: str) -> Order:
    raise SystemExit(SECRET)


async def leaving_the_loop(order_id: str) -> Order:
    raise SystemExit(SECRET)


async def cancelled_by_itself(order_id: str) -> Order:
    raise asyncio.CancelledError(SECRET)


def hanging(order_id: str) -> Order:
    time.sleep(0.5)
    return Order("pending")


async def swallowing(order_id: str) -> Order:
    end = time.monotonic() + 0.5
    while (left := end - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue
    return Order("pending")


def recursive(order_id: str) -> Any:
    record: dict[str, Any] = {"status": "pending"}
    record["total"] = record
    return record


def deep(order_id: str) -> Any:
    value: Any = SECRET
    for _ in range(100_000):
        value = [value]
    return {"status": value}


class Lying(Mapping[str, Any]):
    """A mapping whose code fails when somebody looks into it."""

    def __getitem__(self, name: str) -> Any:
        raise RuntimeError(SECRET)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError(SECRET)

    def __len__(self) -> int:
        return 1


def mistyped(order_id: str) -> Order:
    order = Order("pending")
    order.status = [SECRET]  # type: ignore[assignment]  # what is tested
    return order


BAD: dict[str, tuple[Callable[..., Any], str]] = {
    "raises": (raising, "its source failed: ConnectionError"),
    "exits": (leaving, "its source failed: SystemExit"),
    "exits on the loop": (leaving_the_loop, "its source failed: SystemExit"),
    "says that it was cancelled": (cancelled_by_itself, "its source failed: CancelledError"),
    "hangs": (hanging, "no answer within 0.1 s"),
    "swallows its cancellation": (swallowing, "no answer within 0.1 s"),
    "is inside itself": (recursive, "not of the declared type"),
    "is nested deeply": (deep, "not of the declared type"),
    "is a text": (lambda order_id: SECRET, "not of the declared type"),
    "is a number of another type": (lambda order_id: Order(7), "not of the declared type"),  # type: ignore[arg-type]  # what is tested
    "was changed to another type": (mistyped, "not of the declared type"),
    "runs code": (lambda order_id: Lying(), "not of the declared type"),
    "is NaN": (lambda order_id: Order("pending", weight=float("nan")), "not of the declared type"),
    "is infinite": (lambda order_id: Order("pending", Decimal("Infinity")), "not of the declared type"),
    "is large": (lambda order_id: Order("x" * 10_000_000), "more than 65536 bytes"),
    "is a coroutine": (lambda order_id: swallowing, "not of the declared type"),
    "is absent": (lambda order_id: None, "there is no such record"),
}


@pytest.mark.promise("a-fact-that-is-not-known-denies")
@pytest.mark.parametrize("case", BAD)
async def test_what_is_no_good_record_denies_and_nobody_reads_a_part_of_it(
    kit: Kit, mode: Mode, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    function, problem = BAD[case]
    declare(kit.guard, function, type=Order, timeout=0.1 if "0.1" in problem else 5.0)
    refund = refunding(kit)
    with working(kit):
        denied = await denial(mode, refund)
    assert denied.code is DenialCode.NO_FACT
    assert denied.reason.startswith("fact order: ")
    assert problem in denied.reason
    (record,) = decisions(kit)
    assert (record["code"], record["reason"]) == ("no_fact", denied.reason)
    assert not kit.rule.asked
    for text in (denied.reason, denied.advice, str(record), caplog.text):
        assert SECRET not in text
    assert "order" not in denied.advice


@pytest.mark.promise("a-fact-that-is-not-known-denies")
@pytest.mark.parametrize(
    ("order_id", "problem"), [("x" * 1_048_000, "more than 1024 bytes"), ("a" * 1_023, "more than 1024")]
)
async def test_a_key_of_a_megabyte_is_asked_of_nobody(
    kit: Kit, mode: Mode, order_id: str, problem: str
) -> None:
    reads: list[str] = []
    declare(kit.guard, lambda order_id: reads.append(order_id), type=Order)
    refund = refunding(kit)
    with working(kit):
        denied = await denial(mode, refund, order_id)
    assert denied.code is DenialCode.NO_FACT
    assert problem in denied.reason
    assert not reads


async def test_a_record_may_be_absent_where_its_type_says_so(kit: Kit, mode: Mode) -> None:
    def perhaps(order_id: str) -> Order | None:
        return None if order_id == "none" else order_of(order_id)

    declare(kit.guard, perhaps)
    refund = refunding(kit)
    with working(kit):
        await mode.invoke(refund, {"order_id": "none"})
    assert kit.rule.asked[-1].facts["order"] is None
    assert decisions(kit)[-1]["facts"] == {"order": None}


async def test_in_observe_mode_a_fact_that_is_not_known_is_recorded_and_blocks_nothing(
    kit: Kit, mode: Mode
) -> None:
    guard = kit.another(observe=True)
    declare(guard, raising)
    refund = refunding(kit, guard)
    with working(kit, guard=guard):
        assert await mode.invoke(refund, {"order_id": "4711"}) == "refunded 4711"
    (record,) = decisions(kit)
    assert (record["code"], record["observed"]) == ("no_fact", True)


@pytest.mark.promise("a-record-that-hangs-stalls-nobody-else")
async def test_records_of_one_user_that_hang_take_no_place_of_another(kit: Kit) -> None:
    release = threading.Event()

    def of(order_id: str) -> Order:
        if order_id != "4711":
            release.wait(5)
        return Order("pending")

    declare(kit.guard, of, timeout=1.0)
    refund = refunding(kit)
    with ExitStack() as stack:
        stack.callback(release.set)
        with working(kit, "mallory"):
            calls = [asyncio.ensure_future(refund.ainvoke({"order_id": f"h{n}"})) for n in range(70)]
            await asyncio.sleep(0.1)
        with working(kit, "bob"):
            begun = time.monotonic()
            assert await refund.ainvoke({"order_id": "4711"}) == "refunded 4711"
            assert time.monotonic() - begun < 0.5
        release.set()
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert len(ends) == 70


@pytest.mark.promise("a-record-that-hangs-stalls-nobody-else")
async def test_coroutines_of_one_user_that_hang_take_no_place_of_another(kit: Kit) -> None:
    async def of(order_id: str) -> Order:
        await asyncio.sleep(0 if order_id == "4711" else 5)
        return Order("pending")

    declare(kit.guard, of, timeout=0.6)
    refund = refunding(kit)
    with working(kit, "mallory"):
        calls = [asyncio.ensure_future(refund.ainvoke({"order_id": f"h{n}"})) for n in range(70)]
        await asyncio.sleep(0.1)
    with working(kit, "bob"):
        begun = time.monotonic()
        assert await refund.ainvoke({"order_id": "4711"}) == "refunded 4711"
        assert time.monotonic() - begun < 0.4
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, Denied) and end.code is DenialCode.NO_FACT for end in ends)


# --- what is recorded, and who may change it


@pytest.mark.promise("a-fact-is-what-was-read")
async def test_nobody_changes_a_record_after_it_was_read(kit: Kit, mode: Mode) -> None:
    order = Order("pending")
    judged: list[Any] = []

    def careless(request: AccessRequest) -> Decision:
        order.status = "shipped"
        request.facts["order"]["status"] = "lost"
        judged.append(request.facts["order"]["status"])
        return PERMIT

    kit.rule.answer = careless
    declare(kit.guard, lambda order_id: order, type=Order)
    refund = refunding(kit)
    with working(kit):
        await mode.invoke(refund, {"order_id": "4711"})
    assert judged == ["pending"]


@pytest.mark.promise("a-fact-is-what-was-read")
async def test_the_record_of_a_decision_has_a_digest_of_each_fact_and_no_value(kit: Kit, mode: Mode) -> None:
    kit.rule.answer = pending
    declare(kit.guard, lambda order_id: Order(SECRET if order_id == "4712" else "pending"), type=Order)
    refund = refunding(kit)
    with working(kit):
        await mode.invoke(refund, {"order_id": "4711"})
        await denial(mode, refund, "4712")
    permit, deny = (record for record in kit.audit.records() if record["event"] == "decision")
    assert permit["facts"] == kit.rule.asked[0].facts.digests
    assert deny["facts"] == kit.rule.asked[1].facts.digests
    assert permit["facts"] != deny["facts"]
    assert SECRET not in str(list(kit.audit.records()))


async def test_a_decision_without_a_call_reads_the_record_too(kit: Kit, mode: Mode) -> None:
    kit.rule.answer = pending
    declare(kit.guard, order_of)
    refunding(kit)
    with working(kit):
        decision = await mode.call(kit.guard, "decide", "refund_order", {"order_id": "4712"})
        assert decision.reason == "policy: not pending"
        assert (await mode.call(kit.guard, "decide", "refund_order", {"order_id": "4711"})).permitted


# --- using a record again


@pytest.mark.promise("a-record-of-one-user-answers-no-other")
async def test_a_record_is_used_again_for_its_user_alone_and_for_its_time(kit: Kit, mode: Mode) -> None:
    now, reads = [time.time()], list[str]()

    def counting(order_id: str) -> Order:
        reads.append(order_id)
        return Order(f"read {len(reads)}")

    guard = kit.another(clock=lambda: now[0])
    declare(guard, counting, lifetime=60.0)
    refund = refunding(kit, guard)

    async def status(subject: str, order_id: str = "4711") -> str:
        with working(kit, subject, guard):
            await mode.invoke(refund, {"order_id": order_id})
        return str(kit.rule.asked[-1].facts["order"]["status"])

    assert [await status("alice"), await status("alice")] == ["read 1", "read 1"]
    assert await status("bob") == "read 2"
    assert await status("alice", "4712") == "read 3"
    assert await status("alice") == "read 1"
    now[0] += 60
    assert await status("alice") == "read 4"


async def test_without_a_lifetime_nothing_is_used_again_and_a_shared_record_is_for_all(
    kit: Kit, mode: Mode
) -> None:
    reads: list[str] = []

    def counting(order_id: str) -> Order:
        reads.append(order_id)
        return Order("pending")

    declare(kit.guard, counting)
    declare(kit.guard, counting, name="shared", lifetime=60.0, shared=True)
    refund = refunding(kit)
    for subject in ("alice", "bob"):
        with working(kit, subject):
            await mode.invoke(refund, {"order_id": "4711"})
    assert len(reads) == 3


@pytest.mark.promise("a-record-of-one-user-answers-no-other")
def test_a_record_that_is_asked_by_the_user_is_shared_with_nobody(kit: Kit) -> None:
    source = SqlFact(lambda: sqlite3.connect(":memory:"), "SELECT ? AS status", by_subject=True)
    spec = FactSpec(name="order", keys={"refund_order": ()}, type=FactType(Order), lifetime=60.0, shared=True)
    with pytest.raises(ConfigurationError, match="read by the user, and shared"):
        kit.guard.add_fact(spec, source)
    kit.guard.add_fact(replace(spec, shared=False), source)


async def test_a_record_that_could_not_be_read_is_not_kept(kit: Kit, mode: Mode) -> None:
    answers: list[Any] = [ConnectionError(), Order("pending")]

    def failing(order_id: str) -> Order:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Order)
        return answer

    declare(kit.guard, failing, lifetime=60.0)
    refund = refunding(kit)
    with working(kit):
        assert (await denial(mode, refund)).code is DenialCode.NO_FACT
        assert await mode.invoke(refund, {"order_id": "4711"}) == "refunded 4711"


def test_a_cache_is_bounded_in_entries_and_in_bytes() -> None:
    spec = FactSpec(name="order", keys={"refund_order": ("order_id",)}, type=FactType(Order), lifetime=60.0)
    cache = FactCache(spec, lambda: 0.0)
    for number in range(3_000):
        cache.keep(cache.name(sample_request(), (number,)), b"x", 0.0)
    assert len(cache) == 1_024
    for number in range(200):
        cache.keep(cache.name(sample_request(), (number,)), b"x" * 65_536, 0.0)
    assert len(cache) <= 64
    assert cache.get(cache.name(sample_request(), (199,))) is not None


def test_no_two_users_agents_or_keys_have_one_name_in_a_cache() -> None:
    spec = FactSpec(name="order", keys={"refund_order": ("order_id",)}, type=FactType(Order), lifetime=60.0)
    cache = FactCache(spec, lambda: 0.0)
    whos = [("user:ada", "a", ()), ("user:bob", "a", ()), ("user:ada", "b", ()), ("user:ada", "a", ("c",))]
    requests = [
        sample_request(identity=Identity(subject=subject, actor=actor, chain=chain))
        for subject, actor, chain in [*whos, ("user:ada,a", "c", ())]
    ]
    names = {cache.name(request, key) for request in requests for key in [("1",), (1,), ("1", "2"), ("12",)]}
    assert len(names) == 20


# --- declarations


def test_facts_that_need_each_other_are_an_error_of_configuration() -> None:
    catalog = Catalog([ToolSpec(name=name, path=ToolPath.READ) for name in ("get_order", "get_customer")])
    order = fact_of(order_of, tools={"get_customer": "order_id"}, name="order", tool="get_order").spec
    catalog.declare(order)
    customer = fact_of(order_of, tools={"get_order": "order_id"}, name="customer", tool="get_customer").spec
    with pytest.raises(ConfigurationError, match="is needed to judge the call of"):
        catalog.declare(customer)
    own = fact_of(order_of, tools={"get_order": "order_id"}, name="own", tool="get_order").spec
    with pytest.raises(ConfigurationError, match="is needed to judge the call of get_order"):
        catalog.declare(own)
    assert list(catalog.facts) == ["order"]


def test_a_key_that_is_no_argument_and_a_name_of_two_facts_are_errors(kit: Kit) -> None:
    refunding(kit)
    with pytest.raises(ConfigurationError, match="refund_order has no argument order"):
        declare(kit.guard, order_of, key="order")
    declare(kit.guard, order_of)
    with pytest.raises(ConfigurationError, match="two facts are named order"):
        declare(kit.guard, raising)


async def test_two_guards_on_one_catalog_may_declare_the_same_fact(kit: Kit, mode: Mode) -> None:
    kit.rule.answer = pending
    other = kit.another(catalog=kit.guard.catalog)
    for guard in (kit.guard, other):
        declare(guard, order_of)
    refund = refunding(kit, other)
    with working(kit, guard=other):
        assert await mode.invoke(refund, {"order_id": "4711"}) == "refunded 4711"
    third = kit.another(catalog=kit.guard.catalog)
    with pytest.raises(ConfigurationError, match="two facts are named order"):
        declare(third, order_of, timeout=2.0)


def test_a_tool_acts_on_one_thing(kit: Kit) -> None:
    refunding(kit)
    declare(kit.guard, order_of, resource=True)
    with pytest.raises(ConfigurationError, match="both what refund_order acts on"):
        declare(kit.guard, order_of, name="other", resource=True)
