"""A PDP beyond this process permits by a clear yes alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from agentguard.errors import ConfigurationError
from agentguard.model import Decision, Secret
from agentguard.policies.authzen import AuthZen, AuthZenError, PdpUsers
from agentguard.testing.contracts import PolicyContract
from agentguard.testing.samples import sample_request
from agentguard.testing.scenarios import AwaitedPort

URL = "https://pdp.example"
Handle = Callable[[httpx.Request], httpx.Response]


class Pdp:
    """Answers what it was told, and remembers what it was asked."""

    def __init__(self, *answers: Any, batch: bool = False, metadata: Any = None) -> None:
        self.answers, self.asked, self.fetched = list(answers), list[httpx.Request](), 0
        self.metadata = metadata or {
            "policy_decision_point": URL,
            "access_evaluation_endpoint": f"{URL}/access/v1/evaluation",
            **({"access_evaluations_endpoint": f"{URL}/access/v1/evaluations"} if batch else {}),
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/.well-known"):
            self.fetched += 1
            return httpx.Response(200, json=self.metadata)
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):  # one response cannot be sent twice
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return httpx.Response(200, json=answer)

    def body(self, number: int = -1) -> Any:
        return json.loads(self.asked[number].content)


def policy(handle: Handle, **options: Any) -> AuthZen:
    transport = httpx.MockTransport(handle)
    options = {"version": "1", "transport": transport, "async_transport": transport, **options}
    return AuthZen(URL, **options)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    async def asked(handle: Handle, **options: Any) -> Any:
        pdp_policy = policy(handle, **options)
        try:
            return await AwaitedPort(pdp_policy, asynchronous=request.param).decide(sample_request())
        finally:
            pdp_policy.close()

    return asked


class TestAuthZen(PolicyContract):
    def make(self) -> AuthZen:
        return policy(Pdp({"decision": True}))


@pytest.mark.promise("pdp-clear-permit")
@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"decision": "true"},
        {"decision": 1},
        {"decision": None},
        {"decision": True, "context": "x"},
        {"decision": True, "context": {"error": {"status": 500}}},
        {"decision": True, "context": {"obligations": {}}},
        {"decision": True, "context": {"obligations": [{"id": "1"}]}},
        {"decision": True, "context": {"obligations": [{"type": "narrow_scopes"}]}},
        httpx.Response(200, content=b'{"decision": false, "decision": true}'),
        httpx.Response(200, content=b"yes"),
        httpx.Response(200, json={"decision": True, "pad": "x" * 70_000}),
        httpx.Response(200, json={"decision": True}, headers={"X-Request-ID": "another"}),
        httpx.Response(400, json={"decision": True}),
        httpx.Response(403, json={"decision": True}),
        httpx.Response(500, json={"decision": True}),
        httpx.Response(302, headers={"Location": "https://evil.example"}, json={"decision": True}),
        httpx.ConnectError("dead"),
        httpx.ReadTimeout("slow"),
    ],
)
async def test_anything_but_a_clear_yes_is_an_error(ask: Callable[..., Any], answer: Any) -> None:
    with pytest.raises(AuthZenError) as raised:
        await ask(Pdp(answer), timeout=0.2)
    assert "4711" not in str(raised.value)


@pytest.mark.promise("pdp-clear-permit")
@pytest.mark.parametrize(
    "change",
    [
        {"policy_decision_point": "https://other.example"},
        {"policy_decision_point": None},
        {"access_evaluation_endpoint": "http://pdp.example/e"},
        {"access_evaluation_endpoint": None},
        {"access_evaluations_endpoint": "http://pdp.example/e"},
    ],
)
async def test_metadata_of_another_pdp_or_of_an_open_line_are_refused(
    ask: Callable[..., Any], change: dict[str, Any]
) -> None:
    pdp = Pdp({"decision": True})
    pdp.metadata |= change
    with pytest.raises(AuthZenError):
        await ask(pdp)
    assert not pdp.asked


async def test_the_question_carries_the_arguments_in_the_resource(ask: Callable[..., Any]) -> None:
    pdp = Pdp({"decision": True})
    decision: Decision = await ask(pdp)
    body = pdp.body()
    assert decision.permitted
    assert decision.policy_ids == (URL,)
    assert not decision.obligations
    assert body["subject"]["id"] == "user:ada"
    assert body["action"] == {"name": "refund_order"}
    assert body["resource"] == {
        "type": "payments", "id": "payments", "properties": {"order_id": "4711", "amount": 30},
    }  # fmt: skip
    assert "approval" not in body["context"]
    assert pdp.asked[0].headers["X-Request-ID"]


async def test_a_pdp_may_have_its_own_ids_and_type_of_users(ask: Callable[..., Any]) -> None:
    pdp = Pdp({"decision": True})
    assert (await ask(pdp, users=PdpUsers("user", "user:{id}"))).permitted
    subject = pdp.body()["subject"]
    assert (subject["type"], subject["id"]) == ("user", "ada")


@pytest.mark.promise("pdp-clear-permit")
@pytest.mark.parametrize("name", ["users:{id}", "user:ada{id}", "user:{id}a!", "{id}@corp.example"])
async def test_a_pdp_is_not_asked_about_a_subject_that_it_has_no_name_for(
    ask: Callable[..., Any], name: str
) -> None:
    pdp = Pdp({"decision": True})
    with pytest.raises(AuthZenError, match="no name for the subject"):
        await ask(pdp, users=PdpUsers("user", name))
    assert not pdp.asked


def test_users_whose_name_has_no_id_in_it_are_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="does not say what users are called"):
        PdpUsers(name="user:{sub}")


@pytest.mark.parametrize("batch", [False, True])
async def test_what_an_approval_would_permit_needs_a_person(ask: Callable[..., Any], batch: bool) -> None:
    no, yes = {"decision": False}, {"decision": True}
    pdp = Pdp({"evaluations": [no, yes]}, batch=True) if batch else Pdp(no, yes)
    decision = await ask(pdp)
    assert decision.permitted
    assert decision.obliges("approve")
    body = pdp.body()
    assert (body["evaluations"][1] if batch else body)["context"]["approval"] == {"approvers": 1}
    assert len(pdp.asked) == (1 if batch else 2)


@pytest.mark.promise("pdp-clear-permit")
@pytest.mark.parametrize("items", [[], [{"decision": False}]])
async def test_a_short_batch_denies_what_is_missing(ask: Callable[..., Any], items: list[Any]) -> None:
    assert not (await ask(Pdp({"evaluations": items}, batch=True))).permitted


@pytest.mark.promise("pdp-clear-permit")
@pytest.mark.parametrize("items", [None, {}, [{"decision": True}] * 3, [{"decision": "true"}], [None]])
async def test_a_batch_that_is_no_answer_is_an_error(ask: Callable[..., Any], items: Any) -> None:
    with pytest.raises(AuthZenError):
        await ask(Pdp({"evaluations": items}, batch=True))


async def test_the_answers_context_becomes_ids_reason_advice_and_obligations(
    ask: Callable[..., Any],
) -> None:
    context = {
        "policy_ids": ["p1"],
        "reason_admin": {"en": "small"},
        "reason_user": {"en": "Go on."},
        "obligations": [
            {"id": "1", "type": "shorten_lifetime", "properties": {"seconds": 60}},
            {"id": "2", "type": "shorten_lifetime", "properties": {"seconds": 9}},
            {"id": "3", "type": "step-up", "properties": {"acr_value": "high"}},
        ],
    }
    decision = await ask(Pdp({"decision": True, "context": context}))
    assert (decision.policy_ids, decision.reason, decision.advice) == (("p1",), "small", "Go on.")
    assert decision.obliges("shorten_lifetime").parameters == {"seconds": 9}
    assert decision.obliges("step-up")


async def test_the_metadata_are_fetched_once() -> None:
    pdp = Pdp({"decision": True})
    pdp_policy = policy(pdp)
    for _ in range(3):
        await pdp_policy.adecide(sample_request())
    assert pdp.fetched == 1


async def test_who_finds_no_place_in_time_is_denied(ask: Callable[..., Any]) -> None:
    with pytest.raises(AuthZenError, match="too many"):
        await ask(Pdp({"decision": True}), limit=0, timeout=0.05)


@pytest.mark.parametrize("url", ["http://pdp.example", "pdp.example", "https://", "ftp://127.0.0.1"])
def test_an_open_line_is_refused_at_start(url: str) -> None:
    with pytest.raises(ConfigurationError):
        AuthZen(url, version="1")


# --- identifiers, metadata and batches


def metadata_at(urls: list[str], metadata: Any, **options: Any) -> AuthZen:
    """Return a policy over a PDP that publishes *metadata*, and permits. Its URLs are put in *urls*."""

    def handle(request: httpx.Request) -> httpx.Response:
        urls.append(str(request.url))
        if "/.well-known/" in request.url.path:
            return httpx.Response(404) if metadata is None else httpx.Response(200, json=metadata)
        return httpx.Response(200, json={"decision": True})

    transport = httpx.MockTransport(handle)
    return AuthZen(**{"version": "1", "transport": transport, "async_transport": transport, **options})


@pytest.mark.promise("pdp-as-the-standard-says")
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("path", ["", "/", "/tenant", "/tenant/", "/a/b"])
async def test_a_pdp_without_endpoints_is_asked_at_the_default_path_below_its_identifier(
    path: str, published: bool, asynchronous: bool
) -> None:
    urls: list[str] = []
    metadata = {"policy_decision_point": f"{URL}{path}"} if published else None
    port = AwaitedPort(metadata_at(urls, metadata, url=f"{URL}{path}"), asynchronous=asynchronous)
    assert (await port.decide(sample_request())).permitted
    tail = path.rstrip("/")
    assert urls == [
        f"{URL}/.well-known/authzen-configuration{tail}",
        f"{URL}{tail}/access/v1/evaluation",
    ]


@pytest.mark.promise("pdp-as-the-standard-says")
@pytest.mark.parametrize("status", [200, 400, 401, 403, 500, 302])
def test_metadata_that_cannot_be_read_are_not_taken_for_missing(status: int) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status, json={"decision": True}))
    with pytest.raises(AuthZenError):
        AuthZen(URL, version="1", transport=transport).decide(sample_request())


ERROR = {"decision": False, "context": {"error": {"status": 500, "message": "4711"}}}
NO, YES = {"decision": False}, {"decision": True}


@pytest.mark.promise("pdp-as-the-standard-says")
async def test_an_error_in_one_item_of_a_batch_is_that_items(ask: Callable[..., Any]) -> None:
    decision = await ask(Pdp({"evaluations": [YES, ERROR]}, batch=True))
    assert decision.permitted
    assert not decision.obligations
    assert not (await ask(Pdp({"evaluations": [NO, ERROR]}, batch=True))).permitted
    decision = await ask(Pdp({"evaluations": [ERROR, YES]}, batch=True))
    assert decision.permitted
    assert decision.obliges("approve"), "what could not be answered is no permit without a person"


@pytest.mark.promise("pdp-clear-permit")
@pytest.mark.parametrize(
    "items", [[ERROR, NO], [ERROR, ERROR], [ERROR], [{**ERROR, "decision": True}, NO], [YES, {"decision": 1}]]
)
async def test_a_batch_whose_errors_leave_no_permit_is_an_error(
    ask: Callable[..., Any], items: list[Any]
) -> None:
    with pytest.raises(AuthZenError) as raised:
        await ask(Pdp({"evaluations": items}, batch=True))
    assert "4711" not in str(raised.value)


# --- where the endpoints may be


OTHER = "https://eval.pdp.example"


@pytest.mark.promise("pdp-endpoints-at-its-origin")
@pytest.mark.parametrize("name", ["access_evaluation_endpoint", "access_evaluations_endpoint"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "https://elsewhere.example/e", "http://127.0.0.1:2375/containers/create", f"{URL}:8443/e",
        "https://user:4711@pdp.example/e", f"{URL}/e?x=1", f"{URL}/e#y", f"{URL}@elsewhere.example/e",
        f"{URL}.elsewhere.example/e", f"{URL}:99999/e", "http://localhost/e", f"{OTHER}:444/e", 7,
    ],
)  # fmt: skip
async def test_arguments_and_token_go_to_no_other_origin(
    ask: Callable[..., Any], name: str, endpoint: Any
) -> None:
    pdp = Pdp({"decision": True})
    pdp.metadata |= {name: endpoint}
    with pytest.raises(AuthZenError) as raised:
        await ask(pdp, origins=[OTHER], token=StaticSource())
    assert not pdp.asked
    assert "4711" not in str(raised.value)


class StaticSource:
    def read(self) -> Secret:
        return Secret("t0ken")


@pytest.mark.promise("pdp-endpoints-at-its-origin")
@pytest.mark.parametrize("endpoint", [f"{URL}:443/e", "https://PDP.example/e", f"{OTHER}/e"])
async def test_an_endpoint_of_the_pdp_or_of_a_named_origin_is_asked(
    ask: Callable[..., Any], endpoint: str
) -> None:
    pdp = Pdp({"decision": True})
    pdp.metadata |= {"access_evaluation_endpoint": endpoint}
    assert (await ask(pdp, origins=[OTHER])).permitted


@pytest.mark.promise("pdp-endpoints-at-its-origin")
@pytest.mark.parametrize(
    "origin",
    ["http://e.example", "e.example", "https://u:p@e.example", f"{OTHER}/e", f"{OTHER}?x", "https://"],
)
def test_an_origin_with_more_than_a_place_in_it_is_a_mistake(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="more than a place"):
        policy(Pdp({"decision": True}), origins=[origin])


class MovingPdp:
    """A PDP with one live endpoint, which its metadata name, unless they are absent."""

    def __init__(self, status: int = 404) -> None:
        self.live, self.published, self.readable = "/v1", True, True
        self.status, self.fetched = status, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.startswith("/.well-known"):
            status = 200 if request.url.path == self.live else self.status
            return httpx.Response(status, json={"decision": True})
        self.fetched += 1
        if not self.readable:
            return httpx.Response(500)
        metadata = {"policy_decision_point": URL, "access_evaluation_endpoint": f"{URL}{self.live}"}
        return httpx.Response(200, json=metadata) if self.published else httpx.Response(404)


@pytest.mark.promise("pdp-as-the-standard-says")
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("status", [404, 405, 410])
@pytest.mark.parametrize("late", [False, True])
async def test_an_endpoint_that_has_moved_or_was_published_late_is_found(
    asynchronous: bool, status: int, late: bool
) -> None:
    pdp = MovingPdp(status)
    pdp.published = not late
    port = AwaitedPort(policy(pdp), asynchronous=asynchronous)
    if not late:
        assert (await port.decide(sample_request())).permitted
    pdp.live = "/v2"
    with pytest.raises(AuthZenError):
        await port.decide(sample_request())
    pdp.published = True
    assert (await port.decide(sample_request())).permitted


@pytest.mark.promise("pdp-as-the-standard-says")
def test_metadata_are_read_anew_in_time_and_old_ones_serve_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("agentguard.policies.authzen.time", SimpleNamespace(monotonic=lambda: clock.now))
    pdp = MovingPdp()
    pdp_policy = policy(pdp)
    for clock.now, fetched in ((0.0, 1), (299.0, 1), (301.0, 2), (302.0, 2)):
        assert pdp_policy.decide(sample_request()).permitted
        assert pdp.fetched == fetched
    pdp.readable, clock.now = False, 700.0
    assert pdp_policy.decide(sample_request()).permitted
    fetched, clock.now = pdp.fetched, 701.0
    assert fetched > 2
    assert pdp_policy.decide(sample_request()).permitted
    assert pdp.fetched == fetched


@pytest.mark.promise("pdp-clear-permit")
@pytest.mark.parametrize("context", [[], "", 0, False])
async def test_a_context_that_is_no_object_is_no_clear_answer(ask: Callable[..., Any], context: Any) -> None:
    with pytest.raises(AuthZenError):
        await ask(Pdp({"decision": True, "context": context}))
    assert (await ask(Pdp({"decision": True, "context": None}))).permitted


@pytest.mark.promise("spans-encodable")
def test_half_a_character_in_a_reason_reaches_nobody() -> None:
    reasons = rb'{"reason_user": "a\ud800b", "reason_admin": {"en": "c\udfffd"}}'
    headers = {"content-type": "application/json"}

    def answer(request: httpx.Request) -> httpx.Response:
        if "well-known" in request.url.path:
            return httpx.Response(404)
        return httpx.Response(200, content=b'{"decision": false, "context": %s}' % reasons, headers=headers)

    policy = AuthZen("https://pdp.example", version="1", transport=httpx.MockTransport(answer))
    decision = policy.decide(sample_request())
    policy.close()
    assert (decision.reason, decision.advice) == ("c?d", "a?b")
