"""A real PDP, OPA, answers by its data API."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import pytest

from agentguard import Denied, Guard
from agentguard.catalog import Catalog
from agentguard.identity import LocalIdentity
from agentguard.model import AccessRequest, Arguments, Identity, ToolPath, ToolSpec
from agentguard.policies.opa import Opa, OpaError
from agentguard.stores.memory import MemoryStore
from agentguard.testing import RecordingAudit
from agentguard.testing.samples import sample_request
from tests.real.conftest import needed
from tests.servers.server import free_port


@pytest.fixture
def policy(opa: str) -> Iterator[Opa]:
    policy = Opa(opa, path="shop/decision", version="1")
    yield policy
    policy.close()


def refund(amount: int, subject: str = "user:ada") -> AccessRequest:
    who = Identity(subject=subject, actor="spiffe://example.test/agent")
    return sample_request(identity=who, arguments=Arguments.of({"order_id": "4711", "amount": amount}))


def logged(decision_id: str) -> list[dict[str, object]]:
    """Return what the server's own log says of a decision, which it writes a moment later."""
    for _ in range(50):
        lines = Path(needed("AGENTGUARD_TEST_OPA_LOG")).read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        if matches := [entry for entry in entries if entry.get("decision_id") == decision_id]:
            return matches
        time.sleep(0.05)
    return []


@pytest.mark.promise("pdp-clear-permit")
async def test_opa_judges_the_arguments_the_user_and_the_approval(policy: Opa) -> None:
    for request, permitted, asks in (
        (refund(50), True, False),
        (refund(51), True, True),
        (refund(50, subject="user:eve"), True, True),
        (refund(501), False, False),
    ):
        for decision in (policy.decide(request), await policy.adecide(request)):
            assert decision.permitted is permitted
            assert (decision.obliges("approve") is not None) is asks
    denied = policy.decide(refund(501))
    assert (denied.policy_ids, denied.advice) == (("refused",), "Refunds end at 500.")
    shorter = policy.decide(refund(50)).obliges("shorten_lifetime")
    assert shorter is not None
    assert shorter.parameters == {"seconds": 30}


@pytest.mark.promise("pdp-decision-id")
def test_the_id_of_a_decision_is_in_the_servers_log_and_in_ours(policy: Opa) -> None:
    audit = RecordingAudit()
    guard = Guard(
        catalog=Catalog([ToolSpec(name="refund_order", path=ToolPath.WRITE)]),
        policy=policy,
        identity=LocalIdentity("agent://a"),
        brokers={},
        store=MemoryStore(),
        audit=audit,
        approver=lambda _request: False,
    )

    def refund_order(order_id: str, amount: int) -> str:
        """Refund an order."""
        return "refunded"

    (tool,) = guard.wrap(refund_order)
    with guard.task("Refund", subject="user:ada", mandate={"tools": "*"}) as task:
        assert tool.invoke({"order_id": "4711", "amount": 5}) == "refunded"
        with pytest.raises(Denied, match="Refunds end at 500"):
            tool.invoke({"order_id": "4711", "amount": 501})
    ids = [r["decision_id"] for r in audit.records(task.id) if r["event"] == "decision"]
    for decision_id, allowed in zip(ids, (True, False), strict=True):
        (entry,) = logged(decision_id)
        assert entry["path"] == "shop/decision"
        assert entry["result"]["allow"] is allowed  # type: ignore[index]  # the log's own JSON


def test_what_opa_does_not_clearly_permit_is_no_permit(opa: str) -> None:
    undefined, lying = (Opa(opa, path=f"shop/{name}", version="1") for name in ("nothing_here", "lies"))
    decision = undefined.decide(refund(5))
    assert (decision.permitted, decision.applicable) == (False, False)
    with pytest.raises(OpaError, match="allow is not a boolean"):
        lying.decide(refund(5))
    undefined.close()
    lying.close()


@contextmanager
def another(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run an OPA of the test's own, which may be stopped."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    program = needed("AGENTGUARD_TEST_OPA_PROGRAM")
    command = [program, "run", "--server", "--disable-telemetry", "--addr", f"127.0.0.1:{port}", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            for _ in range(200):
                try:
                    httpx.get(f"{url}/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield child, url
        finally:
            child.kill()


@pytest.mark.promise("pdp-clear-permit")
def test_a_server_that_has_died_or_hangs_permits_nothing(tmp_path: Path) -> None:
    rules = tmp_path / "all.rego"
    rules.write_text('package shop\ndecision := {"allow": true}')
    with another(str(rules)) as (child, url):
        policy = Opa(url, path="shop/decision", version="1", timeout=0.5)
        assert policy.decide(refund(5)).permitted
        child.send_signal(19)  # SIGSTOP: it hangs
        began = time.monotonic()
        with pytest.raises(OpaError):
            policy.decide(refund(5))
        assert time.monotonic() - began < 3
        child.send_signal(18)
        child.kill()
        child.wait()
        with pytest.raises(OpaError):
            policy.decide(refund(5))
        policy.close()


def test_opa_answers_in_time(policy: Opa) -> None:
    policy.decide(refund(30))
    times = []
    for _ in range(50):
        began = time.perf_counter()
        policy.decide(refund(30))
        times.append(time.perf_counter() - began)
    assert median(times) < 0.25, f"p50 {median(times) * 1000:.2f} ms"


@pytest.mark.promise("arguments-stop-nobody")
async def test_an_argument_on_which_opa_fails_denies_no_other_user(tmp_path: Path) -> None:
    rules = tmp_path / "all.rego"
    rules.write_text(
        'package shop\ndecision := {"allow": true} if to_number(input.resource.properties.order_id) > 0\n'
    )
    with another(str(rules)) as (_child, url):
        policy = Opa(url, path="shop/decision", version="1")
        poison = sample_request(
            identity=Identity(subject="user:eve", actor="spiffe://example.test/agent"),
            arguments=Arguments.of({"order_id": "no number"}),
        )
        for _ in range(6):
            with pytest.raises(OpaError, match="answered 500"):
                policy.decide(poison)
            with pytest.raises(OpaError, match="answered 500"):
                await policy.adecide(poison)
        for decision in (policy.decide(refund(5)), await policy.adecide(refund(5))):
            assert decision.permitted
        long = sample_request(arguments=Arguments.of({"order_id": "9" * 8_000_000}))
        with pytest.raises(OpaError, match="more than 1048576 bytes"):
            policy.decide(long)
        policy.close()
