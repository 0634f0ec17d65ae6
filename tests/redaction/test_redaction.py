"""A tool returns, raises or logs its secret in every way that Python offers. The secret must not come out."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import traceback
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType, MappingProxyType, ModuleType, TracebackType
from typing import Any

import httpx
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.errors import GraphInterrupt
from langgraph.types import Command, Interrupt
from pydantic import BaseModel, ConfigDict, PrivateAttr, SecretStr

from agentguard.redaction import REDACTED, LogFilter, install_log_redaction, redact, redact_exception

SECRET = "eyJhbGciOi.s3cr3t-t0ken.xyz"
LIVE = (SECRET,)
UNSEEN = (type, ModuleType, FunctionType, TracebackType)
Point = namedtuple("Point", "x y")


class Slotted:
    __slots__ = ("__hidden", "shown")

    def __init__(self, hidden: object) -> None:
        self.__hidden = hidden
        self.shown = 1

    def hidden(self) -> object:
        return self.__hidden


class Plain:
    def __init__(self, **parts: object) -> None:
        vars(self).update(parts)


class Loud(str):
    raw: str

    def __contains__(self, other: object) -> bool:
        return False

    def replace(self, *_args: Any) -> Loud:
        return self


@dataclass(frozen=True, slots=True)
class Frozen:
    token: str
    derived: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "derived", f"again {self.token}")


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    token: str
    _private: str = PrivateAttr(default="")


class Outer(BaseModel):
    inner: Inner
    many: list[Inner]


def shows(root: object) -> bool:
    """Return whether the secret can be reached through the references that the garbage collector knows."""
    todo, visited = [root], {id(root): root}
    while todo:
        value = todo.pop()
        text = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value)
        if SECRET in (text if isinstance(text, str) else text.decode()) or SECRET in repr(value):
            return True
        for part in gc.get_referents(value):
            if id(part) not in visited and not isinstance(part, UNSEEN):
                visited[id(part)] = part
                todo.append(part)
    return False


def inner() -> Inner:
    model = Inner(token=SECRET, extra=f"Bearer {SECRET}")  # type: ignore[call-arg]  # an extra field
    model._private = SECRET
    return model


HOLDING: dict[str, Any] = {
    "str": f"Bearer {SECRET}",
    "bytes": SECRET.encode(),
    "bytearray": bytearray(SECRET.encode()),
    "memoryview": memoryview(SECRET.encode()),
    "dict value": {"token": SECRET},
    "dict key": {SECRET: 1},
    "list": ["a", [SECRET]],
    "tuple": ("a", (SECRET,)),
    "namedtuple": Point(1, SECRET),
    "set": {SECRET, "a"},
    "frozenset": frozenset({SECRET}),
    "deque": deque([SECRET], maxlen=3),
    "ordered": OrderedDict(a=1, b=SECRET),
    "default": defaultdict(list, a=[SECRET]),
    "proxy": MappingProxyType({"a": SECRET}),
    "dataclass": Frozen(SECRET),
    "slots": Slotted({"deep": SECRET}),
    "object": Plain(a=Plain(b=SECRET)),
    "model": Outer(inner=inner(), many=[inner()]),
    "pydantic secret": SecretStr(SECRET),
    "tool message": ToolMessage(SECRET, tool_call_id="1", artifact={"raw": SECRET}),
    "ai message": AIMessage(
        content=[{"type": "text", "text": SECRET}],
        tool_calls=[{"name": "t", "args": {"x": SECRET}, "id": "1"}],
        response_metadata={"auth": SECRET},
    ),
    "document": Document(page_content=SECRET, metadata={"source": SECRET}),
    "command": Command(
        update={"messages": [ToolMessage(SECRET, tool_call_id="1")], SECRET: 1}, goto=[SECRET], resume=SECRET
    ),
    "request": httpx.Request("GET", f"https://a.test/?t={SECRET}", headers={"Authorization": SECRET}),
    "exception": ValueError(SECRET),
    "interrupt": GraphInterrupt((Interrupt(value={"token": SECRET}, id="1"),)),
}


@pytest.mark.promise("secret-removed-from-results")
@pytest.mark.parametrize("kind", HOLDING)
def test_no_kind_of_value_carries_the_secret_out(kind: str) -> None:
    value = HOLDING[kind]
    assert shows(value), "the test would prove nothing"
    cleaned = redact(value, LIVE)
    assert not shows(cleaned)
    expected = (bytes, str) if kind == "memoryview" else type(value)
    assert isinstance(cleaned, expected)


@pytest.mark.parametrize(
    "value",
    ["hello", b"hello", {"a": [1, {2}]}, Point(1, 2), Frozen("x"), Slotted("x"), Plain(a=1), object(),
     ToolMessage("ok", tool_call_id="1"), Command(update={"a": 1}), None, 7, iter([1]), OverflowError("x")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_holds_no_secret_is_returned_as_the_same_object(value: object) -> None:
    assert redact(value, LIVE) is value
    assert redact(value, ()) is value
    assert redact(value, ("",)) is value


def test_clean_parts_of_a_dirty_value_are_shared_and_the_original_is_untouched() -> None:
    clean: dict[str, int] = {"a": 1}
    value = {"clean": clean, "dirty": [SECRET]}
    before = copy.deepcopy(value)
    cleaned = redact(value, LIVE)
    assert cleaned == {"clean": clean, "dirty": [REDACTED]}
    assert cleaned["clean"] is clean
    assert value == before


def test_a_subclass_of_str_cannot_hide_the_secret_by_its_own_methods_or_attributes() -> None:
    assert redact(Loud(f"x {SECRET}"), LIVE) == f"x {REDACTED}"
    tagged = Loud("innocent")
    tagged.raw = SECRET
    assert type(redact(tagged, LIVE)) is str
    assert not shows(redact([tagged], LIVE))


def test_a_cycle_ends_and_leads_to_nothing_that_holds_the_secret() -> None:
    value: dict[str, Any] = {"token": SECRET}
    value["self"] = [value]
    thing = Plain(back=value)
    value["thing"] = thing
    cleaned = redact(value, LIVE)
    assert cleaned["self"][0] is cleaned
    assert cleaned["thing"].back is cleaned
    assert not shows(cleaned)
    turn: list[Any] = [SECRET]
    around = (turn,)
    turn.append(around)
    assert not shows(redact(around, LIVE))


def test_a_class_that_resists_is_replaced_as_a_whole() -> None:
    class Stubborn(list):  # type: ignore[type-arg]  # the plain class is meant
        def __new__(cls, *_args: object) -> Stubborn:
            if _args:
                return super().__new__(cls)
            raise RuntimeError("no")

    assert redact([Stubborn([SECRET])], LIVE) == [REDACTED]

    class Opaque(int):
        __slots__ = ()

        def __repr__(self) -> str:
            return SECRET

    assert redact({"a": Opaque(1)}, LIVE) == {"a": REDACTED}


class Worded:
    """Its text shows a secret that is in none of its attributes."""

    def __str__(self) -> str:
        return f"by word {SECRET}"

    __repr__ = __str__


class Mute(Worded):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.promise("secret-removed-from-results")
@pytest.mark.parametrize("value", [Worded(), [Worded()], {"k": (Worded(),)}, type(f"T{SECRET}", (), {})])
def test_what_shows_the_secret_by_its_text_alone_is_replaced_as_a_whole(value: Any) -> None:
    assert SECRET in str(value)
    assert redact(value, LIVE) == REDACTED
    content, artifact = redact(("clean", value), LIVE)
    assert (content, artifact) == ("clean", REDACTED)


def test_what_has_no_text_is_left_as_it_is() -> None:
    mute = Mute()
    assert redact(mute, LIVE) is mute
    pair = ("clean", mute)
    assert redact(pair, LIVE) is pair


def test_the_longer_of_two_secrets_goes_first() -> None:
    assert redact("abcdef", ("abc", "abcdef")) == REDACTED


def test_a_deep_value_neither_overflows_nor_passes() -> None:
    deep: list[Any] = [SECRET]
    for _ in range(50_000):
        deep = [deep]
    cleaned = redact(deep, LIVE)
    for _ in range(1000):
        if cleaned == REDACTED:
            break
        (cleaned,) = cleaned
    assert cleaned == REDACTED


@pytest.mark.exhaustive(0)
def test_a_huge_value_is_bounded_and_what_was_not_seen_does_not_pass() -> None:
    rows: list[Any] = [{} for _ in range(150_000)]
    rows[0] = rows[-1] = {"token": SECRET}
    cleaned = redact({"rows": rows}, LIVE)[
        "rows"
    ]  # of plain data, only what the root itself holds is not walked
    assert not any(SECRET in str(row) for row in (cleaned[0], cleaned[-1]))
    assert "[withheld: a secret in builtins.dict would not be seen]" in cleaned
    assert SECRET not in str(redact(rows, LIVE))


class Telling(Exception):
    def __str__(self) -> str:
        return f"always {SECRET}"


class Detailed(Exception):
    def __init__(self, message: str, token: str) -> None:
        super().__init__(message)
        self.token = token


def raised(error: BaseException) -> BaseException:
    def deeper() -> None:
        token = SECRET  # noqa: F841  a local that a debugger would capture
        raise error

    try:
        deeper()
    except BaseException as caught:  # noqa: BLE001  to have a traceback
        return caught
    raise AssertionError


def printed(error: BaseException) -> str:
    return "".join(
        traceback.TracebackException(type(error), error, error.__traceback__, capture_locals=True).format()
    )


@pytest.mark.promise("secret-removed-from-results")
def test_an_exception_keeps_its_identity_and_loses_the_secret_everywhere() -> None:
    cause = raised(KeyError(SECRET))
    error = raised(Detailed(f"denied for {SECRET}", SECRET))
    error.__cause__ = cause
    error.__context__ = raised(OSError(2, "no", f"a/{SECRET}"))
    error.__suppress_context__ = False
    error.add_note(f"sent {SECRET}")
    assert SECRET in printed(error)
    cleaned = redact_exception(error, LIVE)
    assert cleaned is error
    assert error.__cause__ is cause
    assert not error.__suppress_context__
    assert SECRET not in printed(cleaned)
    assert not shows(cleaned)


@pytest.mark.promise("secret-removed-from-results")
def test_captured_locals_show_nothing_even_where_the_text_was_clean() -> None:
    error = raised(ValueError("clean"))
    assert SECRET in printed(error)
    assert SECRET not in printed(redact_exception(error, LIVE))


def frames(error: BaseException) -> list[str]:
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]


def suspended() -> Iterator[BaseException]:
    """Hold the secret, yield the caught error, and continue after somebody else has raised it."""
    token = SECRET  # noqa: F841  a local that a debugger would capture
    try:
        raise ConnectionError("reset")
    except ConnectionError as caught:
        error = caught
    yield error
    yield ValueError("went on")


@pytest.mark.promise("clearing-errors-harmless")
def test_what_waits_in_the_traceback_of_an_error_goes_on_and_is_not_shown() -> None:
    waiting = suspended()
    error = raised(RuntimeError("no connection"))
    error.__cause__ = next(waiting)
    assert SECRET in printed(error)
    assert SECRET not in printed(redact_exception(error, LIVE))
    assert str(next(waiting)) == "went on"


@pytest.mark.promise("clearing-errors-harmless")
def test_of_a_traceback_all_is_left_but_what_waits() -> None:
    def fails() -> None:
        raise ConnectionError("reset")

    def middle() -> Iterator[BaseException]:
        try:
            fails()
        except ConnectionError as caught:
            yield caught

    waiting = middle()
    error = next(waiting)
    assert frames(error) == ["middle", "fails"]
    redact_exception(raised(error), LIVE)
    assert frames(error) == ["raised", "deeper", "fails"]
    assert next(waiting, None) is None


@pytest.mark.promise("clearing-errors-harmless")
async def test_a_cancelled_coroutine_shows_nothing() -> None:
    async def deeper() -> None:
        token = SECRET  # noqa: F841  a local that a debugger would capture
        await asyncio.sleep(60)

    running = asyncio.ensure_future(deeper())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    assert SECRET in printed(caught.value)
    cleaned = redact_exception(caught.value, LIVE)
    assert SECRET not in printed(cleaned)
    assert "deeper" in printed(cleaned)


def test_an_exception_that_cannot_be_mended_is_replaced_and_named() -> None:
    cleaned = redact_exception(raised(Telling()), LIVE)
    assert type(cleaned) is RuntimeError
    assert "Telling" in str(cleaned)
    assert SECRET not in printed(cleaned)
    outer = ValueError("outer")
    outer.__cause__ = Telling()
    assert redact_exception(outer, LIVE) is outer
    assert SECRET not in printed(outer)


def test_groups_are_cleaned_to_the_last_member() -> None:
    group = ExceptionGroup(
        f"all of {SECRET}", [ValueError(SECRET), ExceptionGroup("inner", [Telling(), KeyError("a")])]
    )
    cleaned = redact_exception(raised(group), LIVE)
    assert isinstance(cleaned, ExceptionGroup)
    assert SECRET not in printed(cleaned)
    assert not shows(cleaned)
    assert cleaned.subgroup(KeyError) is not None


def test_an_http_error_loses_the_header_that_carried_the_credential() -> None:
    request = httpx.Request("GET", "https://a.test", headers={"Authorization": f"DPoP {SECRET}"})
    error = httpx.HTTPStatusError("401", request=request, response=httpx.Response(401, request=request))
    cleaned = redact_exception(raised(error), LIVE)
    assert isinstance(cleaned, httpx.HTTPStatusError)
    assert cleaned.request.headers["Authorization"] == f"DPoP {REDACTED}"
    assert cleaned.response.request.headers["Authorization"] == f"DPoP {REDACTED}"


def test_without_secrets_an_exception_is_left_alone() -> None:
    error = raised(ValueError("x"))
    assert redact_exception(error, ()) is error
    assert "token" in printed(error)


@pytest.fixture
def factory() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)  # a guard of another test may have installed its own
    yield
    logging.setLogRecordFactory(before)


class Live:
    def __init__(self) -> None:
        self.secrets: tuple[str, ...] = LIVE

    def __call__(self) -> tuple[str, ...]:
        return self.secrets


@pytest.mark.promise("secret-removed-from-results")
@pytest.mark.usefixtures("factory")
def test_no_log_record_carries_a_live_secret(caplog: pytest.LogCaptureFixture) -> None:
    live = Live()
    install_log_redaction(live)
    log = logging.getLogger("somebody.else")
    error = raised(ValueError(SECRET))
    with caplog.at_level(logging.DEBUG):
        log.debug("token %s", SECRET)
        log.debug("half %s%s", SECRET[:5], SECRET[5:])
        log.debug("%(a)s", {"a": {"b": SECRET}})
        log.debug(f"now {SECRET}", stack_info=True)
        log.debug("failed: %s", error)
        log.debug("broken %d", SECRET)
        log.error("it failed", exc_info=error)
        log.debug(error)
    assert len(caplog.records) == 8
    for record in caplog.records:
        assert not shows(vars(record))
        assert SECRET not in logging.Formatter().format(record)
    assert "ValueError: [redacted]" in caplog.text
    assert str(error) == SECRET, "logging changes nothing that the program still uses"


@pytest.mark.usefixtures("factory")
def test_installing_twice_wraps_once_and_no_secret_leaves_records_alone() -> None:
    live = Live()
    install_log_redaction(live)
    first = logging.getLogRecordFactory()
    install_log_redaction(live)
    assert logging.getLogRecordFactory() is first
    live.secrets = ()
    arguments = ([SECRET],)
    record = first("n", logging.INFO, "p", 1, "%s", arguments, None)
    assert record.args is arguments


@pytest.mark.usefixtures("factory")
def test_when_the_secrets_cannot_be_told_nothing_is_logged() -> None:
    def broken() -> tuple[str, ...]:
        raise LookupError

    install_log_redaction(broken)
    record = logging.getLogRecordFactory()("n", logging.INFO, "p", 1, SECRET, (), None)
    assert record.getMessage() == REDACTED


def test_the_filter_cleans_extra_fields_too() -> None:
    record = logging.makeLogRecord({"msg": "x", "payload": {"token": SECRET}})
    assert LogFilter(Live()).filter(record)
    assert vars(record)["payload"] == {"token": REDACTED}
