"""The broker for AWS: STS opens a role session for one call, with a session policy for that call.

A session may do what both its role and its session policy allow. The session policy holds the
operator's statements for the call's scopes and nothing else. It also denies everything after the
call's lifetime, since AWS opens no session for less than 900 seconds.

With an *identity*, the broker holds no key of AWS. It exchanges the workload's own token, for the
audience ``sts.amazonaws.com``, in AssumeRoleWithWebIdentity. That operation takes no tags and no
source identity; AWS reads them in the token, if its issuer writes them there
(``https://aws.amazon.com/tags``, ``https://aws.amazon.com/source_identity``). With a boto3 *session*,
which is a standing privilege, the broker gives both to AssumeRole. The roles' trust policies must then
permit ``sts:TagSession`` and ``sts:SetSourceIdentity`` besides ``sts:AssumeRole``.

What the tests do not show: they use moto, which accepts session policies, tags, source identities and
durations but enforces none of them. It verifies no web identity token, and does not evaluate the
conditions that distinguish revoked sessions. The tests show what is sent, and check the policies with a
small evaluator of their own. How AWS evaluates policies is in its documentation:
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

from botocore.credentials import RefreshableCredentials

from agentguard.concurrency.drive import drive, operation_pair
from agentguard.credentials.aws.api import Api, AwsConnection, bare_session
from agentguard.credentials.aws.policy import (
    Statement,
    session_name,
    session_policy,
    session_tags,
    source_identity,
)
from agentguard.credentials.aws.revocation import Revocations
from agentguard.errors import ConfigurationError, IssueError, RevocationUnknown
from agentguard.model import Credential, Grant, Secret, ToolPath

__all__ = ["AUDIENCE", "AwsRole", "Statement"]

AUDIENCE: Final = "sts.amazonaws.com"
FLOOR: Final = 900
CEILING: Final = 43_200

_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/(?:[!-~]{1,512}/)?([A-Za-z0-9_+=,.@-]{1,64})")
_HANDLE = re.compile(r"(\S+) ([A-Za-z0-9_+=,.@-]{2,64})")
_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class AwsRole:
    """A `Broker` for the paths of *roles*, which assumes another role for each path.

    *statements* says what each scope allows at AWS. The revoker or the session of *connection* needs
    ``iam:PutRolePolicy``, ``iam:ListRolePolicies`` and ``iam:DeleteRolePolicy`` on *roles*. These
    rights can also widen the roles, so limit the roles by a permissions boundary.

    A credential's keys are valid for the grant's lifetime, but for at least 900 seconds (AWS's minimum)
    and at most *longest*; `expires_at` says until when. The lease ends with the call, and the session
    policy allows nothing after the lifetime. Only revocation ends the keys earlier, and AWS needs
    seconds to apply it. Revocation does not reach a session that was opened from this one (role
    chaining); only an ``sts:AssumeRole`` among *statements* would permit that. The module
    `agentguard.credentials.aws.revocation` says how it is done.

    If this machine's clock is more than *skew* seconds behind AWS's, `issue` raises an error, since a
    revocation could be dated before the session. *tags* are added to each session; that needs
    a connection with a session. botocore is synchronous, so on an event loop the guard calls the broker
    in a thread.

    Raises:
        ConfigurationError: Two paths share a role, a role is not an ARN, or *longest* is not 900 to
            43,200.
    """

    def __init__(
        self,
        roles: Mapping[ToolPath, str],
        connection: AwsConnection,
        *,
        statements: Mapping[str, Sequence[Statement]],
        tags: Mapping[str, str] = _NO_TAGS,
        longest: int = FLOOR,
        skew: float = 60.0,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        _check_arguments(roles, connection.revoker, longest)
        self._roles, self.paths = dict(roles), frozenset(roles)
        self._statements, self._tags = dict(statements), dict(tags)
        self._longest, self._skew, self._clock = longest, skew, clock
        self._revoker, identity = connection.revoker or "", connection.identity
        self._identity = None if identity is None else operation_pair(identity, "token").sync
        session = connection.session
        self._sts = Api("sts", session or bare_session(), connection, unsigned=session is None)
        self._iam = Api("iam", session or bare_session(self._revoker_credentials()), connection)
        self._revocations = Revocations(
            self._iam.ask,
            longest=longest,
            skew=skew,
            patience=8 * connection.timeout,
            clock=clock,
            entropy=entropy,
        )

    def prepare(self, grant: Grant) -> str:
        """Return the handle: the role and the name that the session will have. Revocation needs no more.

        Raises:
            IssueError: There is no role for the grant's path, or its id cannot name a session.
        """
        return f"{self._role(grant)} {session_name(grant)}"

    def issue(self, grant: Grant) -> Credential:
        """Open a session. A request beyond AWS's limits is refused before anything is sent.

        Raises:
            IssueError: There is no role for the path, a scope has no statement, a value is too long, or
                AWS did not open the session that was asked for, or not in time.
            IdentityError: The identity gave no token.
        """
        handle, now = self.prepare(grant), self._clock()
        if grant.lifetime <= 0:
            raise IssueError("aws: the grant's lifetime is over")
        duration = min(max(FLOOR, math.ceil(grant.lifetime)), self._longest)
        parameters = {
            "RoleArn": self._role(grant),
            "RoleSessionName": session_name(grant),
            "DurationSeconds": duration,
            "Policy": session_policy(grant.scopes, self._statements, grant.ends_at(now)),
        }
        if self._identity is None:
            labels = {
                "Tags": session_tags(grant, self._tags),
                "SourceIdentity": source_identity(grant.identity.subject),
            }
            answer = self._sts.ask("assume_role", **parameters, **labels)
        else:
            answer = self._assume_with_token(parameters)
        return self._credential(answer, grant, handle, self._clock() + duration + self._skew)

    def revoke(self, handle: str, expires_at: float) -> None:
        """Deny the session everything, by a policy on its role.

        Raises:
            RevocationUnknown: The handle is none of this broker's.
            IssueError: The session is not known to be denied, or its role is not one of *roles*.
        """
        match = _HANDLE.fullmatch(handle)
        if self._clock() > expires_at + self._longest + self._skew:
            return
        if match is None:
            raise RevocationUnknown("aws: the handle is none of this broker's")
        if match[1] not in self._roles.values():
            raise IssueError("aws: the session's role is none of this broker's")
        self._revocations.deny(_role_name(match[1]), match[2])

    def close(self) -> None:
        """Close the connections."""
        self._sts.close()
        self._iam.close()

    def _role(self, grant: Grant) -> str:
        try:
            return self._roles[grant.path]
        except KeyError:
            raise IssueError(f"aws: there is no role for the {grant.path} path") from None

    def _assume_with_token(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        token = drive(self._token())
        return self._sts.ask("assume_role_with_web_identity", **parameters, WebIdentityToken=token)

    async def _token(self) -> Secret:
        assert self._identity is not None  # noqa: S101  the caller has checked it
        token: Secret = await self._identity(AUDIENCE)
        return token

    def _credential(self, answer: Mapping[str, Any], grant: Grant, handle: str, latest: float) -> Credential:
        role, _, name = handle.partition(" ")
        try:
            key, secret, token, expires_at = _keys(answer)
            session_arn = str(answer["AssumedRoleUser"]["Arn"])
        except (KeyError, TypeError, AttributeError):
            raise IssueError("aws: sts answered without credentials") from None
        if not session_arn.endswith(f":assumed-role/{_role_name(role)}/{name}"):
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

    def _revoker_credentials(self) -> RefreshableCredentials:
        """Return the revoker's credentials. They are fetched at the first use, and kept in memory."""
        return RefreshableCredentials(
            "",
            "",
            "",
            datetime.fromtimestamp(0, UTC),
            self._fetch_revoker_keys,
            "agentguard",
            advisory_timeout=60,
            mandatory_timeout=30,
        )

    def _fetch_revoker_keys(self) -> dict[str, str]:
        # allows only what a revocation does, so that stolen keys can do no more
        actions = [f"iam:{verb}" for verb in ("PutRolePolicy", "ListRolePolicies", "DeleteRolePolicy")]
        only = Statement(actions=actions, resources=list(self._roles.values()))
        ends = self._clock() + FLOOR
        answer = self._assume_with_token(
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


def _check_arguments(roles: Mapping[ToolPath, str], revoker: str | None, longest: int) -> None:
    arns = [*roles.values(), *([revoker] if revoker else [])]
    if not roles or len(set(arns)) != len(arns):
        raise ConfigurationError("two paths share a role", hint="give each path a role of its own")
    if not all(_ROLE.fullmatch(arn) for arn in arns):
        raise ConfigurationError(
            "a role is not an ARN", hint='such as "arn:aws:iam::123456789012:role/reader"'
        )
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


def _role_name(role: str) -> str:
    return role.rpartition("/")[2]
