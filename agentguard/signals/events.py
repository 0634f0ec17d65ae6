"""The one event: a session is revoked (CAEP 1.0 section 3.1), as a Security Event Token (RFC 8417).

Here a session is a task. The subject has one of the formats of RFC 9493 and SSF 1.0 section 3:
``opaque`` for a session, ``jwt_id`` for one token, ``iss_sub``, ``email`` or ``aliases`` for all sessions of
a user, or ``complex``, which has these as members.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, TypeAdapter, ValidatorFunctionWrapHandler, WrapValidator

from agentguard.jose import Json
from agentguard.signals.subjects import LONGEST, IssuedId, NumericDate, Parsed, SubjectClaim, Text

__all__ = ["SESSION_REVOKED", "Frame", "IssuedId", "SessionRevoked"]

SESSION_REVOKED: Final = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
Initiator = Literal["admin", "user", "policy", "system"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRevoked:
    """A session, one token, or all sessions of a user have ended at *at* (seconds since the epoch).

    `task_id` is the session. An identity provider names a session of its own, or ``ALL``, and no task.
    With a `task_id` or a `token`, `user` or `email` only says to whom it belongs. `reason` is for operators
    and holds no secret.

    A received event has seven more values: the sender (`issuer`), the token's `jti` (`id`), the issuers whose
    users, sessions and tokens the sender may end (`authority`), and the user's names here (`subjects`, and
    `addresses` with an email address in them).
    `unread_user` is the format of a user who is named beside a session in a format that is not known.
    `transaction` is the token's `txn` (RFC 8417 section 2.2), in which a guard names the task.
    """

    at: float
    task_id: str | None = None
    token: IssuedId | None = None
    user: IssuedId | None = None
    email: str = ""
    reason: str = ""
    initiating_entity: Initiator = "system"
    issuer: str = ""
    id: str = ""
    authority: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    unread_user: str = ""
    transaction: str = ""

    def handle(self) -> str:
        """Return the event as a store's outbox keeps it, in clear text: JSON followed by the task's id.

        So the handle of an event without a task, followed by a task's id, is the handle for that task.
        """
        facts = _EVENT.dump_python(self, mode="json", exclude_defaults=True, exclude={"task_id"})
        return json.dumps(facts, separators=(",", ":")) + (self.task_id or "")

    @staticmethod
    def of(handle: str) -> SessionRevoked:
        """Read the text that `handle` returned.

        Raises:
            ValueError: The text has another form.
        """
        facts, end = json.JSONDecoder().raw_decode(handle)
        return _EVENT.validate_python({**facts, "task_id": handle[end:] or None})

    def claims(self) -> dict[str, Json]:
        """Return the claims of a SET for this event: subject, transaction and event.

        Raises:
            ValueError: The event names no task, no token and no user.
        """
        event: dict[str, Json] = {"event_timestamp": self.at, "initiating_entity": self.initiating_entity}
        if self.reason:
            event["reason_admin"] = {"en": self.reason[:LONGEST]}
        claims = {"sub_id": self._subject(), "events": {SESSION_REVOKED: event}}
        return claims if self.task_id is None else {**claims, "txn": self.task_id}

    def _subject(self) -> dict[str, Json]:
        user = self.user and {"format": "iss_sub", "iss": self.user.issuer, "sub": self.user.name}
        session: dict[str, Json] | None = None
        if self.task_id is not None:
            session = {"format": "opaque", "id": self.task_id}
        elif self.token is not None:
            session = {"format": "jwt_id", "iss": self.token.issuer, "jti": self.token.name}
        if session and user:
            return {"format": "complex", "session": session, "user": user}
        if not (subject := session or user):
            raise ValueError("a signal needs a task, a token, or a user")
        return subject


_EVENT = TypeAdapter(SessionRevoked)


def _or_default(default: object) -> WrapValidator:
    """Take a member that cannot be read for absent."""

    def read(value: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(value)
        except ValueError:
            return default

    return WrapValidator(read)


class _Event(Parsed):
    """The optional members, which only describe the event: whatever their forms are, they lose no signal."""

    event_timestamp: Annotated[NumericDate | None, _or_default(None)] = None
    initiating_entity: Annotated[Initiator, _or_default("system")] = "system"
    reason_admin: Any = None

    def reason(self) -> str:
        """Return the reason as one line: a text (drafts of CAEP), or one by language (CAEP 1.0 section 2)."""
        by_language = self.reason_admin if isinstance(self.reason_admin, dict) else {"en": self.reason_admin}
        candidates = (by_language.get("en"), *by_language.values())
        text = next((text for text in candidates if isinstance(text, str) and text), "")
        return "".join(c if c.isprintable() else " " for c in text[:LONGEST])


class Frame(Parsed):
    """The claims that every SET has, for any event (RFC 8417 section 2.2).

    SSF 1.0 section 4 forbids `sub` and `exp`, since a SET with them could be taken for another kind of
    token. It also forbids several events, unless they are different names of one event.
    """

    iss: Text
    jti: Text
    iat: NumericDate
    aud: Text | list[Text]
    txn: Any = None
    events: Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=1)]

    @classmethod
    def of(cls, claims: Mapping[str, Json]) -> Self:
        """Read the frame from a token's claims.

        Raises:
            ValueError: The claims are not those of a SET.
        """
        if not {"sub", "exp"}.isdisjoint(claims):
            raise ValueError("the token has claims of another kind of token")
        return cls.model_validate(claims)

    def session_revoked(self, claims: Mapping[str, Json], authority: frozenset[str]) -> SessionRevoked | None:
        """Return the event, or None if it is of another type.

        Raises:
            ValueError: The event or its subject is malformed, or the subject is of a kind that is not
                supported.
        """
        if SESSION_REVOKED not in self.events:
            return None
        event = _Event.model_validate(self.events[SESSION_REVOKED])
        return SessionRevoked(
            # an event cannot happen after it was reported
            at=min(self.iat, self.iat if event.event_timestamp is None else event.event_timestamp),
            reason=event.reason(),
            initiating_entity=event.initiating_entity,
            issuer=self.iss,
            id=self.jti,
            authority=authority,
            transaction=self.txn if isinstance(self.txn, str) else "",
            **SubjectClaim.model_validate(claims).facts(self.iss, authority),
        )
