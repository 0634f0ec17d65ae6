"""What cannot be looked into is not passed on, and what a tool logs from its own threads is cleared."""

from __future__ import annotations

import array
import asyncio
import contextvars
import functools
import logging
import re
import sqlite3
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from io import BytesIO, StringIO
from typing import Any

import pytest
from langchain_core.tools import StructuredTool

from agentguard import credential
from agentguard.redaction import LogFilter, redact
from tests.conftest import Kit, Mode, classified, tool_call

SECRET = "test-secret-1"


def element() -> ET.Element:
    parent = ET.Element("request")
    ET.SubElement(parent, "header").text = f"Bearer {SECRET}"
    return parent


class Marked(ET.Element):
    """An extension type with attributes of its own."""


def marked() -> ET.Element:
    element = Marked("request")
    element.text = SECRET
    return element


def row() -> sqlite3.Row:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    sqlite_row: sqlite3.Row = connection.execute("SELECT ?", (SECRET,)).fetchone()
    connection.close()
    return sqlite_row


class Color(Enum):
    RED = "red"


class Api:
    def __init__(self, token: str) -> None:
        self.token = token

    def fetch(self) -> None:
        """Fetch nothing."""


def with_default() -> Any:
    def function(token: str = SECRET) -> str:
        return token

    return function


def finished() -> Future[Any]:
    future = Future[Any]()
    future.set_result({"token": SECRET})
    return future


def failed() -> Future[Any]:
    future = Future[Any]()
    future.set_exception(ValueError(f"Bearer {SECRET}"))
    return future


def answered() -> Any:
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_result([SECRET])
    loop.close()
    return future


def done_task() -> Any:
    async def fetch() -> str:
        return SECRET

    def run() -> Any:
        with asyncio.Runner() as runner:
            task = runner.get_loop().create_task(fetch())
            runner.get_loop().run_until_complete(task)
            return task

    with ThreadPoolExecutor(1) as pool:  # where no other loop runs
        return pool.submit(run).result()


def called_back() -> Future[Any]:
    future = Future[Any]()
    future.add_done_callback(functools.partial(print, SECRET))
    return future


class Work(threading.Thread):
    def __init__(self) -> None:
        super().__init__()
        self.token = SECRET


def context() -> contextvars.Context:
    TOKEN.set(SECRET)
    return contextvars.copy_context()


TOKEN = contextvars.ContextVar[Any]("token", default=None)
HIDING: list[Callable[[], Any]] = [
    element,
    marked,
    row,
    lambda: iter([SECRET]),
    lambda: iter({"a": SECRET}.items()),
    lambda: reversed([SECRET]),
    lambda: zip([SECRET], strict=True),
    lambda: (text for text in [SECRET]),
    lambda: functools.partial(print, SECRET),
    lambda: BytesIO(SECRET.encode()),
    lambda: StringIO(SECRET),
    lambda: Enum("Setting", {"token": SECRET}).token,  # type: ignore[attr-defined]  # its member
    lambda: Api(SECRET).fetch,
    with_default,
    lambda: SECRET.upper().lower().encode().decode().strip,
    lambda: array.array("u", SECRET),
    lambda: array.array("B", SECRET.encode()),
    lambda: {SECRET: 1}.keys(),
    lambda: {"a": [SECRET]}.values(),
    finished,
    failed,
    answered,
    done_task,
    called_back,
    lambda: threading.Thread(target=print, args=(SECRET,)),
    lambda: threading.Thread(target=print, kwargs={"end": [SECRET]}),
    lambda: threading.Timer(1, print, [SECRET]),
    Work,
    lambda: contextvars.ContextVar("var", default=SECRET),
    lambda: contextvars.ContextVar("var", default=("a", (SECRET,))),
    lambda: contextvars.Context().run(context),
]


@pytest.mark.promise("hidden-state-not-passed")
@pytest.mark.parametrize("make", HIDING)
def test_what_an_extension_type_hides_is_not_passed_on(make: Callable[[], Any]) -> None:
    (text,) = redact([make()], [SECRET])
    assert is_stand_in(text)
    assert redact({"a": ("b", make())}, [SECRET]) == {"a": ("b", text)}


def is_stand_in(text: object) -> bool:
    return text == "[redacted]" or bool(
        re.fullmatch(r"\[withheld: a secret in \S+ would not be seen\]", str(text))
    )


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(), re.compile("a"), range(3), iter([1]), functools.partial(print, 1), object(),
        array.array("d", [1.0] * 20_000), {"a": 1}.keys(), {"a": 1}.items(), Api("x").fetch, print,
        Color.RED,
        Future(), threading.Thread(target=print, args=(1,)), threading.current_thread(),
        contextvars.ContextVar("var", default="x"), contextvars.Context(), ThreadPoolExecutor(1),
        StringIO("a"), type("N", (int,), {})(3), threading.Condition(), ET.Element("a"),
    ],
)  # fmt: skip
def test_what_holds_no_secret_stays_the_same_object(value: Any) -> None:
    assert redact([value], [SECRET])[0] is value


def test_a_future_of_more_than_can_be_looked_through_is_not_passed_on() -> None:
    future = Future[Any]()
    future.set_result([[n] for n in range(1_100_000)])
    assert redact([future], [SECRET]) == [
        "[withheld: a secret in concurrent.futures._base.Future would not be seen]"
    ]


def test_a_large_array_of_numbers_stays_the_same_object() -> None:
    numpy = pytest.importorskip("numpy")
    picture = numpy.zeros((480, 640, 3), numpy.uint8)
    assert redact(("a picture", picture), [SECRET])[1] is picture
    for hiding in (
        numpy.array([SECRET]),
        numpy.array([SECRET], dtype=object),
        numpy.array([SECRET.encode()]),
    ):
        assert redact([hiding], [SECRET]) == ["[redacted]"]


@pytest.mark.promise("hidden-state-not-passed")
@pytest.mark.parametrize("make", HIDING)
async def test_no_artifact_hides_a_secret(mode: Mode, kit: Kit, task: Any, make: Callable[[], Any]) -> None:
    tool = StructuredTool.from_function(
        lambda: ("ok", make()), name="read", description="d", response_format="content_and_artifact"
    )
    guarded = kit.wrap(classified(tool))
    answer = await mode.invoke(guarded, tool_call("read"))
    assert answer.text == "ok"
    assert is_stand_in(answer.artifact)


class Picture:
    """What holds its pixels in an object that cannot be looked into."""

    def __init__(self, name: str = "a", pixels: Any = None) -> None:
        self.name = name
        self.pixels = row() if pixels is None else pixels

    @property
    def first(self) -> Any:
        return self.pixels[0]


class SlottedPicture:
    __slots__ = ("pixels",)

    def __init__(self) -> None:
        self.pixels = row()


class ListedPicture(list[Any]):
    """A list whose attribute cannot be looked into."""

    def __init__(self) -> None:
        super().__init__(["a"])
        self.pixels = row()


@dataclass
class Album:
    pictures: list[Any]


def pil_picture() -> Any:
    return pytest.importorskip("PIL.Image").new("RGB", (20, 20))


PICTURES: list[Callable[[], Any]] = [Picture, SlottedPicture, ListedPicture, pil_picture]


@pytest.mark.promise("hidden-state-not-passed")
@pytest.mark.parametrize("make", PICTURES)
async def test_what_has_an_attribute_that_cannot_be_looked_into_is_withheld_whole_and_this_is_said(
    mode: Mode, kit: Kit, task: Any, make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    tool = StructuredTool.from_function(
        lambda: ("ok", Album([make(), "b"])),
        name="read",
        description="d",
        response_format="content_and_artifact",
    )
    answer = await mode.invoke(kit.wrap(classified(tool)), tool_call("read"))
    kind = type(make())
    name = f"{kind.__module__}.{kind.__qualname__}"
    assert type(answer.artifact) is Album
    assert answer.artifact.pictures == [f"[withheld: a secret in {name} would not be seen]", "b"]
    (record,) = [record for record in caplog.records if "withheld" in record.getMessage()]
    assert (record.levelno, record.getMessage().rpartition(" ")[2]) == (logging.WARNING, name)


@pytest.mark.promise("hidden-state-not-passed")
async def test_a_picture_as_the_result_itself_is_withheld_and_the_model_is_told(
    mode: Mode, kit: Kit, task: Any
) -> None:
    tool = StructuredTool.from_function(Picture, name="read", description="d", args_schema={})
    answer = await mode.invoke(kit.wrap(classified(tool)), tool_call("read"))
    assert answer.text == f"[withheld: a secret in {__name__}.Picture would not be seen]"


def test_a_picture_whose_pixels_can_be_looked_into_is_passed_on() -> None:
    picture = Picture(pixels=[1, 2])
    assert redact([picture], [SECRET])[0] is picture
    assert redact([Picture(pixels=[SECRET])], [SECRET])[0].first == "[redacted]"


@pytest.mark.promise("own-threads-cleared")
async def test_a_log_line_of_a_tools_own_thread_holds_no_secret(
    mode: Mode, kit: Kit, task: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log, pool = logging.getLogger("app"), ThreadPoolExecutor(1)
    pool.submit(int).result()  # its thread is there before the call

    def read() -> str:
        secret = credential().reveal()
        pool.submit(log.info, "pool %s", secret).result()
        thread = threading.Thread(target=log.info, args=("thread %s", secret))
        thread.start()
        thread.join()
        return "ok"

    guarded = kit.wrap(classified(StructuredTool.from_function(read, name="read", description="d")))
    assert (await mode.invoke(guarded, tool_call("read"))).text == "ok"
    assert [record.getMessage() for record in caplog.records if record.name == "app"] == [
        "pool [redacted]",
        "thread [redacted]",
    ]


@pytest.mark.promise("own-threads-cleared")
async def test_a_tools_own_thread_that_outlives_its_call_logs_no_secret(
    mode: Mode, kit: Kit, task: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log, ended, threads = logging.getLogger("app"), threading.Event(), list[threading.Thread]()
    pools = list[ThreadPoolExecutor]()

    def late(kind: str, secret: str) -> None:
        ended.wait(5)
        log.info("%s %s", kind, secret)
        log.info(f"{kind} in the text {secret}")

    def read() -> str:
        secret = credential().reveal()
        threads.append(threading.Thread(target=late, args=("thread", secret)))
        threads[-1].start()
        pools.append(ThreadPoolExecutor(1))
        pools[-1].submit(late, "pool", secret)
        return "ok"

    guarded = kit.wrap(classified(StructuredTool.from_function(read, name="read", description="d")))
    for call_id in ("c1", "c2"):
        assert (await mode.invoke(guarded, tool_call("read", call_id))).text == "ok"
    assert not kit.broker.live
    ended.set()
    for thread in threads:
        thread.join()
    for pool in pools:
        pool.shutdown()
    messages = [record.getMessage() for record in caplog.records if record.name == "app"]
    assert len(messages) == 8
    assert [message for message in messages if "[redacted]" not in message] == []


async def test_after_its_call_nothing_of_a_secret_is_kept_for_the_log(
    mode: Mode, kit: Kit, task: Any
) -> None:
    from agentguard.lease import live_secrets

    guarded = kit.wrap(classified(StructuredTool.from_function(live_secrets, name="read", description="d")))
    assert SECRET not in (await mode.invoke(guarded, tool_call("read"))).text
    assert live_secrets() == ()


async def test_what_runs_is_not_copied_to_clear_what_refers_to_it() -> None:
    class Held:
        def __init__(self) -> None:
            self.loop, self.task, self.text = asyncio.get_running_loop(), asyncio.current_task(), SECRET

    holder = Held()
    clean = redact(holder, [SECRET])
    assert (clean.text, clean.loop is holder.loop, clean.task is holder.task) == ("[redacted]", True, True)
    record = logging.LogRecord("x", logging.DEBUG, "", 0, "in %r with %s", (holder.loop, SECRET), None)
    LogFilter(lambda: [SECRET]).filter(record)
    assert SECRET not in record.getMessage()
    assert record.args == ()
