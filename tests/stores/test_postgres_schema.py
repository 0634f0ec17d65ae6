"""The tables and functions of the PostgreSQL store do not change without a new version."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest

from agentguard.errors import ConfigurationError
from agentguard.stores.postgres._functions import FUNCTIONS
from agentguard.stores.postgres._schema import checked_name
from agentguard.stores.postgres._tables import MIGRATIONS, TABLES, VERSION

DIGESTS = {1: "9d734dc6820f714d", 2: "eb9a8d70723896fc", 3: "bcc467b41daef612", 4: "78491329c2e6dd82"}
"""By version. A change that was published needs a new version, and a step in `MIGRATIONS`."""


def test_a_change_of_the_schema_is_a_new_version() -> None:
    assert sha256((TABLES + FUNCTIONS).encode()).hexdigest()[:16] == DIGESTS[VERSION]
    assert set(MIGRATIONS) == set(range(1, VERSION))


def test_each_statement_names_the_schema_of_its_tables() -> None:
    tables = re.findall(r"CREATE TABLE agentguard\.(\w+)", TABLES)
    assert len(tables) == 9
    for table in tables:
        assert not re.findall(rf"(?:FROM|INTO|UPDATE|JOIN) {table}\b", FUNCTIONS)


@pytest.mark.parametrize("name", ["", "A", "a-b", "a.b", 'a"', "1a", "pg_x", "a" * 64, "ä", "a b"])
def test_a_schema_has_a_plain_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the schema"):
        checked_name(name)
