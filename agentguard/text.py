"""Text that others have chosen, made safe to show beside our own: in a terminal, a log, or a comment.

A model names the tool that it calls, a server names its tools, and a user writes the purpose of a task.
With a line break in it, such a text could look like a line of ours, and with a control character it could
hide one.
Importing this module makes every argument of a record of the logger ``agentguard`` printable, and cuts it.
"""

from __future__ import annotations

import logging
import unicodedata

__all__ = ["folded_address", "label", "printable"]

LABEL = 200
"""The most characters of a name that a model, a server or a decision point chose, in a span or a record."""

LINE = 4_000
"""The most characters of one argument of a log record: a longer one would push other lines out of the log."""


def printable(text: object) -> str:
    """Return a text in one line, in which no character moves the cursor, ends a comment, or is invisible."""
    string = str(text)
    if string.isprintable():
        return string
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in string)


def label(value: object, limit: int = LABEL) -> str:
    """Return a printable text of at most *limit* characters, which every encoder of spans and records takes.

    One lone surrogate, which UTF-8 cannot encode, makes an exporter drop the spans of everybody in its batch.
    A model's provider may give any value where a text belongs, such as a number for the id of a call.
    """
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= limit and text.isprintable() else f"{printable(text[:limit]):.{limit}}"


def folded_address(text: str) -> str:
    """Return an email address, or a text that ends in one, in the form in which its spellings are equal.

    Case, the composition of letters, and the form of the domain (Punycode, RFC 3492) do not count. A mail
    server may tell the cases of a mailbox apart (RFC 5321 section 2.4), but hardly one does.
    """
    name, at, domain = unicodedata.normalize("NFKC", text).rpartition("@")
    labels = domain.replace("\u3002", ".").split(".") if at else [domain]
    plain = f"{name}{at}{'.'.join(map(_decoded_label, labels) if at else labels)}"
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).casefold())


def _decoded_label(label: str) -> str:
    if label[:4].casefold() != "xn--":
        return label
    try:
        return label[4:].encode("ascii").decode("punycode")
    except (UnicodeError, ValueError, OverflowError):
        return label


def _make_printable(record: logging.LogRecord) -> bool:
    """Make the arguments of a record printable and short; the template is ours. Return True, to log it."""
    try:
        if isinstance(record.args, tuple):
            record.args = tuple(a if isinstance(a, int | float) else label(a, LINE) for a in record.args)
        else:
            record.msg, record.args = label(record.getMessage(), LINE), ()
    except Exception:  # noqa: BLE001  logging must not fail, whatever the text of an argument raises
        record.msg, record.args = "a record that cannot be shown", ()
    return True


logging.getLogger("agentguard").addFilter(_make_printable)
