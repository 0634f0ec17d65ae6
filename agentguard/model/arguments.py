"""Validated tool arguments, frozen."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rfc8785
from pydantic_core import from_json

from agentguard.text import composed

__all__ = ["UNSEEN", "Arguments", "Json", "canonical_json", "digest_of"]


FLAT = 100  # with so few brackets, no value nests deeper than a JSON reader goes
Json = Any  # a JSON value: mypy has no recursive alias that json.loads would satisfy


_PLAIN = frozenset((str, int, bool, type(None)))
_POSITION = re.compile(r"\[\d+\]")
_NUMBER = re.compile(r": -?\d+(\.\d+)?(e[+-]?\d+)?$")
_SPELLINGS = (
    ": order [",
    ": floats ",
    ": not set [",
)  # in distinctions of the order of keys, of a list's spelled numbers, and of defaults that were not written
# What nobody sees: Default_Ignorable_Code_Point of Unicode 15 (https://www.unicode.org/reports/tr44/), which
# Python does not tell, and the categories Cf and Cc but for the ends of lines
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\ufff9-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f]"
)
# where a line must end (https://www.unicode.org/reports/tr14/, LB4 and LB5)
_LINE_END = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u2800\u3000]")  # what looks like a space
_UNUSUAL = re.compile(rb'[^\x20-\x5b\x5d-\x7e]|" | "')  # what a text may look the same without
_LONG = range(-(2**63), 2**64)  # the integers of 64 bits, with a sign or without
_encode = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False
).encode


def canonical_json(value: Json) -> bytes:
    """Return RFC 8785 canonical JSON, with all digits of a 64-bit integer.

    RFC 8785 has no form for an integer beyond 2**53, such as an id of a message or a time in nanoseconds.

    Raises:
        ValueError: A value has no JSON form, or is an integer beyond 64 bits or not finite.
    """
    try:
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError:
        return _with_long(value)


def _with_long(value: Json) -> bytes:
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda member: member[0].encode("utf-16be"))
        return b"{%b}" % b",".join(b"%b:%b" % (rfc8785.dumps(n), _with_long(v)) for n, v in members)
    if isinstance(value, list | tuple):
        return b"[%b]" % b",".join(map(_with_long, value))
    if isinstance(value, int) and not isinstance(value, bool) and int(value) in _LONG:
        return b"%d" % value
    return rfc8785.dumps(value)


def quick_canonical_json(values: Json) -> bytes:
    """Return `canonical_json`, of most arguments by Python's own encoder, which is five times as fast.

    For ASCII keys, texts, integers, booleans and null both give the same bytes: RFC 8785 sorts keys as
    UTF-16, which for ASCII is Python's order, and escapes in texts what Python escapes.
    """
    try:
        return _encode(values).encode() if _has_one_form(values) else canonical_json(values)
    except UnicodeEncodeError:  # half a character, of which RFC 8785 has its own error
        return canonical_json(values)


def _has_one_form(value: Json) -> bool:
    """Return whether Python's encoder writes this value as RFC 8785 does."""
    kind = type(value)
    if kind is int:
        return value in _LONG
    if kind is dict:
        for name, part in value.items():
            if type(name) is not str or not name.isascii():
                return False
            if type(part) is not str and not _has_one_form(part):
                return False
        return True
    return all(map(_has_one_form, value)) if kind is list else kind in _PLAIN


@dataclass(frozen=True, slots=True)
class Arguments:
    """Validated tool arguments, frozen as RFC 8785 canonical JSON (see `canonical_json` for large integers).

    `json_digest` is base64url(SHA-256(canonical)), without padding. Tokens and audit records carry it, and a
    resource server computes it from the arguments that it receives.

    `digest` names the call: approvals, permits and the key of a call are bound to it. It covers also what a
    tool can see and JSON does not say. `distinctions` are these facts in words, such as
    ``order: class Publish``. `raw` is a digest of the arguments as the model wrote them, if code of the
    application has made the values from them. Without both, `digest` equals `json_digest`.

    `values` is a fresh copy each time: changing it does not change the arguments that were decided on.
    """

    canonical: bytes
    json_digest: str
    digest: str
    distinctions: tuple[str, ...] = ()
    raw: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Json], distinctions: tuple[str, ...] = (), raw: str = "") -> Arguments:
        """Canonicalize *values*.

        Raises:
            ValueError: A value has no JSON form, or is an integer beyond 64 bits or not finite; or it is
                nested so deeply that a JSON reader would refuse it.
        """
        canonical = quick_canonical_json(dict(values))
        if canonical.count(b"[") + canonical.count(b"{") > FLAT:
            from_json(canonical)
        digest = call_digest = digest_of(canonical)
        if distinctions or raw:
            call_digest = digest_of(canonical + _beside(distinctions, raw))
        return cls(canonical, digest, call_digest, distinctions, raw)

    @property
    def values(self) -> dict[str, Json]:
        """The arguments as JSON values, a fresh copy."""
        values: dict[str, Json] = from_json(self.canonical)
        return values

    @property
    def shown_digest(self) -> str:
        """A digest of what a person sees of the call; it names the calls that a rejection holds for.

        To a person it is no other call that writes 5.0 for 5, has another order of keys, writes out a
        default, spells a letter with its accent apart (NFD for NFC), has another kind of space or one at an
        end of a text or a line, ends its lines by another character, or holds characters that nobody sees. So
        it is with what stands behind the 30th accent of a letter. `digest` tells all of these apart, since a
        tool can: an approval holds for the very bytes.
        """
        words = [text for text in self.distinctions if not _is_spelling(text)]
        canonical = self.canonical
        if _UNUSUAL.search(canonical) is not None:
            canonical = canonical_json(_as_seen(self.values))
        elif not words:
            return self.json_digest
        return digest_of(canonical + (_beside(words, "") if words else b""))

    @property
    def rule_distinctions(self) -> tuple[str, ...]:
        """The distinctions as rules see them: sorted, each once, and without positions in lists."""
        if not self.distinctions:
            return ()
        return tuple(sorted({_POSITION.sub("[]", text) for text in self.distinctions}))

    def __repr__(self) -> str:
        return f"Arguments(digest={self.digest!r})"


def _is_spelling(distinction: str) -> bool:
    return any(part in distinction for part in _SPELLINGS) or _NUMBER.search(distinction) is not None


def _beside(distinctions: Sequence[str], raw: str) -> bytes:
    """Return what stands behind the canonical JSON in a digest."""
    # a JSON text holds no line break, so each part ends where it seems to end
    return b"\n" + json.dumps([*distinctions, raw], separators=(",", ":")).encode()


def _as_seen(value: Json) -> Json:
    """Return a value in which all texts that look the same are the same."""
    if isinstance(value, str):
        text = composed(_SPACES.sub(" ", UNSEEN.sub("", value)))
        return "\n".join([line.rstrip() for line in _LINE_END.split(text)]).strip()
    if isinstance(value, list):
        return [_as_seen(item) for item in value]
    if not isinstance(value, dict):
        return value
    members: dict[str, list[Json]] = {}
    for key, item in value.items():
        members.setdefault(_as_seen(key), []).append(_as_seen(item))
    return {name: parts if len(parts) > 1 else parts[0] for name, parts in members.items()}


def digest_of(data: bytes) -> str:
    """Return base64url(SHA-256(data)), without padding."""
    return urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
