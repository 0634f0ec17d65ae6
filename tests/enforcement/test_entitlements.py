"""What is asked of an issuer: the user's rights, the agent's ceiling and the mandate, together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from agentguard.concurrency.drive import drive
from agentguard.enforcement.call import Permit
from agentguard.enforcement.entitlements import FixedEntitlements, effective_scopes
from agentguard.enforcement.task_credentials import SubjectTokens
from agentguard.errors import CredentialUnavailable, DenialCode, Denied, IdentityError
from agentguard.identity.local import LocalIdentity
from agentguard.model import Decision, Effect, Mandate, Obligation, Secret, TaskStatus, ToolPath
from agentguard.ports import BrokerTraits
from agentguard.telemetry import Telemetry
from agentguard.testing import captured_spans, sample_task
from tests.doubles.flow import LOOKUP, REFUND, Mint, Rule, World

ALICE = {"alice": {"payments": ["a", "b"]}}


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(world: World) -> list[frozenset[str]]:
    return [grant.scopes for grant in world.mint.issued]


@pytest.mark.promise("rights-intersect")
def test_an_issuer_is_asked_for_what_user_agent_and_task_may_do_together(mode: str) -> None:
    spec = replace(REFUND, scopes=frozenset({"a", "b", "c", "d"}))
    world = World(
        ceiling={"payments": {"a", "b", "c"}},
        entitlements=FixedEntitlements({"alice": {"payments": ["a", "b", "d"]}}),
    )
    world.begin(mandate=Mandate.of({"tools": "*", "scopes": ["b", "c", "d"]}))
    world.call(mode, spec=spec)
    assert asked(world) == [frozenset({"b"})]
    assert world.log.written[0]["scopes"] == ["b"]


@pytest.mark.promise("rights-intersect")
@pytest.mark.parametrize(
    ("changes", "mandate", "whose"),
    [
        ({"ceiling": {"payments": {"z"}}}, None, "ceiling"),
        ({"ceiling": {"orders": {"a"}}}, None, "ceiling"),
        ({"ceiling": {}}, None, "ceiling"),
        ({"entitlements": FixedEntitlements({"alice": {"payments": ["z"]}})}, None, "alice"),
        ({"entitlements": FixedEntitlements({"bob": {"payments": ["a"]}})}, None, "alice"),
        ({}, ["z"], "mandate"),
        ({"ceiling": {"payments": {"a"}}, "entitlements": FixedEntitlements(ALICE)}, ["b"], "mandate"),
    ],
)
def test_an_empty_intersection_is_a_deny_before_anybody_is_asked(
    mode: str, changes: dict[str, Any], mandate: list[str] | None, whose: str
) -> None:
    world = World(**changes)
    world.begin(mandate=Mandate.of({"tools": "*", **({"scopes": mandate} if mandate else {})}))
    denied = world.denied(mode)
    assert denied.code is DenialCode.NO_RIGHTS
    assert whose in denied.reason
    assert whose not in str(denied)
    assert (world.mint.issued, world.policy.asked, world.store.live()) == ([], [], ())
    assert world.log.written[-1]["code"] == "no_rights"


class Directory:
    """Entitlements that go wrong in a way of their own."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def scopes(self, subject: str, resource: str) -> Collection[str] | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # nonsense is what is tested


@pytest.mark.promise("rights-intersect")
@pytest.mark.parametrize("answer", [ConnectionError("down: s3cret"), 7, object(), [["a"]]])
def test_rights_that_cannot_be_learned_are_none(mode: str, answer: Any) -> None:
    world = World(entitlements=Directory(answer))
    world.begin()
    denied = world.denied(mode)
    assert denied.code is DenialCode.NO_RIGHTS
    assert "s3cret" not in denied.reason
    assert world.mint.issued == []


def test_a_policy_that_leaves_no_scope_is_a_deny(mode: str) -> None:
    nothing = Obligation(kind="narrow_scopes", parameters={"scopes": ["z"]})
    world = World(policy=Rule(Decision(effect=Effect.PERMIT, obligations=(nothing,))))
    world.begin()
    assert world.denied(mode).code is DenialCode.NO_RIGHTS
    assert world.mint.issued == []


def test_a_tool_without_a_resource_asks_for_nothing_and_is_not_limited(mode: str) -> None:
    world = World(ceiling={}, entitlements=FixedEntitlements({}))
    world.begin()
    assert world.call(mode, spec=LOOKUP) == "done"


@pytest.mark.promise("rights-intersect")
def test_a_child_task_has_at_most_its_parents_scopes() -> None:
    parent = Mandate.of({"tools": "*", "scopes": ["a", "b"]})
    child = parent.narrow(Mandate.of({"tools": "*", "scopes": ["b", "c"]}))
    assert child.scopes == frozenset({"b"})
    assert Mandate.of(child.literal()) == child
    assert parent.narrow(Mandate.of({"tools": "*"})).scopes == frozenset({"a", "b"})


LETTERS = st.frozensets(st.sampled_from("abcdef"))


@pytest.mark.promise("rights-intersect")
@given(needs=LETTERS, agent=LETTERS, user=LETTERS, task=LETTERS)
def test_whatever_the_sides_say_no_scope_is_asked_for_that_one_of_them_lacks(
    needs: frozenset[str], agent: frozenset[str], user: frozenset[str], task: frozenset[str]
) -> None:
    spec = replace(REFUND, scopes=needs)
    state = sample_task(mandate=Mandate(tools=frozenset("*"), scopes=task))

    async def entitled(_subject: str, _resource: str) -> frozenset[str]:
        return user

    common = needs & agent & user & task
    asking = effective_scopes(spec, state, {"payments": agent}, entitled)
    if needs and not common:
        with pytest.raises(Denied) as caught:
            drive(asking)
        assert caught.value.code is DenialCode.NO_RIGHTS
    else:
        assert drive(asking) == common


# --- for whom


@pytest.mark.promise("user-token-in-process")
def test_the_users_token_reaches_the_broker_and_nothing_else(mode: str) -> None:
    world = World()
    state = world.begin()
    world.flow.subject_tokens.keep("t1", Secret("user-t0ken"), state.deadline)
    world.call(mode)
    (grant,) = world.mint.issued
    assert grant.subject_token is not None
    assert grant.subject_token.reveal() == "user-t0ken"
    everything = repr((grant, world.log.written, world.store.task("t1"), world.store.live()))
    assert "user-t0ken" not in everything


@pytest.mark.promise("user-token-in-process")
def test_a_child_task_uses_its_parents_token_and_no_other_does() -> None:
    tokens = SubjectTokens(lambda: 0.0)
    tokens.keep("parent", Secret("t"), 10.0)
    assert tokens.of(sample_task("child", lineage=("middle", "parent"))) is not None
    assert tokens.of(sample_task("other")) is None


@pytest.mark.promise("user-token-in-process")
def test_a_users_token_goes_with_its_task() -> None:
    now = 0.0
    tokens = SubjectTokens(lambda: now)
    tokens.keep("one", Secret("1"), 10.0)
    tokens.keep("two", Secret("2"), 10.0)
    tokens.drop(["one"])
    assert tokens.of(sample_task("one")) is None
    now = 11.0
    tokens.keep("three", Secret("3"), 20.0)
    assert tokens.of(sample_task("two")) is None


@pytest.mark.promise("user-token-in-process")
def test_ending_a_task_forgets_its_users_token() -> None:
    world = World()
    state = world.begin()
    world.flow.subject_tokens.keep("t1", Secret("t"), state.deadline)
    world.end("t1", TaskStatus.COMPLETED, "done")
    assert world.flow.subject_tokens.of(state) is None


class Nobody(LocalIdentity):
    """A platform that does not answer."""

    def actor(self) -> str:
        raise IdentityError("the workload API does not answer")


@pytest.mark.promise("no-identity-no-call")
def test_an_agent_that_cannot_say_who_it_is_does_nothing(mode: str) -> None:
    world = World(identity=Nobody("agent://a"))
    world.begin()
    denied = world.denied(mode)
    assert denied.code is DenialCode.NO_IDENTITY
    assert "workload API" in denied.reason
    assert world.mint.issued == []
    assert world.log.written[-1]["code"] == "no_identity"


@pytest.mark.promise("long-lived-key-known")
def test_a_policy_is_told_that_a_key_is_long_lived(mode: str) -> None:
    world = World()
    world.mint.traits = BrokerTraits(legacy=True)  # read once, when a guard is built
    legacy = World(brokers={(None, path): world.mint for path in ToolPath})
    legacy.begin()
    legacy.call(mode)
    assert [request.legacy for request in legacy.policy.asked] == [True]
    assert legacy.log.written[0]["legacy"] is True
    plain = World()
    plain.begin()
    plain.call(mode)
    assert [request.legacy for request in plain.policy.asked] == [False]
    assert plain.log.written[0]["legacy"] is False


@pytest.mark.promise("long-lived-key-known")
def test_a_span_is_told_that_a_key_is_long_lived(mode: str) -> None:
    mint = Mint()
    mint.traits = BrokerTraits(legacy=True)  # read once, when a guard is built
    brokers = {(None, path): mint for path in ToolPath}
    with captured_spans() as spans:
        world = World(brokers=brokers, telemetry=Telemetry(spans.tracer_provider))
        world.begin()
        world.call(mode)
        (call,) = (span for span in spans.finished() if span.name == "execute_tool refund")
    assert dict(call.attributes or {})["agentguard.credential.legacy"] is True


@pytest.mark.promise("long-lived-key-known")
def test_an_anomaly_is_on_record_with_its_call(mode: str) -> None:
    world = World()
    world.begin()

    def body(permit: Permit) -> str:
        permit.lease.report_anomaly("destination")
        return "done"

    world.call(mode, body)
    world.call(mode, call_id="c2")
    outcomes = [record for record in world.log.written if record["event"] == "outcome"]
    assert [record.get("anomalies") for record in outcomes] == [["destination"], None]


@pytest.mark.promise("long-lived-key-known")
def test_a_late_use_is_an_anomaly_and_counted() -> None:
    reader = InMemoryMetricReader()
    world = World(telemetry=Telemetry(meter_provider=MeterProvider([reader])))
    world.begin()
    world.call("sync")
    (permit,) = world.ran
    with pytest.raises(CredentialUnavailable):
        permit.lease.reveal()
    data = reader.get_metrics_data()
    assert data is not None
    points = [
        point
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "agentguard.anomalies"
        for point in metric.data.data_points
    ]
    assert [dict(point.attributes or {}) for point in points] == [
        {"kind": "late", "resource": "payments", "legacy": False}
    ]
