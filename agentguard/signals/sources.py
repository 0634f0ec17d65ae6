"""The transmitters that are trusted, and the verification of their tokens."""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from jwt import PyJWK

from agentguard.errors import ConfigurationError, VerificationError
from agentguard.jose import ALGORITHM_NAMES, Json, OtherKind, decode, set_key, unverified_parts
from agentguard.jose.key_source import KeySource
from agentguard.jose.key_table import KeyTable
from agentguard.model import Secret
from agentguard.signals.events import Frame, SessionRevoked

__all__ = ["Source", "Sources", "refusal"]

_ALGORITHMS = (*ALGORITHM_NAMES, "RS256")
_PLACE = re.compile(r"[^{}]*(\{sub\}|\{email\})[^{}]*")
_TYP = frozenset({"secevent+jwt"})
log = logging.getLogger("agentguard")


def refusal(error: str, description: str, *, status: int = 400) -> VerificationError:
    """Return a refusal; *error* is a code of RFC 8935 section 2.4."""
    return VerificationError(error, description, status=status)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Source:
    """A transmitter that is trusted.

    *keys* is its JWK Set; while a key is being replaced, the set holds both keys. A `KeySource` reads the set
    from a file or a URL, and again when it has changed; it is of the same issuer. Keys of other kinds and
    for other uses are passed over beside a usable one, and no signal is believed by them. The source may end
    sessions and tokens of its own *issuer* and of the issuers that it *speaks_for*: a security team may
    speak for an identity provider, and for the issuer of our own tasks. *authorization* is the whole header
    that it must send with each push.

    *subjects* says, by issuer, what a task's `subject` is for a user of that issuer: a text with one
    ``{sub}`` or ``{email}`` in it, as in ``{"https://login.example": "user:{sub}"}``. Users of an issuer that
    is not named there are known only by the subject tokens of their tasks. An email address has no issuer: a
    source with ``{email}`` may name any address.

    Raises:
        ConfigurationError: *subjects* names an issuer that the source does not speak for, or has a text of
            another form; or *keys* are those of another issuer.
    """

    issuer: str
    keys: Mapping[str, Json] | KeySource
    speaks_for: frozenset[str] = frozenset()
    authorization: Secret | None = None
    subjects: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.keys, KeySource) and self.keys.issuer != self.issuer:
            raise ConfigurationError(
                f"the keys are those of {self.keys.issuer} and not of {self.issuer}",
                hint="name the same issuer twice",
            )
        for issuer, text in self.subjects.items():
            if issuer not in self.authority:
                raise ConfigurationError(
                    f"the source {self.issuer} does not speak for {issuer}", hint="name it in speaks_for"
                )
            if not _PLACE.fullmatch(text):
                raise ConfigurationError(
                    f"{text!r} does not say what the users of {issuer} are called here",
                    hint='put one {sub} or {email} into it, as in "user:{sub}"',
                )

    @property
    def authority(self) -> frozenset[str]:
        """The issuers whose users, sessions and tokens this source may end."""
        return self.speaks_for | {self.issuer}

    def name_here(self, event: SessionRevoked) -> frozenset[str]:
        """Return what the event's user is called here by its name at its issuer, if anything."""
        text = "" if event.user is None else self.subjects.get(event.user.issuer, "")
        if event.user is None or "{sub}" not in text:
            return frozenset()
        return frozenset({text.replace("{sub}", event.user.name)})

    def addresses_here(self, event: SessionRevoked) -> frozenset[str]:
        """Return what the event's user may be called here by the address; its spelling does not count."""
        texts = [text for text in self.subjects.values() if "{email}" in text and event.email]
        return frozenset(text.replace("{email}", event.email) for text in texts)

    def admits(self, authorization: bytes) -> bool:
        """Return whether a push with this Authorization header may come from this source."""
        if self.authorization is None:
            return True
        return hmac.compare_digest(authorization, self.authorization.reveal().encode())


class Sources:
    """The sources of one *audience*. Each key belongs to one source.

    The keys of a `KeySource` are read when a token names its issuer. So a source whose keys cannot be read
    delays and hides no other, and one that publishes a key with another's `kid` is not taken for that one.

    A SET is accepted from *leeway* seconds before it was issued until *max_age* seconds after.

    Raises:
        ConfigurationError: A key is malformed, private or without a `kid`; all keys of a source are of other
            kinds; or two keys have one `kid`, so it does not name one source.
    """

    def __init__(self, sources: Iterable[Source], *, audience: str, max_age: float, leeway: float) -> None:
        self._all = tuple(sources)
        self._keys = _pinned(
            (source, source.keys) for source in self._all if not isinstance(source.keys, KeySource)
        )
        self._tables = [
            (source, KeyTable(source.keys, source.issuer, read=set_key))
            for source in self._all
            if isinstance(source.keys, KeySource)
        ]
        self._audience, self._max_age, self._leeway = audience, max_age, leeway

    def authorized(self, authorization: bytes) -> list[Source]:
        """Return the sources that may have sent a push with this Authorization header."""
        return [source for source in self._all if source.admits(authorization)]

    async def verify(self, token: str, now: float) -> tuple[Source, SessionRevoked | str]:
        """Verify a SET, except for a replay. Of an event of another type, return only the type.

        Raises:
            VerificationError: 400 and a code of RFC 8935 section 2.4; or 503, the keys of its issuer cannot
                be read.
        """
        source, claims = self._signed(token, await self._fetched(token))
        if claims.get("iss") != source.issuer:
            raise refusal("invalid_issuer", "the token's issuer is not the one of its key")
        frame = _frame_of(claims)
        if self._audience not in (frame.aud if isinstance(frame.aud, list) else (frame.aud,)):
            raise refusal("invalid_audience", "the token is for another audience")
        if not now - self._max_age - self._leeway <= frame.iat <= now + self._leeway:
            raise refusal("invalid_request", "the token was issued too long ago, or in the future")
        try:
            event = frame.session_revoked(claims, source.authority)
        except ValueError:
            raise refusal("invalid_request", "the event or its subject is not understood") from None
        if event is None:
            return source, next(iter(frame.events))
        for subject in (event.token, event.user):
            if subject is not None and subject.issuer not in source.authority:
                raise refusal("access_denied", "the subject belongs to an issuer that the sender may not end")
        names, addresses = source.name_here(event), source.addresses_here(event)
        return source, replace(event, subjects=names, addresses=addresses)

    async def _fetched(self, token: str) -> dict[str, tuple[Source, PyJWK]]:
        """Return the key that the token names, if the issuer that it names has its keys at a URL."""
        parts = unverified_parts(token) if self._tables else None
        if parts is None or not isinstance(kid := parts[0].get("kid"), str):
            return {}
        for source, table in self._tables:
            if source.issuer == parts[1].get("iss") and (key := await table.find(kid)) is not None:
                return {kid: (source, key)}
        return {}

    def _signed(
        self, token: str, fetched: Mapping[str, tuple[Source, PyJWK]]
    ) -> tuple[Source, Mapping[str, Json]]:
        signers: list[Source] = []

        def key(header: Mapping[str, Json]) -> PyJWK:
            kid = header.get("kid")
            entry = (fetched.get(kid) or self._keys.get(kid)) if isinstance(kid, str) else None
            if entry is None:
                raise refusal("invalid_key", "the token's key is not known here")
            signers.append(entry[0])
            return entry[1]

        try:
            claims = decode(token, key, typ=_TYP, error="invalid_request", algorithms=_ALGORITHMS).claims
        except VerificationError as error:
            # if the key was already known, the signature is wrong
            code = "invalid_key" if signers else error.error
            raise refusal(code, error.description) from None
        return signers[0], claims


def _frame_of(claims: Mapping[str, Json]) -> Frame:
    try:
        return Frame.of(claims)
    except ValueError:
        raise refusal("invalid_request", "this is not a security event token of one event") from None


def _pinned(sources: Iterable[tuple[Source, Mapping[str, Json]]]) -> dict[str, tuple[Source, PyJWK]]:
    pinned: dict[str, tuple[Source, PyJWK]] = {}
    for source, keys in sources:
        for kid, key in _usable_keys(source, keys):
            if kid in pinned:
                raise ConfigurationError(
                    f"two keys have the kid {kid}",
                    hint="give each source its own keys, each with its own kid",
                )
            pinned[kid] = (source, key)
    return pinned


def _usable_keys(source: Source, keys: Mapping[str, Json]) -> list[tuple[str, PyJWK]]:
    """Return the source's keys for signatures of a kind that is accepted, and pass over those of other kinds.

    A private key is a mistake beside usable ones too, since whoever reads the set can sign with it.
    """
    usable, other_kinds = list[tuple[str, PyJWK]](), list[str]()
    for jwk in keys.get("keys", ()):
        try:
            key = set_key(jwk)
            usable.append((str(jwk["kid"]), key))
        except OtherKind as error:
            other_kinds.append(str(error))
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(f"the key set of {source.issuer} holds an unusable key: {error}") from None
    if other_kinds and not usable:
        raise _unusable(f"the key set of {source.issuer} holds only unusable keys: {other_kinds[0]}")
    if other_kinds:
        log.info("%d keys of %s are of other kinds and passed over", len(other_kinds), source.issuer)
    return usable


def _unusable(message: str) -> ConfigurationError:
    return ConfigurationError(message, hint="give each key a kid, and use public P-256, Ed25519 or RSA keys")
