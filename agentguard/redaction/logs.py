"""Keeping live secrets out of the log, whoever writes to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from agentguard.redaction.graph import REDACTED, redact

__all__ = ["LogFilter", "install_log_redaction"]

Secrets = Callable[[], Sequence[str]]


def install_log_redaction(secrets: Secrets) -> None:
    """Remove *secrets* from each log record of this program: message, arguments, exception, stack.

    *secrets* is called for each record, in the context that logs, and returns those that are live
    there; when there are none, nothing else is done. Installing the same function again does nothing.
    It does not see ``extra={...}``, which logging adds later: a `LogFilter` on the handler does.
    """
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _RecordFactory):
        factory = _RecordFactory(factory)
        logging.setLogRecordFactory(factory)
    factory.add(secrets)


class LogFilter(logging.Filter):
    """Removes live secrets from all of a record, ``extra`` too; for handlers that write that out."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record, and let it pass."""
        _clean(record, (self._secrets,))
        return True


class _RecordFactory:
    """Makes records by the factory that was there before, and cleans them."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._sources: tuple[Secrets, ...] = ()

    def add(self, secrets: Secrets) -> None:
        if secrets not in self._sources:
            self._sources = (*self._sources, secrets)

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        _clean(record, self._sources)
        return record


def _clean(record: logging.LogRecord, sources: Sequence[Secrets]) -> None:
    try:
        live = [secret for source in sources for secret in source()]
        if live:
            _rewrite(record, live)
    except Exception:  # noqa: BLE001  logging must not fail, and what cannot be cleaned is not logged
        record.msg, record.args = REDACTED, ()
        record.exc_info = record.exc_text = record.stack_info = None


def _rewrite(record: logging.LogRecord, secrets: Sequence[str]) -> None:
    if record.exc_info:
        # as text: an exception is still in use here, and its frames hold what a handler could print
        record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    record.msg = _text(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(_text(argument) for argument in record.args)
    parts = vars(record)
    for name, value in list(parts.items()):
        parts[name] = redact(value, secrets)
    message = record.getMessage()
    clean = redact(message, secrets)
    if clean is not message:
        record.msg, record.args = clean, ()


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, BaseException) else value
