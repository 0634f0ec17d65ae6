"""Cedar files as rules that know their file and line.

cedarpy numbers policies (`policy0`) and gives no positions. So the text is cut into statements here. Cedar
parses many statements at once, which takes a fraction of the time, and a simple opening of an accepted policy
is read here. If either fails, Cedar parses each statement alone, and the statement that holds an error gives
the error its place in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from cedarpy import PolicySet, policies_to_pst, pst

from agentguard.errors import ConfigurationError, safe_text
from agentguard.files import read_trusted
from agentguard.policies.cedar.head import Head, Opening, opening_in, opening_of

__all__ = ["Rule", "closest", "read_file", "read_text", "unique"]

_TOGETHER = 500  # so many statements are parsed at once, so that few nodes are in memory
# for Cedar a comment ends at \r too; else a comment could hide here a rule that Cedar sees
_TOKEN = re.compile(r'//[^\n\r]*|"(?:\\.|[^"\\])*"|;', re.DOTALL)
_BETWEEN = "\n//\\q\n"  # a comment; in a string left open by a cut it is a wrong escape, and no policy
_CONDITIONS = re.compile(r"\)\s*(?:when|unless)\b.*", re.DOTALL)
_BLANK = re.compile(r"(?:[^\S\x1c-\x1f]|//[^\n\r]*)*")
_QUOTED = re.compile(r"`((?!policy\d+`)[^`]+)`")


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy: its @id, text, place, head, and what its other annotations say.

    `advice` (of a forbid) is for the model; `lifetime` in seconds and `scopes` (of a permit) narrow
    what may be issued.
    """

    id: str
    text: str
    file: str
    line: int
    head: Head
    advice: str = ""
    lifetime: float | None = None
    scopes: frozenset[str] | None = None

    @property
    def node(self) -> pst.Template:
        """The policy as Cedar parses it, anew each time: a node takes far more memory than the text."""
        (node,) = policies_to_pst(self.text).static_policies.values()
        return node

    def line_of(self, problem: str) -> int:
        """Return the line of the name that *problem* quotes, or the rule's first line."""
        quoted = _QUOTED.search(problem)
        offset = -1 if quoted is None else self.text.find(quoted[1].rsplit(".", 1)[-1])
        return self.line + self.text.count("\n", 0, max(offset, 0))


def read_file(path: Path) -> tuple[Rule, ...]:
    """Read the policies of one file.

    Raises:
        ConfigurationError: It cannot be read, or a policy in it is wrong.
    """
    try:
        text = read_trusted(path, "utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the policy file cannot be read: {safe_text(error)}",
            hint="correct the path or the permissions; the file is UTF-8 text",
            file=path,
        ) from error
    return read_text(text, str(path))


def read_text(text: str, name: str) -> tuple[Rule, ...]:
    """Read the policies of one text; *name* stands for the file in errors.

    Raises:
        ConfigurationError: A policy does not parse, is a template, has no @id or the id of another,
            or has an annotation that makes no sense.
    """
    return unique(_rules(text, name))


def unique(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the rules, of which no two have the same @id."""
    by_id: dict[str, Rule] = {}
    for rule in rules:
        other = by_id.setdefault(rule.id, rule)
        if other is not rule:
            raise ConfigurationError(
                f'another policy has @id("{rule.id}"): {other.file}:{other.line}',
                hint="give each policy an @id of its own: decisions and records name it",
                file=rule.file,
                line=rule.line,
            )
    return tuple(by_id.values())


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Cut at each semicolon outside of strings and comments. A rest without semicolon is a statement too."""
    ends = [token.end() for token in _TOKEN.finditer(text) if token[0] == ";"]
    start, counted, line = 0, 0, 1
    for end in (*ends, len(text)):
        blank = _BLANK.match(text, start, end)
        start = start if blank is None else blank.end()
        if start < end:
            line += text.count("\n", counted, start)
            counted = start
            yield line, text[start:end]
        start = end


def _rules(text: str, file: str) -> Iterator[Rule]:
    statements = _statements(text)
    while part := tuple(islice(statements, _TOGETHER)):
        openings = _together([statement for _, statement in part])
        for place, (line, statement) in enumerate(part):
            opening = openings[place] if openings else opening_of(_alone(statement, file, line))
            yield _rule(statement, file, line, opening)


def _together(statements: list[str]) -> list[Opening]:
    """Return the opening of each statement's policy, or nothing if a statement is not exactly one policy.

    Cedar parses all statements. It also gives the openings that are not simple. For that it is given these
    statements without their conditions, since nodes for the conditions would take most of the time. If
    `_CONDITIONS` mistakes a string or a comment for the begin of the conditions, the part before it is no
    policy, and each statement is parsed alone. If that part is a policy, Cedar has read the same tokens in
    the same order as in the whole statement, hence the same opening. Each simple statement is at least one
    policy, so if the number of policies is right, each statement is exactly one.
    """
    openings = {place: opening_in(statement) for place, statement in enumerate(statements)}
    odd = [place for place, opening in openings.items() if opening is None]
    heads = (_CONDITIONS.sub(");", statements[place], 1) for place in odd)
    try:
        policies = PolicySet.from_str("\n".join(statements))
        parsed = policies_to_pst(_BETWEEN.join(heads)).static_policies
    except ValueError:
        return []
    if len(policies) != len(statements) or len(parsed) != len(odd):
        return []
    openings |= {place: opening_of(parsed[f"policy{number}"]) for number, place in enumerate(odd)}
    return [opening for opening in openings.values() if opening is not None]


def _alone(text: str, file: str, line: int) -> pst.Template:
    try:
        parsed = policies_to_pst(text)
    except ValueError as error:
        raise ConfigurationError(
            f"this is no Cedar policy: {error}",
            hint="end each policy with ;" if _unfinished(error) else "correct the syntax here",
            file=file,
            line=line + _broken_at(text),
        ) from error
    if len(parsed.static_policies) != 1:
        raise ConfigurationError(
            "a template (?principal, ?resource) decides nothing by itself",
            hint="write the principal and the resource out, or leave them open",
            file=file,
            line=line,
        )
    (node,) = parsed.static_policies.values()
    return node


def _rule(text: str, file: str, line: int, opening: Opening) -> Rule:
    name = opening.annotations.get("id") or ""
    if not name.strip():
        raise ConfigurationError(
            "this policy has no @id",
            hint='put @id("a-name-of-its-own") in front of it: decisions and records name it',
            file=file,
            line=line,
        )
    try:
        return Rule(name, text, file, line, opening.head, *_annotations(opening))
    except ValueError as error:
        raise ConfigurationError(
            f'policy "{name}": {error}', hint="correct the annotation", file=file, line=line
        ) from error


def _annotations(opening: Opening) -> tuple[str, float | None, frozenset[str] | None]:
    notes = opening.annotations
    if opening.effect == "forbid" and notes.keys() & {"lifetime", "scopes"}:
        raise ValueError("@lifetime and @scopes narrow what a permit gives, and this is a forbid")
    if opening.effect == "permit" and "advice" in notes:
        raise ValueError("@advice tells the model why a forbid refused, and this is a permit")
    lifetime = notes.get("lifetime")
    if lifetime is not None and not re.fullmatch(r"[0-9]{1,6}", lifetime):
        raise ValueError('@lifetime is a whole number of seconds, as in @lifetime("30")')
    scopes = notes.get("scopes")
    return (
        notes.get("advice") or "",
        None if lifetime is None else float(lifetime),
        None if scopes is None else frozenset(scopes.split()),
    )


def _unfinished(error: ValueError) -> bool:
    return "unexpected end of input" in str(error)


def _broken_at(text: str) -> int:
    """Return the offset of the first line by which the statement can no longer be completed."""
    lines = text.split("\n")
    for count in range(1, len(lines)):
        try:
            policies_to_pst("\n".join(lines[:count]))
        except ValueError as error:
            if not _unfinished(error):
                return count - 1
    return len(lines) - 1


def closest(wrong: str, names: Iterable[str]) -> str:
    """Return a hint with the name that was probably meant, or with all names."""
    names = sorted(set(names))
    close = get_close_matches(wrong, names, 1)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(names) or 'none'}"
