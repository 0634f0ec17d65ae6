"""Text that others have chosen, made safe to show beside our own: in a terminal, a log, or a comment.

A model names the tool that it calls, a server names its tools, and a user writes the purpose of a task.
With a line break in it, such a text could look like a line of ours, and with a control character it could
hide one.
Importing this module makes every argument of a record of the logger ``agentguard`` printable, and cuts it.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from itertools import groupby
from typing import Literal

__all__ = ["composed", "folded_address", "label", "printable"]

LABEL = 200
"""The most characters of a name that a model, a server or a decision point chose, in a span or a record."""

LINE = 4_000
"""The most characters of one argument of a log record: a longer one would push other lines out of the log."""

_MARKS = 30  # combining marks behind one letter that count: as many as the Stream-Safe Text Format allows
_DOMAIN_LABEL = 63  # characters of a label of a domain name (RFC 1035 section 2.3.4)
# Where a text has a run of marks, and such a run is 14 characters long: a mark stands for two at most, and
# the letter before it for three. \w has all letters, and two of these that begin with a mark in NFKD.
_RUN = re.compile(r"(?:[^\w\x00-\x7f]|[\uff9e\uff9f]){14,}")


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


def composed(text: str, form: Literal["NFC", "NFKC"] = "NFC") -> str:
    """Return a text in a normal form (UAX #15), in which no letter has more than 30 combining marks.

    Of more marks, the first 30 in canonical order count: Python's time grows with the square of their number.
    No language has so many. Two texts that are canonically equivalent have one form also where marks are cut.
    """
    if text.isascii():
        return text
    parts, end = list[str](), 0
    for run in _RUN.finditer(text):
        start = max(run.start() - 1, 0)  # with the letter before
        parts += (text[end:start], _with_few_marks(text[start : run.end()], form))
        end = run.end()
    return unicodedata.normalize(form, "".join((*parts, text[end:])))


def _with_few_marks(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """Return a text apart (NFD or NFKD), with at most 30 marks behind each letter, sorted."""
    decomposed: Literal["NFD", "NFKD"] = "NFD" if form == "NFC" else "NFKD"
    apart = "".join(unicodedata.normalize(decomposed, character) for character in text)
    parts = list[str]()
    for is_mark, group in groupby(apart, lambda character: unicodedata.combining(character) > 0):
        characters = list(group)
        parts += sorted(characters, key=unicodedata.combining)[:_MARKS] if is_mark else characters
    return "".join(parts)


def folded_address(text: str) -> str:
    """Return an email address, or a text that ends in one, in the form in which its spellings are equal.

    Case, the composition of letters, and the form of the domain (Punycode, RFC 3492) do not count. A mail
    server may tell the cases of a mailbox apart (RFC 5321 section 2.4), but hardly one does.
    """
    name, at, domain = composed(text, "NFKC").rpartition("@")
    labels = domain.replace("\u3002", ".").split(".") if at else [domain]
    plain = f"{name}{at}{'.'.join(map(_decoded_label, labels) if at else labels)}"
    return composed(composed(plain, "NFKC").casefold(), "NFKC")


def _decoded_label(label: str) -> str:
    # the time to decode a label grows with the square of its length
    if label[:4].casefold() != "xn--" or len(label) > _DOMAIN_LABEL:
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
