"""An HTTP endpoint as the source of a fact."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from langchain_core.tools import StructuredTool

import agentguard
from agentguard import Guard, Resource, ToolPath
from agentguard.catalog import Catalog
from agentguard.errors import ConfigurationError, FactError, IssueError
from agentguard.facts import HttpFact, type_of
from agentguard.model import FactSpec, FactType, ToolSpec
from agentguard.testing import FactContract, sample_request
from agentguard.testing.facts import STRANGE
from tests.conftest import Kit, Mode, classified

URL = "https://orders.example/v1/orders/{order_id}?view=rules"
ORDERS = Resource(name="orders", origins=("https://orders.example",))
TYPE = type_of({"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]})
ORDER = FactSpec(
    name="order",
    keys={"refund_order": ("order_id",)},
    type=FactType(TYPE),
    credential="orders",
    scopes=frozenset({"orders:read"}),
    timeout=5.0,
)
REFUND = ToolSpec(name="refund_order", path=ToolPath.WRITE)
Respond = Callable[[httpx.Request], httpx.Response]


def service(requests: list[httpx.Request] | None = None) -> Respond:
    """Return an API that knows order 4711."""

    def respond(request: httpx.Request) -> httpx.Response:
        if requests is not None:
            requests.append(request)
        if request.url.raw_path == b"/v1/orders/4711?view=rules":
            return httpx.Response(200, json={"status": "pending"})
        return httpx.Response(404)

    return respond


def fact(respond: Respond, url: str = URL, **options: Any) -> HttpFact:
    transport = httpx.MockTransport(respond)
    return HttpFact(url, ["order_id"], transport=transport, async_transport=transport, **options)


class TestAnEndpoint(FactContract):
    def make(self) -> HttpFact:
        return fact(service())


@pytest.mark.promise("a-key-of-a-fact-is-only-a-value")
@pytest.mark.parametrize(
    "key", [*STRANGE, ".", "..", "", "a/b", "http://evil.example/", "@evil.example", "ü", 7]
)
async def test_a_key_is_one_encoded_part_of_the_url_whatever_it_holds(mode: Mode, key: Any) -> None:
    requests: list[httpx.Request] = []
    source = fact(service(requests))
    try:
        assert await mode.call(source, "read", sample_request(), (key,)) is None
    except FactError:
        assert not requests
        return
    (request,) = requests
    assert (request.url.scheme, request.url.host, request.url.query) == (
        "https",
        "orders.example",
        b"view=rules",
    )
    path = request.url.raw_path.partition(b"?")[0].decode()
    assert path.count("/") == 3
    assert unquote(path.removeprefix("/v1/orders/")) == str(key)


@pytest.mark.parametrize(
    "url",
    [
        "http://orders.example/{order_id}",
        "ftp://orders.example/{order_id}",
        "https://{order_id}.example/",
        "https://user@orders.example/{order_id}",
        "https://orders.example/{id}",
        "https://orders.example/",
        "https://orders.example/{order_id}#{order_id}",
        "{order_id}",
    ],
)
def test_a_template_that_could_lead_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        fact(service(), url)


JSON = {"Content-Type": "application/json"}
ANSWERS: dict[str, tuple[httpx.Response, str]] = {
    "redirect": (httpx.Response(302, headers={"Location": "https://evil.example/"}), "answered 302"),
    "forbidden": (httpx.Response(403), "answered 403"),
    "not JSON": (
        httpx.Response(200, text="s3cret", headers={"Content-Type": "application/json"}),
        "not JSON",
    ),
    "a page": (httpx.Response(200, html="<p>s3cret</p>"), "content type"),
    "two values of a name": (
        httpx.Response(200, content=b'{"a": 1, "a": 2}', headers=JSON),
        "not JSON",
    ),
    "too long": (httpx.Response(200, json={"status": "s3cret" * 20_000}), "no answer"),
}


@pytest.mark.promise("a-fact-that-is-not-known-denies")
@pytest.mark.parametrize("case", ANSWERS)
async def test_an_answer_that_does_not_count_is_no_record(mode: Mode, case: str) -> None:
    response, problem = ANSWERS[case]
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)

    with pytest.raises(FactError, match=problem) as caught:
        await mode.call(fact(respond), "read", sample_request(), ("4711",))
    assert "s3cret" not in str(caught.value)
    assert all(request.url.host == "orders.example" for request in requests)


# --- with the credential of the READ path


def guard_of(kit: Kit, source: HttpFact, resource: Resource = ORDERS, **changes: Any) -> Guard:
    guard = kit.another(catalog=Catalog([REFUND], [resource]), **changes)
    guard.add_fact(ORDER, source)
    return guard


async def decide(mode: Mode, guard: Guard) -> Any:
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        return await mode.call(guard, "decide", "refund_order", {"order_id": "4711"})


@pytest.mark.promise("a-fact-is-read-with-a-credential-of-its-own")
async def test_a_record_is_read_with_a_read_credential_that_dies_with_the_reading(
    kit: Kit, mode: Mode
) -> None:
    requests: list[httpx.Request] = []
    decision = await decide(mode, guard_of(kit, fact(service(requests))))
    assert decision.permitted
    assert kit.rule.asked[-1].facts["order"] == {"status": "pending"}
    (grant,) = kit.broker.issued
    assert (grant.path, grant.resource, grant.scopes) == (ToolPath.READ, ORDERS, frozenset({"orders:read"}))
    assert (grant.tool, grant.identity.subject) == ("fact:order", "alice")
    assert [request.headers["authorization"] for request in requests] == ["Bearer test-secret-1"]
    assert not kit.broker.live
    records = list(kit.audit.records())
    assert [(record["event"], record["tool"]) for record in records[:2]] == [
        ("decision", "fact:order"),
        ("outcome", "fact:order"),
    ]
    assert "test-secret-1" not in json.dumps(records)


@pytest.mark.promise("a-fact-is-read-with-a-credential-of-its-own")
async def test_a_credential_goes_to_no_other_origin_than_those_of_its_resource(kit: Kit, mode: Mode) -> None:
    requests: list[httpx.Request] = []
    elsewhere = replace(ORDERS, origins=("https://orders.example:8443", "https://other.example"))
    decision = await decide(mode, guard_of(kit, fact(service(requests)), elsewhere))
    assert decision.reason == "no_fact: fact order: its url is at none of the origins of orders"
    assert not requests
    assert not kit.broker.live


@pytest.mark.promise("a-fact-is-read-with-a-credential-of-its-own")
@pytest.mark.parametrize("status", [500, 302])
async def test_a_reading_that_fails_leaves_no_credential(kit: Kit, mode: Mode, status: int) -> None:
    decision = await decide(mode, guard_of(kit, fact(lambda _request: httpx.Response(status))))
    assert (
        decision.reason
        == f"no_fact: fact order: {'its service' if status == 302 else 'fact:'} answered {status}"
    )
    assert len(kit.broker.revoked) == 1


async def test_without_a_credential_or_the_rights_nothing_is_asked(kit: Kit, mode: Mode) -> None:
    requests: list[httpx.Request] = []
    rightless = guard_of(kit, fact(service(requests)), entitlements={"bob": {"orders": ["orders:read"]}})
    assert (await decide(mode, rightless)).reason.startswith(
        "no_fact: fact order: its credential is denied: no_rights"
    )
    kit.broker.issue_error = IssueError("s3cret")
    decision = await decide(mode, guard_of(kit, fact(service(requests))))
    assert decision.reason.startswith("no_fact: fact order: its credential is denied: no_credential")
    assert not requests


async def test_a_nonce_that_the_service_asks_for_is_sent_once(mode: Mode) -> None:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(401, headers={"DPoP-Nonce": "n"})

    with pytest.raises(FactError, match="answered 401"):
        await mode.call(fact(respond), "read", sample_request(), ("4711",))
    assert len(requests) == 2


async def test_a_function_of_the_application_has_the_credential_too(kit: Kit, mode: Mode) -> None:
    def order(order_id: str) -> Any:
        agentguard.credential("orders").headers("GET", "https://orders.example/4711")
        return {"status": order_id}

    guard = kit.another(catalog=Catalog([REFUND], [ORDERS]))
    guard.fact(tools={"refund_order": "order_id"}, type=TYPE, credential="orders")(order)
    assert (await decide(mode, guard)).permitted
    assert kit.rule.asked[-1].facts["order"] == {"status": "4711"}
    assert not kit.broker.live


@pytest.mark.promise("a-fact-is-read-with-a-credential-of-its-own")
async def test_a_fact_without_a_credential_is_read_without_that_of_the_tool_around_it(
    kit: Kit, mode: Mode
) -> None:
    requests: list[httpx.Request] = []
    guard = kit.another(catalog=Catalog([REFUND], [ORDERS]))
    guard.add_fact(replace(ORDER, credential=None, scopes=frozenset()), fact(service(requests)))
    asked: list[Any] = []

    def decide_inside() -> str:
        """Ask for a decision while a credential is there."""
        asked.append(guard.decide("refund_order", {"order_id": "4711"}))
        assert agentguard.credential("orders").reveal()
        return "asked"

    async def adecide_inside() -> str:
        asked.append(await guard.adecide("refund_order", {"order_id": "4711"}))
        assert agentguard.credential("orders").reveal()
        return "asked"

    outer = StructuredTool.from_function(decide_inside, adecide_inside)
    (wrapped,) = guard.wrap(classified(outer, path="write", resource="orders"))
    with guard.task("test", subject="alice", mandate={"tools": "*"}):
        assert await mode.invoke(wrapped, {}) == "asked"
    assert asked[0].permitted, asked[0].reason
    assert [request.headers.get("authorization") for request in requests] == [None]
