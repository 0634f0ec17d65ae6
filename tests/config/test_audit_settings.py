"""``[audit]`` names a log in a file or in PostgreSQL; a password is named by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.audit import JsonLinesAudit
from agentguard.audit.postgres import PostgresAudit
from agentguard.config import build, load
from agentguard.errors import ConfigurationError

POSTGRES = 'kind = "postgres"\nurl = "postgresql://agent@127.0.0.1:1/logs"\n'


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "agentguard.toml"


def test_a_log_in_postgres_is_made_of_its_settings_and_asks_nobody_yet(toml: Path) -> None:
    toml.write_text(
        f'[audit]\n{POSTGRES}password = "env:NOT_SET"\nschema = "shop_audit"\ntimeout = 0.5\n'
        'durability = "lossy"\nrequests = true\n'
    )
    audit = build(load(toml)).ports.audit
    assert isinstance(audit, PostgresAudit)
    assert audit.place == "PostgreSQL 127.0.0.1:1/logs, schema shop_audit"
    audit.close()


def test_without_a_kind_the_log_is_in_a_file(toml: Path) -> None:
    toml.write_text('[audit]\npath = "log.jsonl"\n')
    audit = build(load(toml)).ports.audit
    assert isinstance(audit, JsonLinesAudit)
    audit.close()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('kind = "postgres"\n', "the URL is missing"),
        (f'{POSTGRES}path = "log.jsonl"\n', "of the kind postgres has no such setting"),
        (f'{POSTGRES}max_size = "1GB"\n', "of the kind postgres has no such setting"),
        ('schema = "audit"\n', "of the kind file has no such setting"),
        (f'{POSTGRES}password = "s3cret"\n', "audit.password"),
        (f'{POSTGRES}schema = "pg_audit"\n', "cannot be the schema of an audit log"),
        ('kind = "postgres"\nurl = "postgresql://agent:s3cret@127.0.0.1/logs"\n', "holds a password"),
        (POSTGRES.replace("127.0.0.1:1/logs", "db.example/logs?sslmode=allow"), "sslmode=allow"),
    ],
)
def test_a_wrong_setting_is_an_error_that_shows_no_password(toml: Path, lines: str, words: str) -> None:
    toml.write_text(f"[audit]\n{lines}")
    with pytest.raises(ConfigurationError, match=words) as error:
        build(load(toml))
    assert "s3cret" not in str(error.value)
