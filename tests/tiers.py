"""Which tests a run takes, and in how many processes.

- ``pytest`` alone is the default tier. It leaves out `process` and `timing`, and it uses the machine's cores.
  A test that tries many inputs tries a ninth of them there (`examples`, `sample`). One with many cases
  that is marked `exhaustive` has a fifth of its cases, or as many as the mark says: ``exhaustive(2)``. A test
  of several parameters has as many of their combinations as hold each value of each parameter.
- ``pytest -m process``: tests with real child processes, signals and terminals. They mostly wait.
- ``pytest -m exhaustive``: the tests that try many inputs, with all of their inputs, and the combinations
  that the default tier leaves out. They hold the cores.
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
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import certifi
import pytest
from hypothesis import HealthCheck, settings

__all__ = [
    "examples",
    "left_out",
    "pytest_collection",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_xdist_auto_num_workers",
    "sample",
]

Input = TypeVar("Input")
Value = tuple[str, tuple[int, ...]]
"""A parameter, and the identities of its value's parts."""
TESTS = Path(__file__).parent
REAL = TESTS / "real"
DEFAULT = "not process and not timing"
OTHER_TIERS = frozenset({"exhaustive", "process", "real", "timing"})
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
    takes_real = "real" in chosen.replace("not real", "")
    if not takes_all(config) or "timing" in chosen or takes_real:
        return 0
    return len(os.sched_getaffinity(0)) + SPARE


_thinning = 1
"""A test that tries many inputs tries one in so many of them."""
NINTH = 9
"""Odd: where two kinds of input alternate, both are tried."""
FIFTH = 5
FEW = 4
"""A test with fewer cases has all of them in the default tier, where its mark names no number."""
FEWEST = 15
"""A property is tried with this many examples at least, where it asks for as many."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the default tier; workers are given this option."""
    global _thinning
    gc.disable()  # until all is imported and collected: nothing of it is garbage
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
    paths = [file for file in _files() if file.parent != REAL or not _passes_over_real(session.config)]
    files = [".".join(path.relative_to(TESTS.parent).with_suffix("").parts) for path in paths]
    first = int(worker["workerid"].removeprefix("gw")) * len(files) // worker["workercount"]
    for name in files[first:] + files[:first]:
        with suppress(Exception, pytest.skip.Exception):  # a file may need an extra, and then skips itself
            import_module(name)


def _files(folder: Path = TESTS) -> list[Path]:
    return sorted(folder.rglob("test_*.py"))


@pytest.fixture(scope="session", autouse=True)
def _small_bundle(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[None]:
    """Trust one public authority instead of all: no test meets one, and a client takes 25 ms to load all.

    httpx prefers what SSL_CERT_FILE names. Tests of real servers keep it, for what their children fetch.
    """
    end = "-----END CERTIFICATE-----\n"
    bundle = tmp_path_factory.mktemp("authorities") / "one.pem"
    bundle.write_text(Path(certifi.where()).read_text("utf-8").partition(end)[0] + end, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(bundle))
        if "SSL_CERT_FILE" in os.environ and not _reaches_servers(pytestconfig):
            patch.setenv("SSL_CERT_FILE", str(bundle))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_command() -> Iterator[None]:
    """Build a Typer application's command once: typer's runner builds it for each invocation, in 70 ms."""
    runner = sys.modules.get("typer.testing")
    with pytest.MonkeyPatch.context() as patch:
        if runner is not None:
            patch.setattr(runner, "_get_command", cache(runner._get_command))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Mark tests of real servers and of properties, start the longest first, and fold what cannot run."""
    places = {path: path.relative_to(TESTS).parts[0] for path in {item.path for item in items}}
    for item in items:
        if places[item.path] == "real":
            item.add_marker("real")
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("exhaustive")
    for item in left_out(items):
        item.add_marker("exhaustive")
    if config.option.markexpr == DEFAULT:
        _thin(config, items)
    # mypy, the notebooks and the examples: begun last, one of them would be waited for alone
    items.sort(key=lambda item: places[item.path] != "house")
    if not _reaches_servers(config):
        _fold_real(session, items)


def _fold_real(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Have one skipped item stand for all tests of real servers."""
    real = {item for item in items if item.get_closest_marker("real")}
    items[:] = [item for item in items if item not in real]
    count = len(real)
    if _passes_over_real(session.config):
        count += sum(file.read_text("utf-8").count("def test_") for file in _files(REAL))
    if count:
        folded = _Folded.from_parent(session, name="real servers")
        folded.reason = f"{count} tests need real servers, and none is there; run: {SERVERS}"
        items.append(folded)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over the tests of real servers where the default tier cannot run them."""
    return True if collection_path == REAL and _passes_over_real(config) else None


def _passes_over_real(config: pytest.Config) -> bool:
    takes_tests = list(config.args) == config.getini("testpaths")
    return takes_tests and config.option.markexpr == DEFAULT and not _reaches_servers(config)


def left_out(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the cases that the default tier leaves out of the tests with several parameters.

    Such a test keeps as many cases as hold each value of each parameter. A test of one parameter keeps all of
    its cases, and so does a test that is marked for another tier.
    """
    for cases in _cases(items):
        if len(cases) >= FEW and len(_values(cases[0])) > 1:
            mine = [item for item in cases if not OTHER_TIERS & {mark.name for mark in item.iter_markers()}]
            if len(mine) >= FEW:
                yield from set(mine).difference(_fitting(mine))


def _fitting(cases: Sequence[pytest.Item], count: int | None = None) -> list[pytest.Item]:
    """Return so many of the cases, or as many as hold each value of each parameter.

    The next one is that with the most values, and then the most pairs of values, that no case before it has.
    """
    values = {item: _values(item) for item in cases}
    pairs = {item: set(combinations(sorted(values[item]), 2)) for item in cases}
    wanted, rest, known_pairs = set[Value]().union(*values.values()), list(cases), set[tuple[Value, Value]]()
    chosen = list[pytest.Item]()
    while rest and (wanted if count is None else len(chosen) < count):
        best = max(rest, key=lambda item: (len(values[item] & wanted), len(pairs[item] - known_pairs)))
        rest.remove(best)
        chosen.append(best)
        wanted -= values[best]
        known_pairs |= pairs[best]
    return chosen


def _cases(items: Iterable[pytest.Item]) -> Iterable[list[pytest.Item]]:
    cases = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    return cases.values()


def _values(item: pytest.Item) -> set[Value]:
    """Return the values of each parameter; names that one mark gives together are one parameter."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return set()
    parameters = {name: id(value) for name, value in callspec.params.items()}
    values = set[Value]()
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
        together = [name.strip() for name in names]
        values.add((",".join(together), tuple(parameters.pop(name) for name in together)))
    return values | {(name, (value,)) for name, value in parameters.items()}


def _thin(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `left_out` has marked, and most cases of a test that is marked as a whole."""
    excess = set[pytest.Item]()
    for cases in _cases(items):
        marked = [item for item in cases if item.get_closest_marker("exhaustive")]
        if len(marked) < len(cases):
            excess.update(marked)
        else:
            excess.update(set(cases).difference(_fitting(cases, _default_count(cases))))
    config.hook.pytest_deselected(items=list(excess))
    items[:] = [item for item in items if item not in excess]


def _default_count(cases: Sequence[pytest.Item]) -> int:
    """Return how many cases the default tier has of a test that is marked as a whole."""
    counts: list[int] = [mark.args[0] for mark in cases[0].iter_markers("exhaustive") if mark.args]
    return min([*counts, len(cases) if len(cases) < FEW else -(-len(cases) // FIFTH)])


def pytest_collection_finish() -> None:
    """Leave what exists now out of later collections of garbage: each would look through 0.25 s of it.

    Later collections are rarer than Python's default, too: they took a twentieth of the time of a run.
    """
    gc.enable()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


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
