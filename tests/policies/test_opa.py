"""OPA, as it could answer: it permits by a clear yes alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import pytest

from agentguard.errors import AgentGuardError, ConfigurationError
from agentguard.model import AccessRequest, Arguments, Decision, Identity, Provenance
from agentguard.policies.authzen import AuthZen
from agentguard.policies.opa import Opa, OpaError
from agentguard.testing import PdpContract
from agentguard.testing.samples import sample_request
from agentguard.testing.scenarios import AwaitedPort

URL = "https://opa.example"


class Server:
    """Answers what it was told, in turn, and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return httpx.Response(200, json=answer)

    def input(self, number: int = -1) -> Any:
        return json.loads(self.asked[number].content)["input"]


def policy(server: Callable[[httpx.Request], httpx.Response], **options: Any) -> Opa:
    transport = httpx.MockTransport(server)
    return Opa(URL, **{"version": "1", "transport": transport, "async_transport": transport, **options})


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    async def asked(server: Server, **options: Any) -> Any:
        opa_policy = policy(server, **options)
        try:
            return await AwaitedPort(opa_policy, asynchronous=request.param).decide(sample_request())
        finally:
            opa_policy.close()

    return asked


class TestOpa(PdpContract):
    def over(self, transport: httpx.MockTransport) -> Opa:
        return Opa(URL, version="1", transport=transport, async_transport=transport, timeout=0.5)

    def permit(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"result": {"allow": True}, "decision_id": "d"})


class TestAuthZen(PdpContract):
    def over(self, transport: httpx.MockTransport) -> AuthZen:
        return AuthZen(URL, version="1", transport=transport, async_transport=transport, timeout=0.5)

    def permit(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/.well-known"):
            endpoint = f"{URL}/access/v1/evaluation"
            return httpx.Response(
                200, json={"policy_decision_point": URL, "access_evaluation_endpoint": endpoint}
            )
        return httpx.Response(200, json={"decision": True})


@pytest.mark.promise("pdp-clear-permit")
@pytest.mark.parametrize(
    "answer",
    [
        {"result": True},
        {"result": None},
        {"result": {}},
        {"result": {"allow": "true"}},
        {"result": {"allow": 1}},
        {"result": {"allow": True, "policies": "all"}},
        {"result": {"allow": True, "policies": [1]}},
        {"result": {"allow": True, "reason": 1}},
        {"result": {"allow": True, "deny": True}},
        {"result": {"allow": True, "obligations": {}}},
        {"result": {"allow": True, "obligations": [{"type": "narrow_scopes"}]}},
        {"result": {"allow": True, "obligations": [{"kind": "approve"}]}},
        {"result": {"allow": True}, "decision_id": 7},
        {"result": {"allow": True}, "provenance": []},
    ],
)
async def test_anything_but_a_clear_yes_is_an_error(ask: Callable[..., Any], answer: Any) -> None:
    with pytest.raises(OpaError) as raised:
        await ask(Server(answer))
    assert "4711" not in str(raised.value)


@pytest.mark.promise("pdp-clear-permit")
async def test_an_undefined_document_has_no_opinion_and_denies(ask: Callable[..., Any]) -> None:
    decision: Decision = await ask(Server({"decision_id": "d"}))
    assert (decision.permitted, decision.applicable, decision.decision_id) == (False, False, "d")
    denied = await ask(Server({"result": {"allow": False}}))
    assert (denied.permitted, denied.applicable) == (False, True)


async def test_what_an_approval_would_permit_needs_a_person(ask: Callable[..., Any]) -> None:
    server = Server({"result": {"allow": False}}, {"result": {"allow": True, "policies": ["p"]}})
    decision: Decision = await ask(server)
    assert decision.permitted
    assert decision.obliges("approve")
    assert decision.policy_ids == ("p",)
    assert [("approval" in server.input(n)["context"]) for n in (0, 1)] == [False, True]


async def test_an_obligation_of_the_first_answer_is_kept_and_the_narrowest_holds(
    ask: Callable[..., Any],
) -> None:
    seconds = [{"type": "shorten_lifetime", "properties": {"seconds": n}} for n in (60, 9)]
    decision = await ask(Server({"result": {"allow": True, "obligations": [*seconds, {"type": "step-up"}]}}))
    assert decision.obliges("shorten_lifetime").parameters == {"seconds": 9}
    assert decision.obliges("step-up")


@pytest.mark.promise("pdp-clear-permit")
async def test_an_approval_does_not_hold_under_another_bundle(ask: Callable[..., Any]) -> None:
    def under(revision: str) -> dict[str, Any]:
        bundles = {"shop": {"revision": revision}}
        return {"result": {"allow": True}, "provenance": {"bundles": bundles}}

    one, again, other = [await ask(Server(under(revision))) for revision in ("r1", "r1", "r2")]
    assert one.policy_version == again.policy_version != other.policy_version


def test_the_question_says_where_the_arguments_came_from_and_not_what_the_user_said() -> None:
    server = Server({"result": {"allow": True}})
    request = sample_request(provenance={"order_id": Provenance(sources=frozenset({"user"}), trusted=True)})
    policy(server).decide(request)
    question = server.input()
    assert question["resource"]["properties"] == {"order_id": "4711", "amount": 30}
    origins = question["context"]["provenance"]["args"]
    assert (origins["order_id"]["sources"], origins["order_id"]["trusted"]) == (["user"], True)
    assert origins["amount"]["trusted"] is False
    assert "words" not in question["context"]["task"]


@pytest.mark.parametrize("path", ["", "/a", "a/", "a/../b", "a b", "a?b", "a//b"])
def test_a_path_that_could_be_another_document_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError):
        Opa(URL, version="1", path=path)


@pytest.mark.parametrize("url", ["http://opa.example", "https://user:pw@opa.example", "ftp://127.0.0.1"])
def test_an_open_line_is_refused_at_start(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Opa(url, version="1")


async def test_who_finds_no_place_in_time_is_denied(ask: Callable[..., Any]) -> None:
    with pytest.raises(OpaError, match="too many"):
        await ask(Server({"result": {"allow": True}}), limit=0, timeout=0.05)


# --- one user's arguments and another user's calls


def refund(subject: str, **arguments: Any) -> AccessRequest:
    who = Identity(subject=subject, actor="spiffe://example.test/agent")
    return sample_request(identity=who, arguments=Arguments.of(arguments))


def policies(handle: Callable[[httpx.Request], Any]) -> tuple[Opa, AuthZen]:
    """Return both kinds of remote policy, over a transport in which *handle* answers each question."""

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/.well-known"):
            endpoint = f"{URL}/access/v1/evaluation"
            return httpx.Response(
                200, json={"policy_decision_point": URL, "access_evaluation_endpoint": endpoint}
            )
        answer: httpx.Response = handle(request)
        return answer

    transport = httpx.MockTransport(respond)
    options: dict[str, Any] = {"version": "1", "transport": transport, "async_transport": transport}
    return Opa(URL, **options), AuthZen(URL, **options)


PERMIT = {"result": {"allow": True}, "decision": True}


@pytest.mark.promise("arguments-stop-nobody")
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("failure", [httpx.Response(500), httpx.Response(503), httpx.ReadTimeout("slow")])
async def test_an_argument_that_the_pdp_fails_on_denies_no_other_user(
    failure: httpx.Response | Exception, asynchronous: bool
) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if b"poison" not in request.content:
            return httpx.Response(200, json=PERMIT)
        if isinstance(failure, Exception):
            raise failure
        return httpx.Response(failure.status_code)

    for remote in policies(handle):
        port = AwaitedPort(remote, asynchronous=asynchronous)
        for _ in range(6):
            with pytest.raises(AgentGuardError):
                await port.decide(refund("user:eve", order_id="poison"))
        assert (await port.decide(refund("user:ada", order_id="4711"))).permitted


@pytest.mark.promise("arguments-stop-nobody")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_arguments_that_are_too_long_for_a_question_are_not_sent(asynchronous: bool) -> None:
    questions: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        questions.append(len(request.content))
        return httpx.Response(200, json=PERMIT)

    for remote in policies(handle):
        port = AwaitedPort(remote, asynchronous=asynchronous)
        for _ in range(6):
            with pytest.raises(AgentGuardError, match="more than 1048576 bytes"):
                await port.decide(refund("user:eve", order_id="x" * 2_000_000))
        assert not questions
        assert (await port.decide(refund("user:eve", order_id="4711"))).permitted
        questions.clear()


@pytest.mark.promise("arguments-stop-nobody")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_questions_of_one_user_that_hang_take_no_place_of_another(asynchronous: bool) -> None:
    released = Event()

    def hang(request: httpx.Request) -> httpx.Response:
        if b"poison" in request.content:
            released.wait(5)
        return httpx.Response(200, json=PERMIT)

    async def ahang(request: httpx.Request) -> httpx.Response:
        if b"poison" in request.content:
            await asyncio.sleep(0.5)
        return httpx.Response(200, json=PERMIT)

    remote = Opa(
        URL,
        version="1",
        limit=2,
        transport=httpx.MockTransport(hang),
        async_transport=httpx.MockTransport(ahang),
    )
    port = AwaitedPort(remote, asynchronous=asynchronous)
    poison = refund("user:eve", order_id="poison")
    with ThreadPoolExecutor(2) as pool:
        if asynchronous:
            hanging = [asyncio.create_task(port.decide(poison)) for _ in range(2)]
            await asyncio.sleep(0.05)
        else:
            threads = [pool.submit(remote.decide, poison) for _ in range(2)]
            await asyncio.sleep(0.05)
        began = time.monotonic()
        assert (await port.decide(refund("user:ada", order_id="4711"))).permitted
        assert time.monotonic() - began < 0.4
        released.set()
        for decision in await asyncio.gather(*hanging) if asynchronous else [t.result() for t in threads]:
            assert decision.permitted


@pytest.mark.promise("spans-encodable")
@pytest.mark.parametrize("field", ["reason", "advice", "policies"])
async def test_half_a_character_in_an_answer_reaches_nobody(ask: Callable[..., Any], field: str) -> None:
    """A rule that echoes an argument suffices for one in what the model and the audit log are told."""
    text = rb'["a\ud800b"]' if field == "policies" else rb'"a\ud800b"'
    content = b'{"result": {"allow": false, "%s": %s}}' % (field.encode(), text)
    headers = {"content-type": "application/json"}
    decision: Decision = await ask(lambda _request: httpx.Response(200, content=content, headers=headers))
    for value in (decision.reason, decision.advice, *decision.policy_ids):
        value.encode()
    assert "a?b" in (decision.reason, decision.advice, *decision.policy_ids)
