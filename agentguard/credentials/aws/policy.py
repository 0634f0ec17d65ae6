"""What is said to AWS about one call: its session policy, names and tags; and the denial of sessions.

All of it is computed here, without I/O, and held to AWS's limits before anything is sent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import b64url
from agentguard.model import Grant

__all__ = ["Statement", "denial_policy", "session_name", "session_policy", "session_tags", "source_identity"]

POLICY_LIMIT: Final = 2_048
INLINE_LIMIT: Final = 10_240

_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{2,64}")
_UNSAID = re.compile(r"[^A-Za-z0-9_+,.@-]")
_TAG_KEY = re.compile(r"(?!aws:)[\w .:/=+\-@]{1,128}", re.IGNORECASE)
_TAG_VALUE = re.compile(r"[\w .:/=+\-@]{0,256}")
_TAGS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one scope allows: IAM actions on ARNs, under IAM's condition block. It can only allow.

    Nothing of a call is filled in. Where the session carries tags, IAM fills in its own variables, such
    as ``${aws:PrincipalTag/agentguard:task}``.

    Raises:
        ConfigurationError: It names no action or no resource.
    """

    actions: Sequence[str]
    resources: Sequence[str]
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for listed in (self.actions, self.resources):
            if isinstance(listed, str) or not listed or not all(listed):
                raise ConfigurationError(
                    "a statement lacks actions or resources", hint='list them, such as ["s3:GetObject"]'
                )

    def allow(self) -> dict[str, Any]:
        """Return the statement as IAM reads it."""
        said = {"Effect": "Allow", "Action": list(self.actions), "Resource": list(self.resources)}
        return {**said, "Condition": dict(self.conditions)} if self.conditions else said


def session_policy(scopes: Iterable[str], statements: Mapping[str, Sequence[Statement]], ends: float) -> str:
    """Return the policy that allows what *scopes* stand for, and denies all after *ends*.

    An explicit denial also holds where a resource's own policy names the session.

    Raises:
        IssueError: There is no scope (AWS takes no policy as the whole role), one has no statement, or
            the policy is above 2,048 characters.
    """
    asked = sorted(scopes)
    if not asked:
        raise IssueError("aws: a call without scopes is given nothing")
    if unknown := [scope for scope in asked if not statements.get(scope)]:
        raise IssueError(f"aws: no statement says what {', '.join(unknown)} may do")
    over = {"DateGreaterThan": {"aws:CurrentTime": _instant(math.ceil(ends))}}
    allowed = [statement.allow() for scope in asked for statement in statements[scope]]
    text = _packed([*allowed, {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": over}])
    if len(text) > POLICY_LIMIT:
        raise IssueError(f"aws: the session policy has {len(text)} characters, and may have {POLICY_LIMIT}")
    return text


def denial_policy(names: Collection[str], until: float, everyone_until: float | None) -> str:
    """Return the role policy that denies everything to the sessions *names* issued before *until*.

    And to every session issued before *everyone_until*, unless that is None.
    """
    denials = [_denial({"StringLike": {"aws:userid": [f"*:{name}" for name in names]}}, until)]
    if everyone_until is not None:
        denials = [_denial({}, everyone_until), *(denials if names else [])]
    return _packed(denials)


def session_name(grant: Grant) -> str:
    """Return the grant's id, as the name of a session.

    Raises:
        IssueError: It is not 2 to 64 of the characters that AWS takes, none of which is a wildcard.
    """
    if not _NAME.fullmatch(grant.id):
        raise IssueError("aws: the grant's id cannot name a session")
    return grant.id


def source_identity(subject: str) -> str:
    """Return the subject in AWS's characters: lossless while it fits into 64, or else its hash.

    What AWS does not take is written as in a quoted-printable text, ``=3A`` for a colon. A hash begins
    with ``=sha256-``, which is no such writing.
    """
    quoted = _UNSAID.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), subject)
    return quoted if _NAME.fullmatch(quoted) else f"=sha256-{b64url(sha256(subject.encode()).digest())}"


def session_tags(grant: Grant, more: Mapping[str, str]) -> list[dict[str, str]]:
    """Return *more* tags and those that name the call, which win.

    Raises:
        IssueError: There are more than 50, or a key or value has a length or a character that AWS
            does not take.
    """
    own = {
        "agentguard:task": grant.task_id,
        "agentguard:tool": grant.tool,
        "agentguard:path": grant.path.value,
        "agentguard:resource": grant.resource.name,
        "agentguard:actor": grant.identity.actor,
    }
    tags = {**more, **own}
    if len(tags) > _TAGS:
        raise IssueError(f"aws: {len(tags)} session tags, and there may be {_TAGS}")
    for key, value in tags.items():
        if not (_TAG_KEY.fullmatch(key) and _TAG_VALUE.fullmatch(value)):
            raise IssueError(f"aws: the session tag {key!r} has a length or a character that AWS refuses")
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _denial(who: dict[str, Any], until: float) -> dict[str, Any]:
    before = {"DateLessThan": {"aws:TokenIssueTime": _instant(math.ceil(until))}}
    return {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {**who, **before}}


def _packed(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _instant(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
