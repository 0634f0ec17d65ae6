"""``[store]`` names a store; a server's password is named by its place, and never read without need."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.config import build, load
from agentguard.errors import ConfigurationError
from agentguard.stores import MemoryStore, Retention
from agentguard.stores.postgres import PostgresStore
from agentguard.stores.redis import RedisStore

POSTGRES = 'kind = "postgres"\nurl = "postgresql://agentguard@127.0.0.1:1/agents"\n'
REDIS = 'kind = "redis"\nurl = "redis://127.0.0.1:1/0"\n'


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "agentguard.toml"


def test_a_redis_store_is_made_of_its_settings_and_asks_nobody_yet(toml: Path) -> None:
    toml.write_text(
        f'[store]\n{REDIS}password = "env:NOT_SET"\nprefix = "shop"\npool_size = 3\n'
        'timeout = 0.5\ndurability = "vouched"\nreplicas = 1\n'
    )
    store = build(load(toml)).ports.store
    assert isinstance(store, RedisStore)
    store.close()


def test_a_postgres_store_is_made_of_its_settings_and_asks_nobody_yet(toml: Path) -> None:
    toml.write_text(
        f'[store]\n{POSTGRES}password = "env:NOT_SET"\nschema = "shop"\npool_size = 3\n'
        'timeout = 0.5\ndurability = "lossy"\nkeep = "3h"\n'
    )
    store = build(load(toml)).ports.store
    assert isinstance(store, PostgresStore)
    store.close()


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@pytest.mark.parametrize(
    ("line", "seconds"),
    [("", 86_400.0), ('keep = "120m"', 7_200.0), ('keep = "36h"', 129_600.0), ('keep = "30d"', 2_592_000.0)],
)
def test_what_is_over_stays_for_the_time_of_the_setting(
    toml: Path, kind: str, line: str, seconds: float
) -> None:
    toml.write_text(f'[store]\nkind = "{kind}"\n{line}\n')
    store = build(load(toml)).ports.store
    retention = store._retention if isinstance(store, MemoryStore) else store._pruning._retention  # type: ignore[attr-defined]  # of a SqliteStore
    assert retention == Retention(seconds)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('keep = "119m"', "store.keep: a store cannot keep what is over for 7140 seconds"),
        ('keep = "3651d"', "store.keep: a store cannot keep"),
        ('keep = "7"', "store.keep"),
        ('keep = "-7d"', "store.keep"),
        ("keep = 7", "store.keep"),
        ('kind = "redis"', "store.kind: the URL is missing"),
        (f'{REDIS}path = "state.db"', "store.path: a store of the kind redis has no such setting"),
        ('url = "redis://127.0.0.1"', "store.url: a store of the kind sqlite has no such setting"),
        (f"{REDIS}pool_size = 0", "pool_size"),
        (f'{REDIS}durability = "none"', "durability"),
        (f'{REDIS}prefix = "{{x}}"', "the prefix"),
        (f'{REDIS}password = "hunter2"', "store.password"),
        (f'{REDIS}password = "hunter2:hunter2"', "store.password"),
        ('kind = "redis"\nurl = "redis://:hunter2@127.0.0.1"', "holds a password"),
        ('kind = "redis"\nurl = "redis://10.0.0.1"', "without TLS"),
        ('kind = "redis"\nurl = "rediss://10.0.0.1?ssl_cert_reqs=none"', "has a query"),
        ('kind = "redis"\nurl = "rediss://10.0.0.1/one"', "names no server"),
        ('kind = "redis"\nurl = "rediss://user@10.0.0.1"', "has a user and no password"),
        ('kind = "redis"\nurl = "http://10.0.0.1"', "begins with none of"),
        ('kind = "postgres"', "store.kind: the URL is missing"),
        (f'{POSTGRES}prefix = "x"', "store.prefix: a store of the kind postgres has no such setting"),
        (f'{REDIS}schema = "x"', "store.schema: a store of the kind redis has no such setting"),
        (f'{POSTGRES}schema = "a;b"', "cannot be the schema of a store"),
        (f'{POSTGRES}schema = "pg_catalog"', "cannot be the schema of a store"),
        (f'{POSTGRES}durability = "vouched"', "store.durability"),
        ('kind = "postgres"\nurl = "postgresql://u:hunter2@127.0.0.1/a"', "holds a password"),
        ('kind = "postgres"\nurl = "postgresql://u@127.0.0.1/a?password=hunter2"', "holds a password"),
        ('kind = "postgres"\nurl = "host=127.0.0.1 password=hunter2"', "holds a password"),
        ('kind = "postgres"\nurl = "postgresql://u:hunter2@[::1/a"', "cannot be read"),
        ('kind = "postgres"\nurl = "postgresql://u@10.0.0.1/a?sslmode=disable"', "sslmode=disable"),
        ('kind = "postgres"\nurl = "postgresql://u@10.0.0.1/a?sslmode=require"', "sslmode=require"),
        ('kind = "postgres"\nurl = "postgresql://u@localhost,10.0.0.1/a?sslmode=prefer"', "sslmode=prefer"),
        ('kind = "postgres"\nurl = "host=localhost hostaddr=10.0.0.1 sslmode=disable"', "sslmode=disable"),
        ('kind = "postgres"\nurl = "service=hunter2"', "a service file"),
    ],
)
def test_a_wrong_setting_is_an_error_with_its_line(toml: Path, lines: str, words: str) -> None:
    toml.write_text(f"[store]\n{lines}\n")
    with pytest.raises(ConfigurationError, match="hint") as error:
        build(load(toml))
    assert words in str(error.value)
    assert f"{toml}:" in str(error.value)
    assert "hunter2" not in str(error.value)
