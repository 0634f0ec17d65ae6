"""Which files of tests a run imports when it takes one small tier alone.

`pytest -m real` and `pytest -m timing` take a few files of three hundred. To import and collect all of them
takes longer than some of these tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["pytest_collection_modifyitems", "pytest_ignore_collect"]

TIERS = ("real", "timing")
REAL = Path(__file__).parent / "real"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a file that has no test of the one tier that was asked for."""
    tier = config.option.markexpr
    is_test = collection_path.match("test_*.py")
    return True if tier in TIERS and is_test and not _names(collection_path, tier) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fail where a run of the tier alone would not find a test, because its file does not name the tier.

    Raises:
        UsageError: Such a test is there.
    """
    files = {(item.path, tier) for item in items for tier in TIERS if item.get_closest_marker(tier)}
    for path, tier in sorted(files):
        if not _names(path, tier):
            raise pytest.UsageError(f"{path} has tests marked `{tier}`; hint: write pytest.mark.{tier} in it")


def _names(path: Path, tier: str) -> bool:
    return (tier == "real" and path.is_relative_to(REAL)) or f"mark.{tier}" in path.read_text("utf-8")
