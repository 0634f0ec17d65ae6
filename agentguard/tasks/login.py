"""Which tasks a signal is about: ours by their ids, and those of a user, a session or a token of an issuer.

An identity provider does not know our tasks. It names its own session, of which the subject token of a task
tells us (`login_of`), or its own name for the user. Each name counts for its issuer alone: another source's
user, session or token of the same name is another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agentguard.enforcement.operations import Operations
from agentguard.errors import safe_text
from agentguard.jose import text_claim, unverified_claims
from agentguard.model import LiveCredential, Login, LoginName, Secret
from agentguard.ports import Broker

if TYPE_CHECKING:
    from agentguard.signals import SessionRevoked

__all__ = ["IssuedTokens", "login_of", "tasks_of"]

log = logging.getLogger("agentguard")

_ALL = "ALL"  # how Keycloak names all sessions of a user


class IssuedTokens:
    """Says which token of its issuer each of our live credentials is. *brokers* go by their route's names."""

    def __init__(self, brokers: Mapping[str, Broker]) -> None:
        self._brokers = brokers

    def is_one(self, live: LiveCredential, issuer: str, jti: str) -> bool:
        """Return whether a credential is the issuer's token with this `jti`.

        A broker whose handles are something else than the `jti` says which one a handle is for.
        """
        broker = self._brokers.get(live.broker)
        if broker is None or getattr(broker, "issuer", "") != issuer:
            return False
        if jti in (live.call_id, live.handle):
            return True
        jti_of: Callable[[str], str | None] | None = getattr(broker, "jti_of", None)
        try:
            return jti_of is not None and jti_of(live.handle) == jti
        except Exception as error:  # noqa: BLE001  whatever a broker raises, the others are asked
            log.error(
                "the broker %s cannot say which token a handle is for: %s", live.broker, safe_text(error)
            )
            return False


def login_of(subject_token: Secret | None) -> Login | None:
    """Return the login that a subject token names, or None for an opaque one.

    The signature is not verified: the application has the token from its login, and what it names can only
    end the task earlier.
    """
    claims = None if subject_token is None else unverified_claims(subject_token.reveal())
    if claims is None or (issuer := text_claim(claims, "iss")) is None:
        return None
    subject, session, jti = (text_claim(claims, name) or "" for name in ("sub", "sid", "jti"))
    return Login(issuer=issuer, subject=subject, session=session, jti=jti)


async def tasks_of(
    event: SessionRevoked, issuer: str, operations: Operations, tokens: IssuedTokens
) -> list[str]:
    """Return the ids of the tasks that a signal ends; some of them may be over already.

    *issuer* is by whose name signals name our own tasks, users and credentials; *tokens* are those that our
    brokers have from other issuers. Another issuer's session ends the tasks of that session, which come
    first, and those of its user whose session is not known. A session that no task is known to be of may be
    any of the user's. So it ends all tasks of the user, as ``ALL`` does.

    Raises:
        StoreError: The store cannot be read.
    """
    ours = issuer in event.authority
    if ours and event.task_id is not None and await operations.task(event.task_id) is not None:
        return [event.task_id]
    if event.token is not None and (ids := await _of_credential(event, issuer, operations, tokens)):
        return ids
    in_login = await _in_login(event, issuer, operations)
    one = event.token is not None or event.task_id not in (None, _ALL)
    if one and not in_login and event.user is not None and event.user.issuer == issuer:
        return []  # a task or a credential of ours that is unknown is over
    if not in_login or event.task_id == _ALL:
        return await _of_user(event, issuer, operations)
    name: LoginName = "session" if event.token is None else "jti"
    return [*in_login, *await _of_user(event, issuer, operations, without=name)]


async def _of_credential(
    event: SessionRevoked, issuer: str, operations: Operations, tokens: IssuedTokens
) -> list[str]:
    """Return the tasks that hold a live credential of the token's issuer with the token's `jti`."""
    token = event.token
    return [
        live.task_id
        for live in await operations.live()
        if token is not None
        and (
            (token.issuer == issuer and token.name in (live.call_id, live.handle))
            or tokens.is_one(live, token.issuer, token.name)
        )
    ]


async def _in_login(event: SessionRevoked, issuer: str, operations: Operations) -> list[str]:
    """Return the active tasks whose subject token is the event's, or is of its session."""
    if event.token is not None:
        logins = [Login(issuer=event.token.issuer, jti=event.token.name)]
    elif event.task_id is not None:
        # a source that speaks for us may name an issuer's session beside our name of the user
        senders = (
            event.authority if event.user is None or event.user.issuer == issuer else {event.user.issuer}
        )
        logins = [Login(issuer=sender, session=event.task_id) for sender in sorted(senders)]
    else:
        logins = []
    return [id_ for login in logins for id_ in await operations.active_in(login)]


async def _of_user(
    event: SessionRevoked, issuer: str, operations: Operations, *, without: LoginName = ""
) -> list[str]:
    """Return the active tasks of the event's user, by its name at its issuer and by its names here.

    With *without*, return only those whose login lacks this name.
    """
    # a store that was written before *without* gets it only where it is needed
    options: dict[str, Any] = {"without": without} if without else {}
    subjects, ids = set(event.subjects), list[str]()
    if event.user is not None:
        login = Login(issuer=event.user.issuer, subject=event.user.name)
        ids += await operations.active_in(login, **options)
        if event.user.issuer == issuer:
            subjects.add(event.user.name)
    for subject in sorted(subjects):
        ids += await operations.active(subject, **options)
    for address in sorted(event.addresses):
        ids += await operations.active(address, folded=True, **options)
    return ids
