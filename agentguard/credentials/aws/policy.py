"""What AWS is told about one call: session policy, name and tags; and the policy that denies sessions.

This module computes texts without I/O, and checks AWS's limits before anything is sent.
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
_QUOTED = re.compile(r"[^A-Za-z0-9_+,.@-]")
_TAG_KEY = re.compile(r"(?!aws:)[\w .:/=+\-@]{1,128}", re.IGNORECASE)
_TAG_VALUE = re.compile(r"[\w .:/=+\-@]{0,256}")
_TAGS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one scope allows: IAM actions on ARNs, under IAM's condition block. A statement cannot deny.

    agentguard fills in no value of a call. If the session has tags, IAM fills in its own variables,
    such as ``${aws:PrincipalTag/agentguard:task}``.

    Raises:
        ConfigurationError: The statement names no action or no resource.
    """

    actions: Sequence[str]
    resources: Sequence[str]
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for names in (self.actions, self.resources):
            if isinstance(names, str) or not names or not all(names):
                raise ConfigurationError(
                    "a statement lacks actions or resources", hint='list them, such as ["s3:GetObject"]'
                )

    def allow(self) -> dict[str, Any]:
        """Return the statement in IAM's JSON."""
        statement = {"Effect": "Allow", "Action": list(self.actions), "Resource": list(self.resources)}
        return {**statement, "Condition": dict(self.conditions)} if self.conditions else statement


def session_policy(scopes: Iterable[str], statements: Mapping[str, Sequence[Statement]], ends: float) -> str:
    """Return the policy that allows what *scopes* stand for, and denies everything after *ends*.

    The explicit denial also applies when a resource's own policy permits the session.

    Raises:
        IssueError: There is no scope (without a policy, AWS would allow all of the role), a scope has no
            statement, or the policy has more than 2,048 characters.
    """
    names = sorted(scopes)
    if not names:
        raise IssueError("aws: a call without scopes is given nothing")
    if unknown := [scope for scope in names if not statements.get(scope)]:
        raise IssueError(f"aws: no statement says what {', '.join(unknown)} may do")
    after = {"DateGreaterThan": {"aws:CurrentTime": _timestamp(math.ceil(ends))}}
    allow = [statement.allow() for scope in names for statement in statements[scope]]
    text = _policy([*allow, {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": after}])
    if len(text) > POLICY_LIMIT:
        raise IssueError(f"aws: the session policy has {len(text)} characters, and may have {POLICY_LIMIT}")
    return text


def denial_policy(names: Collection[str], until: float, everyone_until: float | None) -> str:
    """Return the role policy that denies everything to the sessions *names* that were issued before *until*.

    If *everyone_until* is not None, it also denies everything to each session issued before that.
    """
    denials = [_denial({"StringLike": {"aws:userid": [f"*:{name}" for name in names]}}, until)]
    if everyone_until is not None:
        denials = [_denial({}, everyone_until), *(denials if names else [])]
    return _policy(denials)


def session_name(grant: Grant) -> str:
    """Return the grant's id, which names the session.

    Raises:
        IssueError: The id is not 2 to 64 of the characters that AWS accepts; none of them is a wildcard.
    """
    if not _NAME.fullmatch(grant.id):
        raise IssueError("aws: the grant's id cannot name a session")
    return grant.id


def source_identity(subject: str) -> str:
    """Return the subject in the characters that AWS accepts, or its hash if that has more than 64.

    Other characters are written as in quoted-printable: ``=3A`` for a colon. A hash begins with
    ``=sha256-``, which no quoted text can begin with.
    """
    text = _QUOTED.sub(lambda match: "".join(f"={byte:02X}" for byte in match[0].encode()), subject)
    return text if _NAME.fullmatch(text) else f"=sha256-{b64url(sha256(subject.encode()).digest())}"


def session_tags(grant: Grant, more: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the tags that name the call, and *more* tags, which do not replace those.

    Raises:
        IssueError: There are more than 50 tags, or a key or a value has a length or a character that AWS
            does not accept.
    """
    call = {
        "agentguard:task": grant.task_id,
        "agentguard:tool": grant.tool,
        "agentguard:path": grant.path.value,
        "agentguard:resource": grant.resource.name,
        "agentguard:actor": grant.identity.actor,
    }
    tags = {**more, **call}
    if len(tags) > _TAGS:
        raise IssueError(f"aws: {len(tags)} session tags, and there may be {_TAGS}")
    for key, value in tags.items():
        if not (_TAG_KEY.fullmatch(key) and _TAG_VALUE.fullmatch(value)):
            raise IssueError(f"aws: the session tag {key!r} has a length or a character that AWS refuses")
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _denial(condition: dict[str, Any], until: float) -> dict[str, Any]:
    before = {"DateLessThan": {"aws:TokenIssueTime": _timestamp(math.ceil(until))}}
    return {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {**condition, **before}}


def _policy(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _timestamp(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
