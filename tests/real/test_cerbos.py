"""A real PDP, Cerbos, answers by AuthZEN."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import pytest

from agentguard.model import AccessRequest, Arguments, Identity
from agentguard.policies.authzen import AuthZen
from agentguard.testing.samples import sample_request


@pytest.fixture
def policy(cerbos: str) -> Iterator[AuthZen]:
    policy = AuthZen(cerbos, version="1")
    yield policy
    policy.close()


def refund(amount: int, subject: str = "user:ada") -> AccessRequest:
    who = Identity(subject=subject, actor="spiffe://example.test/agent")
    return sample_request(identity=who, arguments=Arguments.of({"order_id": "4711", "amount": amount}))


@pytest.mark.promise("pdp-clear-permit")
async def test_cerbos_judges_the_arguments_and_the_user(policy: AuthZen) -> None:
    for request, permitted in (
        (refund(50), True),
        (refund(51), False),
        (refund(50, subject="user:eve"), False),
    ):
        assert policy.decide(request).permitted is permitted
        decision = await policy.adecide(request)
        assert decision.permitted is permitted
        assert not decision.obligations


def test_cerbos_answers_in_time(policy: AuthZen) -> None:
    policy.decide(refund(30))
    times = []
    for _ in range(50):
        began = time.perf_counter()
        policy.decide(refund(30))
        times.append(time.perf_counter() - began)
    assert median(times) < 0.25, f"p50 {median(times) * 1000:.2f} ms"
