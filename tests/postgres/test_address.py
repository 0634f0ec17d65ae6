"""Where a PostgreSQL server is, and that nobody on the way can read or change what is said to it."""

from __future__ import annotations

import pytest

from agentguard.errors import ConfigurationError
from agentguard.postgres.address import Address
from agentguard.stores.postgres import holds_password
from agentguard.stores.postgres._texts import packed, unpacked

REMOTE = "postgresql://guard@db.example/agents"
WEAK = ["disable", "allow", "prefer", "require", "verify-ca"]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE", "PGSERVICE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.promise("shared-store-in-private")
@pytest.mark.parametrize("mode", WEAK)
@pytest.mark.parametrize(
    "url",
    [
        REMOTE,
        "postgresql://guard@10.0.0.1/agents",
        "postgresql://guard@localhost,db.example/agents",
        "host=localhost hostaddr=10.0.0.1 dbname=agents",
        "host=/run/postgresql,[2001:db8::1]",
    ],
)
def test_another_host_is_not_spoken_to_unless_it_proves_its_name(url: str, mode: str) -> None:
    separator = " " if url.startswith("host=") else "?"
    weak = f"{url}{separator}sslmode={mode}"
    with pytest.raises(ConfigurationError, match=f"sslmode={mode}"):
        Address(weak, timeout=1.0)
    assert Address(url, timeout=1.0).parameters["sslmode"] == "verify-full"
    assert Address(weak, timeout=1.0, plaintext=True).parameters["sslmode"] == mode
    assert Address(url, timeout=1.0, plaintext=True).parameters["sslmode"] == "verify-full"


@pytest.mark.promise("shared-store-in-private")
@pytest.mark.parametrize(
    ("name", "value", "url"),
    [
        ("PGSSLMODE", "disable", REMOTE),
        ("PGHOST", "db.example", "dbname=agents sslmode=disable"),
        ("PGHOSTADDR", "10.0.0.1", "postgresql://guard@localhost/agents?sslmode=disable"),
        ("PGSERVICE", "elsewhere", "postgresql://guard@localhost/agents"),
    ],
)
def test_an_environment_variable_of_libpq_does_not_lead_around_that(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, url: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError):
        Address(url, timeout=1.0)


@pytest.mark.parametrize(
    "url",
    ["postgresql://guard@127.0.0.2/a", "postgresql://[::1]/a", "host=/run/postgresql", "postgresql:///a"],
)
def test_this_machine_needs_no_tls(url: str) -> None:
    address = Address(url, timeout=1.0)
    assert address.is_local
    assert "sslmode" not in address.parameters


def test_a_file_of_authorities_is_used_and_no_password_is_kept_or_shown() -> None:
    address = Address("postgresql://guard:hunter2@db.example/agents", timeout=1.0, ca="ca.pem")
    assert address.parameters["sslrootcert"] == "ca.pem"
    assert "hunter2" not in f"{address!r} {address.name} {address.parameters}"
    assert holds_password("host=db.example password=hunter2")
    assert not holds_password(REMOTE)


def test_the_session_overrules_what_the_url_says_of_time_outs_and_isolation() -> None:
    url = f"{REMOTE}?options=-c%20statement_timeout%3D0%20-c%20work_mem%3D8MB"
    options = Address(url, timeout=0.5).parameters["options"]
    assert options.index("statement_timeout=0") < options.index("statement_timeout=500")
    assert "work_mem=8MB" in options


@pytest.mark.parametrize(
    "text", ["", "a", "ü\u2603", "\x00", "a\x10b", "\ud800", "\udc00\x100000", "\x10\x10"]
)
def test_each_text_comes_back_as_it_was(text: str) -> None:
    kept = packed(text)
    assert "\x00" not in kept
    assert kept.encode().decode() == kept
    assert unpacked(kept) == text
    assert unpacked(packed([text, 1])) == [text, 1]
    assert packed(text) + packed("\udc00") == packed(f"{text}\udc00")
