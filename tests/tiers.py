"""Which tests a run takes, and in how many processes.

- ``pytest`` alone is the default tier. It leaves out `process` and `timing`, and it uses the machine's cores.
  A test that tries many inputs tries a ninth of them there (`examples`, `sample`), and one with many cases
  that is marked `exhaustive` has a third of its cases.
- ``pytest -m process``: tests with real child processes, signals and terminals. They mostly wait.
- ``pytest -m exhaustive``: the tests that try many inputs, with all of their inputs. They hold the cores.
- ``pytest -m timing``: tests that compare times. They run one after the other, so that none disturbs another.
- ``python -m tests.servers -- pytest -m real``: tests that need a real server or package. Where no server is
  there, one skipped item stands for all of them. Where CI is true, each of them runs, and a missing server is
  a failure.
- ``pytest PATH`` takes all tests of that path, of each tier, in this process: for work on one file.

``.ci/run`` runs all tiers.
"""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import certifi
import pytest
from hypothesis import HealthCheck, settings

__all__ = [
    "examples",
    "pytest_collection",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_xdist_auto_num_workers",
    "sample",
]

Input = TypeVar("Input")
TESTS = Path(__file__).parent
DEFAULT = "not process and not timing"
SERVERS = "python -m tests.servers -- pytest -m real"
SPARE = 1
"""Workers beyond the number of cores: some tests wait for a child or a clock."""


def takes_all(config: pytest.Config) -> bool:
    """Return whether this run names no path and no test."""
    is_restricted = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    return not (is_restricted or config.option.keyword or config.option.collectonly)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of worker processes; 0 runs the tests in this process."""
    chosen = config.option.markexpr
    # tests that share the servers and times that are compared need one process
    if not takes_all(config) or "timing" in chosen or "real" in chosen:
        return 0
    return len(os.sched_getaffinity(0)) + SPARE


_thinning = 1
"""A test that tries many inputs tries one in so many of them."""
NINTH = 9
"""Odd: where two kinds of input alternate, both are tried."""
THIRD = 3
"""Odd as well: the two modes alternate."""
FEW = 4
"""A test with fewer cases has all of them in the default tier."""
FEWEST = 15
"""A property is tried with this many examples at least, where it asks for as many."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the default tier; workers are given this option."""
    global _thinning
    if takes_all(config):
        config.option.markexpr = config.option.markexpr or DEFAULT
    thin = config.option.markexpr == DEFAULT
    _thinning = NINTH if thin else 1
    # for properties that name no count; how long an example takes says how busy the machine is
    settings.register_profile(
        "tier",
        max_examples=FEWEST if thin else 100,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("tier")


def examples(count: int) -> int:
    """Return how many examples a property is tried with: `count`, or a ninth of it in the default tier."""
    return max(count // _thinning, min(count, FEWEST))


def sample(inputs: Sequence[Input]) -> Sequence[Input]:
    """Return the inputs to try: all, or in the default tier each ninth of them."""
    return inputs[::_thinning]


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import all files of tests, in each worker from another one on.

    pytest compiles such a file anew when there is no bytecode of it, which takes six seconds for all. So each
    worker compiles a part of them, and finds the bytecode of the others. An import that fails here fails
    again in the collection, which reports it.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None or list(session.config.args) != session.config.getini("testpaths"):
        return
    files = [".".join(file.relative_to(TESTS.parent).with_suffix("").parts) for file in _files()]
    first = int(worker["workerid"].removeprefix("gw")) * len(files) // worker["workercount"]
    for name in files[first:] + files[:first]:
        with suppress(Exception):
            import_module(name)


def _files() -> list[Path]:
    return sorted(TESTS.rglob("test_*.py"))


@pytest.fixture(scope="session", autouse=True)
def _small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one public authority instead of all: no test meets one, and a client takes 25 ms to load all."""
    end = "-----END CERTIFICATE-----\n"
    bundle = tmp_path_factory.mktemp("authorities") / "one.pem"
    bundle.write_text(Path(certifi.where()).read_text("utf-8").partition(end)[0] + end, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(bundle))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Mark tests of real servers and of properties, start the longest first, and fold what cannot run."""
    for item in items:
        if item.path.is_relative_to(TESTS / "real"):
            item.add_marker("real")
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("exhaustive")
    if config.option.markexpr == DEFAULT:
        _thin(config, items)
    # mypy, the notebooks and the examples: begun last, one of them would be waited for alone
    items.sort(key=lambda item: not item.path.is_relative_to(TESTS / "house"))
    real = [item for item in items if item.get_closest_marker("real")]
    if real and not _reaches_servers(config):
        items[:] = [item for item in items if not item.get_closest_marker("real")]
        folded = _Folded.from_parent(session, name="real servers")
        folded.reason = f"{len(real)} tests need real servers, and none is there; run: {SERVERS}"
        items.append(folded)


def _thin(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out two cases of three of each test that is marked `exhaustive`."""
    cases = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        if item.get_closest_marker("exhaustive"):
            cases[item.nodeid.partition("[")[0]].append(item)
    many = [of_test for of_test in cases.values() if len(of_test) >= FEW]
    left_out = {item for of_test in many for item in of_test if of_test.index(item) % THIRD}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """Leave what exists now out of later collections of garbage: each would look through 0.25 s of it."""
    gc.collect()
    gc.freeze()


def _reaches_servers(config: pytest.Config) -> bool:
    return (
        os.environ.get("CI") == "true"
        or any(name.startswith("AGENTGUARD_TEST_") for name in os.environ)
        or "real" in config.option.markexpr
    )


class _Folded(pytest.Item):
    """One skipped item in place of many tests."""

    reason = ""

    def runtest(self) -> None:
        pytest.skip(self.reason)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return TESTS / "real", None, self.name
