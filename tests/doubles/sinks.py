"""Everything that looks at a run from outside, and keeps all that it is given as text."""

from __future__ import annotations

import copy
import gzip
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import zstandard
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langsmith import Client
from langsmith.schemas import LangSmithInfo
from rich.traceback import Traceback

__all__ = [
    "LogSink",
    "Recorder",
    "Server",
    "Tracer",
    "drawn",
    "langsmith_client",
    "serving",
    "shown",
    "spelled",
]


class Server(ThreadingHTTPServer):
    """A real server on loopback that keeps what it receives, and echoes the Authorization it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        self.received: list[str] = []
        super().__init__(("127.0.0.1", 0), _Respond)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Respond(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self.headers.get("Content-Encoding"):
            case "zstd":
                body = zstandard.ZstdDecompressor().stream_reader(body).read()
            case "gzip":
                body = gzip.decompress(body)
        self.server.received.append(f"{self.path} {self.headers}\n{body.decode(errors='replace')}")
        echoed = self.headers.get("Authorization", "none")
        self.send_response(200)
        self.send_header("X-Echo", echoed)
        self.send_header("Content-Length", str(len(echoed)))
        self.end_headers()
        self.wfile.write(echoed.encode())

    do_POST = do_PATCH = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on the terminal."""


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server for the length of a block."""
    server = Server()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def langsmith_client(server: Server) -> Client:
    """Make the real client, which sends its runs to *server*."""
    return Client(
        api_url=server.origin,
        api_key="no-key",
        timeout_ms=5_000,
        info=LangSmithInfo(),  # the defaults, without asking for them
    )


class Recorder(BaseCallbackHandler):
    """A handler that keeps all that it is given, of every event that there is."""

    raise_error = run_inline = True

    def __init__(self) -> None:
        self.events: list[str] = []
        self.kept: list[str] = []

    def __repr__(self) -> str:
        return "<Recorder>"


def _recording(name: str) -> Any:
    def record(self: Recorder, *args: Any, **kwargs: Any) -> None:
        self.events.append(name)
        self.kept += [spelled(value) for value in (*args, *kwargs.values())]

    return record


for _name in dir(BaseCallbackHandler):
    if _name.startswith("on_"):
        setattr(Recorder, _name, _recording(_name))


class Tracer(BaseTracer):
    """A tracer that keeps each run tree when it ends."""

    raise_error = True

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[str] = []

    def _persist_run(self, run: Run) -> None:
        self.kept.append(_tree(run))

    def __repr__(self) -> str:
        return "<Tracer>"


def _tree(run: Run) -> str:
    relatives = {"child_runs", "parent_run"}
    text = spelled({name: value for name, value in vars(run).items() if name not in relatives})
    return "\n".join([text, *map(_tree, run.child_runs)])


class LogSink(logging.Handler):
    """A handler that keeps the text of each record, the record itself, and captures locals."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept += [self.format(record), spelled(vars(record))]
        if record.exc_info and record.exc_info[1]:
            self.kept.append(spelled(record.exc_info[1]))

    def __repr__(self) -> str:
        return "<LogSink>"


def spelled(value: Any) -> str:
    """Write out a value as far as a curious program would; an exception with the locals of its frames."""
    texts = [repr(value), str(value)]
    if isinstance(value, BaseException):
        texts += traceback.TracebackException.from_exception(value, capture_locals=True).format()
    return "\n".join(texts)


def drawn(error: BaseException) -> str:
    """Return what rich would draw of an exception with locals; highlighting it takes twenty seconds."""
    limits: Any = {"locals_max_string": None, "locals_max_length": 50, "locals_max_depth": 4}
    return repr(Traceback.extract(type(error), error, error.__traceback__, show_locals=True, **limits))


def shown(value: Any) -> Iterator[str]:
    """Write a value in every way that Python has; what refuses says why, and that is searched too."""
    ways: list[Callable[[Any], Any]] = [
        repr, str, format, ascii, json.dumps, lambda v: json.dumps(v, default=repr),
        lambda v: json.dumps(v, default=vars), pickle.dumps, copy.copy, copy.deepcopy, dumps,
        lambda v: v.model_dump(), lambda v: v.model_dump_json(), lambda v: v.to_json(),
        lambda v: list(getattr(v, "__dict__", {}).items()),
    ]  # fmt: skip
    for write in ways:
        try:
            yield repr(write(value))
        except Exception as error:  # noqa: BLE001  many of them refuse, which is one way to leak nothing
            yield repr(error)
