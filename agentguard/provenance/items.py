"""The links, e-mail addresses and account numbers that stand inside of a text.

A text that a model writes has no source of its own, but what a reader clicks, writes to or pays does. So more
is found than a reader's program would make a link of, and never less: ``done.Thanks`` counts as a link. A
text is read as a mail reader, a chat or a browser may read it: with HTML's character references (HTML Living
Standard, 13.5), without characters that nobody sees, and in Unicode's form NFKC (UAX #15). A thing that is
only there once the text is read so has no form that anybody could have vouched for.

Not found: what a person is told to put together ("evil dot example"), and account numbers without the form of
an IBAN (ISO 13616), such as those of cards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from html import unescape
from types import MappingProxyType

from agentguard.model.arguments import UNSEEN
from agentguard.model.looks import TEXT_KINDS
from agentguard.provenance.accounts import accounts_in
from agentguard.provenance.words import EDGE
from agentguard.text import composed

__all__ = ["CHARACTERS", "MOST_ITEMS", "UNKNOWN", "Item", "forms_in", "items_in"]

Item = tuple[str, ...]
"""The forms of one thing, each of which names the same; none if nobody can vouch for it."""
CHARACTERS = 100_000
"""How many characters of a text are looked through; what stands behind them is one thing of each kind."""
MOST_ITEMS = 200
"""How many things are found in one text; all further ones count as one for which nobody vouches."""
UNKNOWN: Item = ()
"""A thing that nobody can vouch for."""
NO_ITEMS: Mapping[str, tuple[Item, ...]] = MappingProxyType(dict.fromkeys(TEXT_KINDS, ()))
_ANY = re.compile(r"[.@:/\\&0-9]")
_QUICK = re.compile(r"[.@:/\\]")
_REFERENCE = re.compile(r"&#x[0-9a-f]{1,8};?|&#[0-9]{1,8};?|&[a-z][a-z0-9]{1,31};", re.IGNORECASE)
# of other schemes only what has a slash: a word with a colon is no link
_SCHEME = re.compile(
    r"(?<![a-z])(?:https?|ftps?|wss?|javascript|vbscript|blob):(?=.)|:(?=[/\\])"
    r"|(?<![a-z])data:(?=[\w.+/-]{0,80}[;,])|(?<![:/\\])[/\\]{2,}(?=\d{4}|0x|\[|[^/\\?#%]{0,255}%)|@(?=(?:\d{7,}|0x[0-9a-f]+)(?![\w.\-]))|(?<![\w.+\-])@(?=\[)"
    r"|(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?=[:/])|(?<![a-z])mailto:(?=[^?%]{0,320}%)",
    re.IGNORECASE,
)
_OF_SCHEME = re.compile(r"[a-z0-9+.\-]*\Z", re.IGNORECASE)
_TAG = re.compile(r"<[^<]*>")
_QUOTED = re.compile(r"[\"']")
_STOP = re.compile(r"(?<=\w)\u3002(?=[a-z])", re.IGNORECASE)  # which ends a label of a host too (UTS #46)
_DROPPED = re.compile(r"[\t\n\r]")
_LONGEST_SCHEME = 32
_SLASHES = re.compile(r"[/\\]*(?:\[[0-9a-f:.%]*\])?", re.IGNORECASE)  # and the address of IPv6
_AUTHORITY = re.compile(r"[^/?#<>]*")  # a backslash ends it in a browser, and not elsewhere
_TO_STOP = re.compile(r"[^\"'`´‘’“”«»<>\[\]{}|\\^]*")  # noqa: RUF001  the same quotation marks
_TO_ANGLE = re.compile(r"[^<>]*")
_RUN = re.compile(r"[^\W_](?:[\w.\-]|[^\x00-\x7f])*")
_DOTTED = re.compile(r"\w\.(?=[^\W\d_](?:[^\W\d_]|[^\x00-\x7f]))|\w\.(?=xn--)", re.IGNORECASE)
_LOCAL = re.compile(r"[^\s<>()\[\],;:\"\\@]*\Z")
_LONGEST_LOCAL = 320
_DOMAIN = re.compile(r"(?:[\w.\-]|[^\x00-\x7f])+|\[[^\]]{1,80}\]")
_FILE = re.compile(
    r"txt|pdf|docx?|xlsx?|pptx?|csv|tsv|jsonl?|xml|ya?ml|toml|ini|cfg|log|html?|css|[jt]s|png|jpe?g|gif|svg|bmp"
    r"|tiff?|webp|mp[34]|wav|avi|tar|gz|bz2|rar|exe|dll|sql",
    re.IGNORECASE,
)
"""Ends of names of files that are no top-level domain (https://data.iana.org/TLD/tlds-alpha-by-domain.txt)."""


def items_in(text: str) -> Mapping[str, tuple[Item, ...]]:
    """Return the things in a text by their kind, each once; in time that grows with the text's length."""
    if text.isascii() and _ANY.search(text) is None:
        return NO_ITEMS
    read = text[:CHARACTERS]
    source = _REFERENCE.sub(lambda match: unescape(match[0]), read) if "&" in read else read
    plain = _STOP.sub(".", composed(UNSEEN.sub("", source), "NFKC"))
    if "<" in plain:  # a browser drops these from a URL in an attribute
        plain = _TAG.sub(_undivided, plain)
    texts_by_kind = _texts(plain)
    if len(text) > CHARACTERS:
        texts_by_kind = {kind: {**texts, "": None} for kind, texts in texts_by_kind.items()}
    return {
        kind: tuple(dict.fromkeys(_forms(kind, part) if part in source else UNKNOWN for part in texts))
        for kind, texts in texts_by_kind.items()
    }


def _undivided(tag: re.Match[str]) -> str:
    """Return a tag without the white space that divides URLs; a bracket may stand in its quotes."""
    end = len(tag[0]) if _QUOTED.search(tag[0]) else tag[0].index(">") + 1
    return _DROPPED.sub("", tag[0][:end]) + tag[0][end:]


def _texts(plain: str) -> dict[str, dict[str, None]]:
    """Return what is found in a text by its kind; "" stands for what is beyond `MOST_ITEMS`."""
    texts_by_kind: dict[str, dict[str, None]] = {kind: {} for kind in TEXT_KINDS}
    for kind, text in _found(plain):
        texts = texts_by_kind[kind]
        texts[text if len(texts) < MOST_ITEMS else ""] = None
    return texts_by_kind


def _found(plain: str) -> Iterator[tuple[str, str]]:
    for token in plain.split():
        if _QUICK.search(token) is not None:
            yield from _in_token(token)
    for text in accounts_in(plain):
        yield "accounts", text


def _forms(kind: str, text: str) -> Item:
    """Return the forms of what is written so: without the signs around it, and an account also unparted."""
    if kind == "accounts":
        bare = "".join(filter(str.isalnum, text))
        return tuple(dict.fromkeys((text, bare, bare.upper())))
    bare = text.strip(EDGE)
    return tuple(form for form in dict.fromkeys((text, bare, bare.strip(EDGE + "*_~"))) if form)


@lru_cache(32)
def forms_in(text: str) -> frozenset[str]:
    """Return all forms of all things in a text."""
    return frozenset(form for items in items_in(text).values() for item in items for form in item)


def _in_token(token: str) -> Iterator[tuple[str, str]]:
    """Yield the links and addresses in a text without blanks: those with a scheme first, then the rest."""
    spans, end = list[tuple[int, int]](), 0
    for match in _SCHEME.finditer(token):
        if match.start() < end:
            continue
        before = token[max(match.start() - _LONGEST_SCHEME, end) : match.start()]
        scheme = _OF_SCHEME.search(before) if match[0].startswith(":") else None
        start = match.start() - (0 if scheme is None else len(scheme[0]))
        end = _end(token, match.end())
        spans.append((start, end))
        yield "links", token[start:end] if token[match.end() : end].strip("/\\") else ""
    for start, end in _between(spans, len(token)):
        yield from _addresses(token[start:end])


def _between(spans: list[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a text that are in none of these spans."""
    at = 0
    for start, end in (*spans, (length, length)):
        if at < start:
            yield at, start
        at = end


def _addresses(text: str) -> Iterator[tuple[str, str]]:
    """Yield the addresses in a text, and the names of hosts beside them."""
    begin = 0
    while (at := text.find("@", begin)) >= 0:
        local = _LOCAL.search(text, max(at - _LONGEST_LOCAL, begin), at)
        domain = _DOMAIN.match(text, at + 1)
        name = "" if local is None else local[0].strip(EDGE)
        if name and domain is not None:
            yield from _hosts(text[begin : at - len(local[0]) if local else at])
            yield "addresses", f"{local[0] if local else ''}@{domain[0]}"
            begin = domain.end()
            continue
        yield from _hosts(text[begin:at])
        if domain is not None and _DOTTED.search(domain[0]):
            yield "addresses", text[at : domain.end()]  # of a name in quotes
        begin = at + 1
    yield from _hosts(text[begin:])


def _hosts(text: str) -> Iterator[tuple[str, str]]:
    """Yield the links that begin with the name of a host."""
    end = 0
    for run in _RUN.finditer(text):
        name = run[0].rstrip("._-")
        if run.start() < end or _DOTTED.search(name) is None:
            continue
        end = _end(text, run.end())
        if _FILE.fullmatch(name.rpartition(".")[2]) is None:
            yield "links", text[run.start() : end]


def _end(text: str, at: int) -> int:
    """Return where a link ends whose scheme or host ends at a place.

    A quotation mark or bracket ends it, but not one before an ``@``: all before that may be the name of a
    user, and the host stands behind it. What stands behind such an end is looked through by itself.
    """
    at = _matched_to(_SLASHES, text, at)
    if "@" in text[at : _matched_to(_AUTHORITY, text, at)]:
        return _matched_to(_TO_ANGLE, text, at)
    end, open_count = _matched_to(_TO_STOP, text, at), 0
    for place in range(at, end):
        if text[place] == "(":
            open_count += 1
        elif text[place] == ")":
            open_count -= 1
            if open_count < 0:
                return place
    return end


def _matched_to(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
