"""Remove live secrets from log records, whichever code logs them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agentguard.redaction.graph import redact
from agentguard.redaction.needles import REDACTED

__all__ = ["LogFilter", "install_log_redaction"]

Secrets = Callable[[], Sequence[str]]
SIMPLE = (str, bytes, int, float, type(None))


def install_log_redaction(secrets: Secrets) -> None:
    """Remove *secrets* from each log record of this program: message, arguments, exception, stack.

    *secrets* is called for each record, in the context that logs, and returns the secrets that are live
    there. If there are none, the record is not changed. Installing the same function again does nothing.

    ``extra={...}`` is not redacted, since logging adds it later. A `LogFilter` on the handler redacts it.
    """
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _RecordFactory):
        factory = _RecordFactory(factory)
        logging.setLogRecordFactory(factory)
    factory.add(secrets)


class LogFilter(logging.Filter):
    """Removes live secrets from the whole record, with its ``extra``. Add it to handlers that write that."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the secrets from the record, and return True so that it is logged."""
        _clean(record, (self._secrets,))
        return True


class _RecordFactory:
    """Makes records with the factory that was installed before, and removes the secrets from them."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._sources: tuple[Secrets, ...] = ()

    def add(self, secrets: Secrets) -> None:
        if secrets not in self._sources:
            self._sources = (*self._sources, secrets)

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        if args and args[0] is None and type(record) is logging.LogRecord:
            record.__class__ = _LaterFilled  # `logging.makeLogRecord` makes an empty record and fills it then
            _later_sources[:] = self._sources
        else:
            _clean(record, self._sources)
        return record


_later_sources: list[Secrets] = []


class _LaterFilled(logging.LogRecord):
    """A record that is filled after it was made. The secrets are removed when its message is first read."""

    def getMessage(self) -> str:
        self.__class__ = logging.LogRecord  # type: ignore[assignment]  # it is an ordinary record from here on
        _clean(self, _later_sources)
        return self.getMessage()


def _clean(record: logging.LogRecord, sources: Sequence[Secrets]) -> None:
    try:
        live = [secret for source in sources for secret in source()]
        if live:
            _rewrite(record, live)
    except Exception:  # noqa: BLE001  logging must not fail, and a record that cannot be cleaned is emptied
        record.msg, record.args = REDACTED, ()
        record.exc_info = record.exc_text = record.stack_info = None


def _rewrite(record: logging.LogRecord, secrets: Sequence[str]) -> None:
    if record.exc_info:
        # made text here: the exception is still in use, and a handler could print what its frames hold
        record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    record.msg = _text(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(_text(argument) for argument in record.args)
    if not all(isinstance(argument, SIMPLE) for argument in _arguments(record)):
        # an object is in use, such as a task or an event loop: to clear it would put a copy of it, and of all
        # that it refers to, into the record
        record.msg, record.args = record.getMessage(), ()
    parts = vars(record)
    for name, value in list(parts.items()):
        parts[name] = redact(value, secrets)
    message = record.getMessage()
    clean = redact(message, secrets)
    if clean is not message:
        record.msg, record.args = clean, ()


def _arguments(record: logging.LogRecord) -> Iterable[object]:
    return record.args.values() if isinstance(record.args, Mapping) else record.args or ()


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, BaseException) else value
