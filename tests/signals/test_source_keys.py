"""A source of signals replaces its keys at a URL, and the receiver hears it without a restart."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentguard.config.adapter_settings import SourceSettings
from agentguard.config.adapters import AdapterFactory
from agentguard.errors import ConfigurationError
from agentguard.identity.local import LocalIdentity
from agentguard.jose import Signer
from agentguard.resource import KeySource
from agentguard.signals import Source
from agentguard.stores.memory import MemoryStore
from tests.signals.test_signals import (
    GUARD,
    GUARDS,
    NOW,
    SOC,
    RecordingRevoke,
    of_soc,
    push,
    receiver,
    signed,
)

KEYS_URL = "https://soc.example/jwks.json"


def jwk(key: Signer, kid: str | None = None) -> dict[str, Any]:
    return {**key.public_jwk, "kid": kid or key.kid}


class Place:
    """Where the keys of the security team are; None while it is down."""

    def __init__(self, *keys: Mapping[str, Any]) -> None:
        self.keys: list[Mapping[str, Any]] | None = list(keys)
        self.now, self.fetches = 1000.0, 0

    def respond(self, _request: httpx.Request) -> httpx.Response:
        self.fetches += 1
        return httpx.Response(503) if self.keys is None else httpx.Response(200, json={"keys": self.keys})

    def source(self) -> Source:
        transport = httpx.MockTransport(self.respond)
        keys = KeySource(KEYS_URL, SOC, transport=transport, clock=lambda: self.now)
        return Source(issuer=SOC, keys=keys, speaks_for=frozenset({GUARD}))


def of(key: Signer, **changes: Any) -> str:
    return signed(key, **{"iss": SOC, **changes})


@pytest.mark.promise("source-keys-by-issuer")
async def test_a_new_key_is_believed_and_an_old_one_no_more() -> None:
    old, new = Signer.generate(), Signer.generate()
    place, revoke = Place(jwk(old)), RecordingRevoke()
    app = receiver(revoke, sources=(GUARDS, place.source()))
    assert (await push(app, of(old))).status_code == 202
    place.keys = [jwk(new)]
    place.now += 11
    assert (await push(app, of(new, jti="set-2"))).status_code == 202
    answer = await push(app, of(old, jti="set-3"))
    assert (answer.status_code, answer.json()["err"]) == (400, "invalid_key")
    assert len(revoke.events) == 2
    assert place.fetches == 2


@pytest.mark.promise("source-keys-by-issuer")
async def test_while_the_keys_cannot_be_read_the_sender_is_to_send_again_and_others_are_heard() -> None:
    key = Signer.generate()
    place, revoke = Place(jwk(key)), RecordingRevoke()
    place.keys = None
    app = receiver(revoke, sources=(GUARDS, place.source()))
    assert (await push(app, of(key))).status_code == 503
    assert (await push(app, signed())).status_code == 202
    assert place.fetches == 1
    assert len(revoke.events) == 1


@pytest.mark.promise("source-keys-by-issuer")
async def test_a_source_that_publishes_anothers_key_id_hides_it_not_and_speaks_not_for_it() -> None:
    key, static = Signer.generate(), GUARDS.keys
    assert not isinstance(static, KeySource)
    kid = static["keys"][0]["kid"]
    place, revoke = Place(jwk(key, kid)), RecordingRevoke()
    app = receiver(revoke, sources=(GUARDS, place.source()))
    forged = signed(key, header={"kid": kid}, jti="set-2")
    for _ in range(2):  # before and after the keys were read
        assert (await push(app, signed())).status_code == 202
        assert (await push(app, forged)).status_code == 400
        assert (await push(app, of(key, header={"kid": kid}, jti="set-3"))).status_code == 202
    assert [event.issuer for event in revoke.events] == [GUARD, SOC]


@pytest.mark.promise("keys-fetched-at-a-bounded-rate")
async def test_tokens_of_unknown_keys_or_issuers_cause_no_flood_of_fetches() -> None:
    place = Place()
    app = receiver(RecordingRevoke(), sources=(GUARDS, place.source()))
    for _ in range(10):
        assert (await push(app, of(Signer.generate()))).status_code == 400
        assert (await push(app, signed(Signer.generate(), iss="https://evil.example"))).status_code == 400
        assert (await push(app, "a.b.c")).status_code == 400
    assert place.fetches == 1


async def test_an_unusable_key_is_passed_over_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    key = Signer.generate()
    place = Place(
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, {**jwk(Signer.generate()), "d": "AAAA"}, jwk(key)
    )
    caplog.set_level(logging.WARNING)
    assert (await push(receiver(RecordingRevoke(), sources=[place.source()]), of(key))).status_code == 202
    assert caplog.text.count("is unusable and passed over") == 2


def test_keys_of_another_issuer_are_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="the keys are those of"):
        Source(issuer=GUARD, keys=KeySource(KEYS_URL, SOC))


def test_the_settings_take_a_url(tmp_path: Path) -> None:
    factory = AdapterFactory(
        identity=LocalIdentity("agent://test"),
        store=MemoryStore(),
        file_of=tmp_path.joinpath,
        clock=lambda: NOW,
    )
    source = factory.source(SourceSettings(issuer=SOC, keys=KEYS_URL))
    assert isinstance(source.keys, KeySource)
    assert source.keys.location == KEYS_URL
    with pytest.raises(ConfigurationError, match="not fetched from"):
        factory.source(SourceSettings(issuer=SOC, keys="http://soc.example/jwks.json"))


async def test_another_senders_authorization_does_not_help() -> None:
    place = Place()
    answer = await push(receiver(RecordingRevoke(), sources=[place.source()]), of_soc())
    assert answer.status_code == 400
