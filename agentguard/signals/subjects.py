"""The subject of a signal: which session, token or user it names (RFC 9493, SSF 1.0 section 3)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from agentguard.text import label

__all__ = ["ALL", "LONGEST", "IssuedId", "NumericDate", "Parsed", "SubjectClaim", "Text"]

ALL: Final = "ALL"
"""How Keycloak names all sessions of a user."""

LONGEST: Final = 512
"""The most characters of a name or a reason; a token has 16 KiB in all."""


class IssuedId(NamedTuple):
    """An identifier with the issuer that gave it: a user's `sub` or a token's `jti`."""

    issuer: str
    name: str


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("not printable")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(_printable)]
NumericDate = Annotated[float, Field(ge=0, lt=2**53, allow_inf_nan=False)]


Facts = dict[str, Any]
"""Some members of a `SessionRevoked`."""


class Parsed(BaseModel):
    """Input that is parsed strictly; unknown members are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Opaque(Parsed):
    format: Literal["opaque"]
    id: Text

    def session(self) -> Facts:
        return {"task_id": self.id}

    def user(self, sender: str, _authority: frozenset[str]) -> Facts:
        return {"user": IssuedId(sender, self.id)}


class _JwtId(Parsed):
    format: Literal["jwt_id"]
    iss: Text
    jti: Text

    def session(self) -> Facts:
        return {"token": IssuedId(self.iss, self.jti)}


class _IssSub(Parsed):
    format: Literal["iss_sub"]
    iss: Text
    sub: Text

    def user(self, _sender: str, _authority: frozenset[str]) -> Facts:
        return {"user": IssuedId(self.iss, self.sub)}


class _Email(Parsed):
    format: Literal["email"]
    email: Text

    def user(self, _sender: str, _authority: frozenset[str]) -> Facts:
        return {"email": self.email}


class _Unread(Parsed):
    """A member whose format is another one."""

    format: str

    def user(self, _sender: str, _authority: frozenset[str]) -> Facts:
        return {"unread_user": label(self.format)}


def _kind(*formats: str) -> Discriminator:
    """Tell the models of a member apart by its format, and those of no such format from malformed ones."""

    def kind(member: object) -> str | None:
        name = member.get("format") if isinstance(member, dict) else None
        return name if name in formats else "unread" if isinstance(name, str) else None

    return Discriminator(kind)


_Readable = Annotated[
    Annotated[_IssSub, Tag("iss_sub")]
    | Annotated[_Email, Tag("email")]
    | Annotated[_Opaque, Tag("opaque")]
    | Annotated[_Unread, Tag("unread")],
    _kind("iss_sub", "email", "opaque"),
]


class _Aliases(Parsed):
    """Several identifiers of one user (RFC 9493 section 3.2.8)."""

    format: Literal["aliases"]
    identifiers: Annotated[list[_Readable], Field(min_length=1, max_length=32)]

    def user(self, sender: str, authority: frozenset[str]) -> Facts:
        """Return the facts of all identifiers; of several users, the first that the sender may end.

        An identifier that cannot be read says no more than the others.
        """
        users, facts = list[IssuedId](), Facts()
        for identifier in self.identifiers:
            names = identifier.user(sender, authority)
            users += [names.pop("user")] if "user" in names else []
            facts = names | facts
        if users:
            facts["user"] = next((user for user in users if user.issuer in authority), users[0])
        if len(facts) > 1:
            facts.pop("unread_user", None)
        return facts


Session = Annotated[
    Annotated[_Opaque, Tag("opaque")] | Annotated[_JwtId, Tag("jwt_id")] | Annotated[_Unread, Tag("unread")],
    _kind("opaque", "jwt_id"),
]
User = Annotated[
    Annotated[_IssSub, Tag("iss_sub")]
    | Annotated[_Email, Tag("email")]
    | Annotated[_Opaque, Tag("opaque")]
    | Annotated[_Aliases, Tag("aliases")]
    | Annotated[_Unread, Tag("unread")],
    _kind("iss_sub", "email", "opaque", "aliases"),
]


class _Complex(Parsed):
    """A session, a user, or both, with or without other members (SSF 1.0 section 3.3).

    A user and a device or a tenant are a part of the user's sessions. This package cannot select that part,
    and so the event is about all of them: too much ends, and never too little. For the same reason a session
    of another format is passed over beside a user. A user of another format is passed over only beside one
    session: all sessions of a user who is not known cannot be found.
    """

    format: Literal["complex"]
    session: Session | None = None
    user: User | None = None

    def facts(self, sender: str, authority: frozenset[str]) -> Facts:
        session = {} if self.session is None or isinstance(self.session, _Unread) else self.session.session()
        user = {} if self.user is None else self.user.user(sender, authority)
        return _one_subject(session, user)


def _one_subject(session: Facts, user: Facts) -> Facts:
    if "unread_user" in user and session.get("task_id", ALL) == ALL and "token" not in session:
        raise ValueError("the user has another format, and no session is named")
    if not session and not user:
        raise ValueError("the subject is neither a session nor a user")
    return session | user


Subject = Annotated[_Opaque | _JwtId | _IssSub | _Email | _Aliases | _Complex, Field(discriminator="format")]


class SubjectClaim(Parsed):
    """The claim that says whom or what an event is about (RFC 9493 section 4.1)."""

    sub_id: Subject

    def facts(self, sender: str, authority: frozenset[str]) -> Facts:
        """Return what it names; *sender* may end what is of the issuers in *authority*.

        Raises:
            ValueError: The subject is neither a session nor a user, or only a user in another format.
        """
        match self.sub_id:
            case _Complex() as subject:
                return subject.facts(sender, authority)
            case _Opaque() | _JwtId() as session:
                return session.session()
            case user:
                return _one_subject({}, user.user(sender, authority))
