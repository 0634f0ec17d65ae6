"""What travels in an MCP call beside its credential, and how much of an answer is read."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from time import process_time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_mcp_adapters.client import MultiServerMCPClient
from mcp.types import CallToolResult, JSONRPCMessage
from pydantic import ValidationError

from agentguard import Resource
from agentguard.catalog import Catalog
from agentguard.langchain.mcp.http_client import NO_AUTH, CallBounds, client_factory
from agentguard.langchain.mcp.json_structure import JsonStructure
from agentguard.model import ToolPath, ToolSpec
from tests.conftest import Kit, tool_call
from tests.doubles.mcp_server import HostileServer, served

CANARY = "canary-4711"


class _Noting(HostileServer):
    """A server that notes the head of each request."""

    def __init__(self) -> None:
        super().__init__({"type": "object"}, {"x": 1})
        self.heads: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.heads.append((scope["headers"], scope["query_string"]))
        await super().__call__(scope, receive, send)


async def _pay(app: _Noting, way: str, resource: str | None = "api", **more: Any) -> tuple[Kit, Any]:
    kit = Kit()
    with served(app) as server:
        api = Resource(name="api", origins=(server.origin,))
        spec = ToolSpec(
            name="pay", path=ToolPath.WRITE, resource=resource, schema={"type": "object"}, server="shop"
        )
        guard = kit.another(catalog=Catalog([spec], [api]))
        servers: Any = {"shop": {"transport": "streamable_http", "url": f"{server.origin}/mcp", **more}}
        client = MultiServerMCPClient(servers, tool_interceptors=[guard.mcp_interceptor()])
        (tool,) = await client.get_tools()
        app.heads.clear()
        if way == "wrap":
            (tool,) = guard.wrap(tool)
        async with guard.task("pay", subject="alice", mandate={"tools": "*"}):
            try:
                answer = await tool.ainvoke(tool_call("pay"))
            except Exception as error:  # noqa: BLE001  the tool's failure is looked at
                answer = error
    return kit, answer


@pytest.mark.parametrize("way", ["wrap", "interceptor"])
@pytest.mark.promise("body-bounded")
async def test_an_answer_with_too_many_parts_is_not_parsed(way: str) -> None:
    app = _Noting()
    app.result["structuredContent"] = {"rows": [[]] * 200_000}
    kit, answer = await _pay(app, way)
    assert "more than is read" in str(answer)
    assert (len(kit.broker.revoked), kit.outcomes()) == (1, ["failed"])


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (b"x" * 8_000_001, {}),
        (b"," * 100_001, {}),
        (b"{" * 20_001, {"content-type": "text/event-stream"}),
        (gzip.compress(b"{}"), {"content-encoding": "gzip"}),
    ],
    ids=["bytes", "commas", "events", "compressed"],
)
@pytest.mark.promise("body-bounded")
async def test_the_client_of_a_call_reads_no_answer_without_end(body: bytes, head: dict[str, str]) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield body

    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=chunks(), headers=head))
    make = client_factory(lambda auth: httpx.AsyncClient(transport=transport, auth=auth), CallBounds())
    async with make(auth=NO_AUTH) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("https://mcp.example/")


@pytest.mark.promise("mcp-call-bounded")
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_an_answer_in_very_many_parts_is_cut_off_however_short_they_are(kind: str) -> None:
    sent = list[bytes]()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1_000_000):
            sent.append(b"x")
            yield b"x"

    head = {"content-type": kind}
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=chunks(), headers=head))
    make = client_factory(lambda auth: httpx.AsyncClient(transport=transport, auth=auth), CallBounds())
    async with make(auth=NO_AUTH) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="more than is read"):
            await client.get("https://mcp.example/")
    assert 10_000 < len(sent) < 50_000, "an ordinary answer of 8 MB has some hundreds"


@pytest.mark.parametrize("head", [{}, {"content-type": "text/event-stream"}], ids=["json", "events"])
@pytest.mark.parametrize("size", [97, 65_536])
async def test_a_table_that_a_server_sends_as_a_text_is_read(head: dict[str, str], size: int) -> None:
    rows = "\n".join(f'{number},"a [{number}] {{x}}",\\,,,,' for number in range(20_000))
    body = _result(content=[{"type": "text", "text": rows}])
    if head:
        body = b"event: message\ndata: " + body + b"\n\n"
    async with _client([body[at : at + size] for at in range(0, len(body), size)], head) as client:
        assert (await client.get("https://mcp.example/")).content == body


def _client(chunks: list[bytes], head: dict[str, str]) -> httpx.AsyncClient:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=stream(), headers=head))
    make = client_factory(lambda auth: httpx.AsyncClient(transport=transport, auth=auth), CallBounds())
    return make(auth=NO_AUTH)


EVENTS = {"content-type": "text/event-stream"}
MANY = b"[" * 20_001


@pytest.mark.promise("body-bounded")
@pytest.mark.parametrize("size", [1_000, 10_000_000])
@pytest.mark.parametrize(
    ("body", "head"),
    [
        (b'{"a": "\n' + MANY, {}),
        (b'data: {"a": "\n\ndata: ' + MANY, EVENTS),
        (b'event: "\ndata: ' + MANY, EVENTS),
        (b'event: \\\ndata: "", ' + MANY, EVENTS),
        ('data: {"a": "\u2028\u2028data: '.encode() + MANY, EVENTS),
        ('data: {"a": "\u2028", "b": '.encode() + MANY, EVENTS),
        (b'{"a": "\\\\", "b": ' + MANY, {}),
        (b'{"a": "\\"", "b": ' + MANY, {}),
        (b'{"a": "\\\\\\"", "b": ' + MANY, {}),
        (b"data: " + MANY, {"content-type": "application/json; text/event-stream"}),
    ],
)
async def test_a_quotation_mark_hides_no_structure(body: bytes, head: dict[str, str], size: int) -> None:
    async with _client([body[at : at + size] for at in range(0, len(body), size)], head) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("https://mcp.example/")


@pytest.mark.promise("body-bounded")
async def test_events_are_read_as_utf_8_whatever_the_server_says() -> None:
    body = ('data: {"a": ' + "[" * 30_000 + "\n\n").encode("cp037")
    head = {"content-type": "text/event-stream; charset=cp037"}
    async with _client([body], head) as client:
        response = await client.get("https://mcp.example/")
    assert "[" not in response.text


def _outside_of(text: bytes) -> bytes:
    """Take the strings out of a JSON text letter by letter."""
    result, is_inside, is_escaped = bytearray(), False, False
    for byte in text:
        if is_inside and is_escaped:
            is_escaped = False
        elif is_inside and byte == ord("\\"):
            is_escaped = True
        elif byte == ord('"'):
            is_inside = not is_inside
        elif not is_inside:
            result.append(byte)
    return bytes(result)


TEXTS = st.recursive(
    st.text(st.sampled_from('a,[{"\\/\n\u00e9'), max_size=8) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('a,["\\', max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.promise("body-bounded")
@given(TEXTS, st.integers(1, 9), st.booleans())
def test_the_structure_of_each_json_text_is_what_stands_outside_of_its_strings(
    value: Any, size: int, is_ascii: bool
) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    structure = JsonStructure()
    parts = [structure.outside(text[at : at + size]) for at in range(0, len(text), size)]
    assert b"".join(parts).replace(b" ", b"") == _outside_of(text).replace(b" ", b"")


def _result(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [], **members}}).encode()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "make_body",
    [
        lambda: _result(content=[{"type": "text", "text": ""}] * 19_900),
        lambda: _result(content=[{"type": "tex", "t": ""}] * 19_900),
        lambda: _result(content=[1] * 95_000),
        lambda: _result(structuredContent={str(number): 1 for number in range(95_000)}),
        lambda: _result(structuredContent={"rows": [[number] for number in range(19_900)]}),
    ],
    ids=["blocks", "wrong blocks", "wrong values", "keys", "rows"],
)
@pytest.mark.promise("body-bounded")
async def test_an_answer_within_the_bounds_is_parsed_in_bounded_time(make_body: Callable[[], bytes]) -> None:
    body = make_body()
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=body))
    make = client_factory(lambda auth: httpx.AsyncClient(transport=transport, auth=auth), CallBounds())
    async with make(auth=NO_AUTH) as client:
        content = (await client.get("https://mcp.example/")).content
    start = process_time()
    message = JSONRPCMessage.model_validate_json(content)
    with suppress(ValidationError):
        CallToolResult.model_validate(message.root.model_dump()["result"])
    assert process_time() - start < 1.5  # with 99,000 blocks or 600,000 keys it was 2 s


@pytest.mark.promise("body-bounded")
async def test_an_ordinary_answer_is_read_and_the_hooks_of_the_application_run() -> None:
    lengths = list[int]()

    async def note(response: httpx.Response) -> None:
        lengths.append(len(await response.aread()))

    content = json.dumps({"rows": [{"id": number} for number in range(10_000)]}).encode()
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=content))
    make = client_factory(
        lambda auth: httpx.AsyncClient(transport=transport, auth=auth, event_hooks={"response": [note]}),
        CallBounds(),
    )
    async with make(auth=NO_AUTH) as client:
        assert (await client.get("https://mcp.example/")).content == content
    assert lengths == [len(content)]


@pytest.mark.parametrize("resource", ["api", None])
@pytest.mark.promise("mcp-no-foreign-token")
async def test_what_a_connections_factory_puts_into_its_client_does_not_travel(resource: str | None) -> None:
    def factory(**options: Any) -> httpx.AsyncClient:
        options["headers"] = {**(options.get("headers") or {}), "X-Api-Key": CANARY, "Cookie": CANARY}
        return httpx.AsyncClient(**options, cookies={"session": CANARY}, params={"api_key": CANARY})

    app = _Noting()
    _, answer = await _pay(app, "interceptor", resource, httpx_client_factory=factory)
    assert not isinstance(answer, Exception), answer
    assert app.heads
    assert CANARY not in str(app.heads)
