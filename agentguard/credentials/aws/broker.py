"""AWS: a role session for one call, with a policy of its own, from STS.

What a session may do is what its role may do and its session policy allows; the policy has the
operator's statements for the call's scopes and nothing else. It also denies everything after the
call's lifetime, since AWS gives no session for less than 900 seconds.

With an *identity* the broker holds no key of AWS at all: the workload's own token, for the audience
``sts.amazonaws.com``, is exchanged in AssumeRoleWithWebIdentity. That operation takes neither tags nor
a source identity; AWS reads them in the token, if its issuer writes them there
(``https://aws.amazon.com/tags``, ``https://aws.amazon.com/source_identity``). With a boto3 *session*,
which is a standing privilege, AssumeRole is given both; the roles' trust policies then permit
``sts:TagSession`` and ``sts:SetSourceIdentity`` beside ``sts:AssumeRole``.

What the tests do not show: they speak to moto, which accepts session policies, tags, source identities and
durations and enforces none, verifies no web identity token, and does not evaluate the conditions that tell
one revoked session from another. They show what is sent, and hold the policies to a small evaluator of
their own. What AWS makes of them is AWS's word:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import boto3
from botocore.credentials import RefreshableCredentials

from agentguard.concurrency.drive import drive, operation_pair
from agentguard.credentials.aws.api import Api, bare_session
from agentguard.credentials.aws.policy import (
    Statement,
    session_name,
    session_policy,
    session_tags,
    source_identity,
)
from agentguard.credentials.aws.revocation import Revocations
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Credential, Grant, Secret, ToolPath
from agentguard.ports import IdentitySource

__all__ = ["AUDIENCE", "AwsRole", "Statement"]

AUDIENCE: Final = "sts.amazonaws.com"
FLOOR: Final = 900
CEILING: Final = 43_200

_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/(?:[!-~]{1,512}/)?([A-Za-z0-9_+=,.@-]{1,64})")
_HANDLE = re.compile(r"(\S+) ([A-Za-z0-9_+=,.@-]{2,64})")
_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class AwsRole:
    """A `Broker` that assumes a role of its own for each path; it has the paths of *roles*.

    *statements* says what each scope means to AWS. *identity* proves the workload to STS, and
    *revoker* is then the role, assumed in the same way and for nothing else, that may write
    denials; or *session* is what signs both. Either's policy has ``iam:PutRolePolicy``,
    ``iam:ListRolePolicies`` and ``iam:DeleteRolePolicy`` on *roles*. Who has these can widen the roles too:
    bound them by a permissions boundary.

    A credential is good for AWS's minimum of 900 seconds, or for the grant's lifetime, if that is more,
    up to *longest*; its `expires_at` says until when. The lease ends with the call and the policy with
    the lifetime, but the keys end early by revocation alone, which takes AWS seconds to spread. It
    does not reach another session that was opened from this one (role chaining); an ``sts:AssumeRole``
    among *statements* is what would permit that. `aws_revocation` says how it is done.

    A clock that is more than *skew* seconds behind AWS's is an error at issue, since its revocations
    might be before the session. *tags* are added to each session, with *session*. *endpoint* replaces
    AWS's own, for STS and IAM. botocore is synchronous, so that an event loop calls it in a thread.

    Raises:
        ConfigurationError: Two paths share a role, a role is no ARN of one, or it has neither or both of
            *identity*, with *revoker*, and *session*.
    """

    def __init__(
        self,
        roles: Mapping[ToolPath, str],
        *,
        statements: Mapping[str, Sequence[Statement]],
        region: str,
        identity: IdentitySource | None = None,
        revoker: str | None = None,
        session: boto3.Session | None = None,
        tags: Mapping[str, str] = _NO_TAGS,
        longest: int = FLOOR,
        skew: float = 60.0,
        timeout: float = 2.0,
        endpoint: str | None = None,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        _sound(roles, identity, revoker, session, longest)
        self._roles, self.paths = dict(roles), frozenset(roles)
        self._statements, self._tags = dict(statements), dict(tags)
        self._longest, self._skew, self._clock = longest, skew, clock
        self._revoker = revoker or ""
        self._identity = None if identity is None else operation_pair(identity, "token").sync
        where: dict[str, Any] = {"region": region, "endpoint": endpoint, "timeout": timeout}
        self._sts = Api("sts", session or bare_session(), **where, unsigned=session is None)
        self._iam = Api("iam", session or bare_session(self._denying()), **where)
        self._revocations = Revocations(
            self._iam.ask, longest=longest, skew=skew, patience=8 * timeout, clock=clock, entropy=entropy
        )

    def prepare(self, grant: Grant) -> str:
        """Return the role and the name of the session to be, from which alone it can be revoked.

        Raises:
            IssueError: The grant is for a path without a role, or its id cannot name a session.
        """
        return f"{self._role(grant)} {session_name(grant)}"

    def issue(self, grant: Grant) -> Credential:
        """Open the session; whatever is beyond AWS's limits is refused before anything is sent.

        Raises:
            IssueError: There is no role for the path, a scope has no statement, something is too long,
                or AWS has not given what was asked, and in time.
            IdentityError: The identity gave no token.
        """
        handle, now = self.prepare(grant), self._clock()
        if grant.lifetime <= 0:
            raise IssueError("aws: the grant's lifetime is over")
        duration = min(max(FLOOR, math.ceil(grant.lifetime)), self._longest)
        asked = {
            "RoleArn": self._role(grant),
            "RoleSessionName": session_name(grant),
            "DurationSeconds": duration,
            "Policy": session_policy(grant.scopes, self._statements, now + grant.lifetime),
        }
        if self._identity is None:
            marks = {
                "Tags": session_tags(grant, self._tags),
                "SourceIdentity": source_identity(grant.identity.subject),
            }
            answer = self._sts.ask("assume_role", **asked, **marks)
        else:
            answer = self._with_token(asked)
        return self._credential(answer, grant, handle, self._clock() + duration + self._skew)

    def revoke(self, handle: str, expires_at: float) -> None:
        """Deny the session everything, by a policy on its role.

        Raises:
            IssueError: It is not known to be denied, or its role is none of this broker's.
        """
        found = _HANDLE.fullmatch(handle)
        if found is None or self._clock() > expires_at + self._longest + self._skew:
            return
        if found[1] not in self._roles.values():
            raise IssueError("aws: the session's role is none of this broker's")
        self._revocations.deny(_name(found[1]), found[2])

    def close(self) -> None:
        """Close its connections."""
        self._sts.close()
        self._iam.close()

    # --- its parts

    def _role(self, grant: Grant) -> str:
        try:
            return self._roles[grant.path]
        except KeyError:
            raise IssueError(f"aws: there is no role for the {grant.path} path") from None

    def _with_token(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        token = drive(self._token())
        return self._sts.ask("assume_role_with_web_identity", **asked, WebIdentityToken=token)

    async def _token(self) -> Secret:
        assert self._identity is not None  # noqa: S101  the caller has one
        token: Secret = await self._identity(AUDIENCE)
        return token

    def _credential(self, answer: Mapping[str, Any], grant: Grant, handle: str, latest: float) -> Credential:
        role, _, name = handle.partition(" ")
        try:
            key, secret, token, expires_at = _keys(answer)
            opened = str(answer["AssumedRoleUser"]["Arn"])
        except (KeyError, TypeError, AttributeError):
            raise IssueError("aws: sts answered without credentials") from None
        if not opened.endswith(f":assumed-role/{_name(role)}/{name}"):
            raise IssueError("aws: sts opened another session than was asked for")
        if not self._clock() < expires_at <= latest:
            raise IssueError("aws: the session ends at another time than was asked for, or clocks differ")
        env = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}
        return Credential(
            secret,
            id=grant.id,
            handle=handle,
            expires_at=expires_at,
            fields={"access_key_id": key, "secret_access_key": secret, "session_token": token},
            env=env,
            secrets=(token,),
        )

    def _denying(self) -> RefreshableCredentials:
        """Return the revoker's keys, which are fetched when one is first needed, and kept in memory."""
        return RefreshableCredentials(
            "",
            "",
            "",
            datetime.fromtimestamp(0, UTC),
            self._fetch_denying,
            "agentguard",
            advisory_timeout=60,
            mandatory_timeout=30,
        )

    def _fetch_denying(self) -> dict[str, str]:
        # narrowed to what a revocation does: stolen, it is good for nothing else
        actions = [f"iam:{verb}" for verb in ("PutRolePolicy", "ListRolePolicies", "DeleteRolePolicy")]
        only = Statement(actions=actions, resources=list(self._roles.values()))
        ends = self._clock() + FLOOR
        answer = self._with_token(
            {
                "RoleArn": self._revoker,
                "RoleSessionName": "agentguard-revoker",
                "DurationSeconds": FLOOR,
                "Policy": session_policy(["revoke"], {"revoke": [only]}, ends),
            }
        )
        key, secret, token, _ = _keys(answer)
        expires = answer["Credentials"]["Expiration"].isoformat()
        return {"access_key": key, "secret_key": secret, "token": token, "expiry_time": expires}

    def __repr__(self) -> str:
        return f"<AwsRole {', '.join(sorted(self.paths))}>"


def _sound(
    roles: Mapping[ToolPath, str],
    identity: IdentitySource | None,
    revoker: str | None,
    session: boto3.Session | None,
    longest: int,
) -> None:
    if (identity is None) == (session is None) or (identity is None) != (revoker is None):
        raise ConfigurationError(
            "AWS is spoken to with an identity and a revoker, or else with a session",
            hint="give identity= and revoker=, which needs no standing key, or session=",
        )
    arns = [*roles.values(), *([revoker] if revoker else [])]
    if not roles or len(set(arns)) != len(arns):
        raise ConfigurationError("two paths share a role", hint="give each path a role of its own")
    if not all(_ROLE.fullmatch(arn) for arn in arns):
        raise ConfigurationError("a role is no ARN", hint='such as "arn:aws:iam::123456789012:role/reader"')
    if not FLOOR <= longest <= CEILING:
        raise ConfigurationError(
            "a session cannot last that long", hint=f"longest= is {FLOOR} to {CEILING} seconds"
        )


def _keys(answer: Mapping[str, Any]) -> tuple[str, str, str, float]:
    keys = answer["Credentials"]
    texts = [keys[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")]
    if not all(isinstance(text, str) and text for text in texts):
        raise TypeError
    return texts[0], texts[1], texts[2], keys["Expiration"].timestamp()


def _name(role: str) -> str:
    return role.rpartition("/")[2]
