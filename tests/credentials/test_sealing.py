"""A sealed handle is stored in clear, and tells what it holds to the holder of the key alone."""

from __future__ import annotations

import copy
import os
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.credentials.sealing import SealingKey
from agentguard.errors import ConfigurationError
from tests.doubles.texts import CHARACTERS, texts

KEY = bytes(range(32))
SEAL = SealingKey(KEY)
TOKEN = "opaque-token-of-an-issuer"
CONTEXT = "https://as.example"


@given(text=texts(max_size=200), context=texts(max_size=50))
def test_what_was_sealed_opens_for_its_key_and_context(text: str, context: str) -> None:
    assert SealingKey(KEY).open(SEAL.seal(text, context=context), context=context) == text


def test_a_handle_shows_nothing_of_the_secret_and_is_never_the_same() -> None:
    handles = {SEAL.seal(TOKEN, context=CONTEXT) for _ in range(50)}
    assert len(handles) == 50
    assert not any(TOKEN in handle or TOKEN.encode().hex() in handle for handle in handles)


@pytest.mark.promise("sealed-handles")
@given(data=st.data())
def test_a_changed_handle_is_unknown(data: st.DataObject) -> None:
    handle = SEAL.seal(TOKEN, context=CONTEXT)
    place = data.draw(st.integers(0, len(handle) - 1))
    other = data.draw(CHARACTERS.filter(lambda char: char != handle[place]))
    assert SEAL.open(handle[:place] + other + handle[place + 1 :], context=CONTEXT) is None


def test_a_cut_or_lengthened_handle_is_unknown() -> None:
    handle = SEAL.seal(TOKEN, context=CONTEXT)
    for length in range(len(handle)):
        assert SEAL.open(handle[:length], context=CONTEXT) is None
    for more in ("A", "=", "==", "\n", handle, "A" * 200_000):
        assert SEAL.open(handle + more, context=CONTEXT) is None


@pytest.mark.promise("sealed-handles")
def test_a_handle_of_another_key_or_another_issuer_is_unknown() -> None:
    handle = SEAL.seal(TOKEN, context=CONTEXT)
    assert SealingKey(bytes(32)).open(handle, context=CONTEXT) is None
    assert SEAL.open(handle, context="https://as.example.evil") is None


@given(texts(max_size=300))
def test_noise_is_unknown_and_no_error(noise: str) -> None:
    assert SEAL.open(noise, context=CONTEXT) is None


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        SEAL.seal("x" * 70_000, context=CONTEXT)


def test_a_seal_shows_nothing_and_cannot_be_copied() -> None:
    assert repr(SEAL) == "<SealingKey>"
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(SEAL)


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "handles.key"
    with ThreadPoolExecutor(8) as pool:
        seals = list(pool.map(lambda _: SealingKey.from_file(file), range(16)))
    handle = seals[0].seal(TOKEN, context=CONTEXT)
    assert {seal.open(handle, context=CONTEXT) for seal in seals} == {TOKEN}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["handles.key"]


def test_a_key_that_others_may_read_or_of_another_length_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "handles.key"
    SealingKey.from_file(file)
    file.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        SealingKey.from_file(file)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="remove it"):
        SealingKey.from_file(file)
    with pytest.raises(ConfigurationError, match="32 bytes"):
        SealingKey(b"short")
    with pytest.raises(ConfigurationError, match="cannot be read or made"):
        SealingKey.from_file(tmp_path / "absent" / "handles.key")
