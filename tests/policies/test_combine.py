"""Several policies as one: a deny, an error and an obligation are never lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentguard.errors import ConfigurationError
from agentguard.model import AccessRequest, Decision, Effect, Obligation
from agentguard.policies.combine import Combine, Rule
from agentguard.ports import CatalogAware, Policy
from agentguard.testing.contracts import PolicyContract
from agentguard.testing.samples import sample_request
from agentguard.testing.scenarios import AwaitedPort


class Says:
    inline = True

    def __init__(self, answer: Any, version: str = "1") -> None:
        self.answer, self.version = answer, version
        self.bound: tuple[Any, ...] = ()

    def decide(self, request: AccessRequest) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def check_tools(self, tools: Any) -> None:
        self.bound = tuple(tools)


def permit(id: str, *obligations: Obligation) -> Says:
    return Says(Decision(effect=Effect.PERMIT, policy_ids=(id,), reason=id, obligations=obligations))


def deny(id: str) -> Says:
    return Says(Decision(effect=Effect.DENY, policy_ids=(id,), reason=id, advice=f"not {id}"))


def silent() -> Says:
    return Says(Decision(effect=Effect.DENY, reason="no policy permits refund_order here", applicable=False))


def failed() -> Says:
    return Says(Decision(effect=Effect.DENY, reason="policy_error: it could not be evaluated"))


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    async def asked(rule: Rule, *policies: Policy) -> Any:
        return await AwaitedPort(Combine(policies, rule), asynchronous=request.param).decide(sample_request())

    return asked


class TestCombine(PolicyContract):
    def make(self) -> Combine:
        return Combine([permit("a"), deny("b")], Rule.DENY_OVERRIDES)


@pytest.mark.promise("combined-none-lost")
@pytest.mark.parametrize(
    ("rule", "policies", "ids"),
    [
        (Rule.DENY_OVERRIDES, lambda: [permit("a"), deny("b"), permit("c")], None),
        (Rule.DENY_OVERRIDES, lambda: [permit("a"), failed()], None),
        (Rule.DENY_OVERRIDES, lambda: [silent()], None),
        (Rule.DENY_OVERRIDES, lambda: [silent(), permit("a"), permit("b")], ("a", "b")),
        (Rule.UNANIMOUS, lambda: [permit("a"), silent()], None),
        (Rule.UNANIMOUS, lambda: [permit("a"), permit("b")], ("a", "b")),
        (Rule.FIRST_APPLICABLE, lambda: [silent(), permit("a"), deny("b")], ("a",)),
        (Rule.FIRST_APPLICABLE, lambda: [deny("a"), permit("b")], None),
        (Rule.FIRST_APPLICABLE, lambda: [failed(), permit("b")], None),
        (Rule.FIRST_APPLICABLE, lambda: [silent(), silent()], None),
    ],
)
async def test_each_rule_permits_no_more_than_it_says(
    ask: Callable[..., Any], rule: Rule, policies: Callable[[], list[Says]], ids: tuple[str, ...] | None
) -> None:
    decision = await ask(rule, *policies())
    assert decision.permitted is (ids is not None)
    if ids is not None:
        assert decision.policy_ids == ids


@pytest.mark.promise("combined-none-lost")
@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("answer", [OSError("dead"), True, None])
async def test_an_error_is_never_outvoted(ask: Callable[..., Any], rule: Rule, answer: Any) -> None:
    with pytest.raises((OSError, TypeError)):
        await ask(rule, Says(answer), permit("a"))


async def test_a_deny_names_who_denied_and_advises(ask: Callable[..., Any]) -> None:
    decision = await ask(Rule.DENY_OVERRIDES, permit("a"), deny("b"), deny("c"))
    assert (decision.policy_ids, decision.reason) == (("b", "c"), "b; c")
    assert decision.advice == "not b not c"


@pytest.mark.promise("combined-none-lost")
async def test_the_narrowest_of_all_obligations_holds(ask: Callable[..., Any]) -> None:
    def narrow(*scopes: str) -> Obligation:
        return Obligation(kind="narrow_scopes", parameters={"scopes": list(scopes)})

    def shorten(seconds: float) -> Obligation:
        return Obligation(kind="shorten_lifetime", parameters={"seconds": seconds})

    decision = await ask(
        Rule.UNANIMOUS,
        permit("a", narrow("r", "w"), shorten(60), Obligation(kind="notify", parameters={"to": "x"})),
        permit("b", narrow("r"), shorten(30), Obligation(kind="approve")),
    )
    assert {obligation.kind for obligation in decision.obligations} == {
        "notify", "approve", "narrow_scopes", "shorten_lifetime",
    }  # fmt: skip
    assert decision.obliges("narrow_scopes").parameters == {"scopes": ["r"]}
    assert decision.obliges("shorten_lifetime").parameters == {"seconds": 30}


def test_the_version_changes_with_any_policy_and_with_the_rule() -> None:
    versions = {
        Combine([Says(None, one), Says(None, two)], rule).version
        for one, two in (("1", "1"), ("1", "2"), ("2", "1"))
        for rule in Rule
    }
    assert len(versions) == 9


def test_the_catalog_reaches_every_policy() -> None:
    one, two = permit("a"), permit("b")
    combined = Combine([one, two], Rule.UNANIMOUS)
    assert isinstance(combined, CatalogAware)
    combined.check_tools(iter([sample_request().tool]))
    assert one.bound == two.bound == (sample_request().tool,)


@pytest.mark.parametrize(("policies", "rule"), [([], "unanimous"), ([permit("a")], "majority")])
def test_a_combination_that_means_nothing_is_refused(policies: list[Policy], rule: str) -> None:
    with pytest.raises(ConfigurationError):
        Combine(policies, rule)


@pytest.mark.parametrize("rule", list(Rule))
async def test_a_decision_is_made_under_the_versions_of_its_parts(
    ask: Callable[..., Any], rule: Rule
) -> None:
    def says(version: str) -> Says:
        decision = Decision(
            effect=Effect.PERMIT, policy_ids=("a",), policy_version=version, decision_id=version
        )
        return Says(decision, version="always the same")

    one, again, other = [await ask(rule, says(version)) for version in ("r1", "r1", "r2")]
    assert one.policy_version == again.policy_version != other.policy_version
    assert one.decision_id == "r1"
