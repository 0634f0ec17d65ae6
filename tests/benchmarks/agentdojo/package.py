"""Install the AgentDojo package into the cache, and import it without its agents.

AgentDojo 0.1.35 requires the clients of four model vendors, for agents that talk to real models. A suite
(its tools, its tasks, its data and their scoring) needs none of them. So the package is installed without
its requirements, with the three packages that a suite imports, into its own environment in the cache. That
takes about ten seconds once, and no network afterwards. Neither agentguard nor its tests require it. The
environment stands last on this process's import path, so that it replaces no package.

`agentdojo.agent_pipeline` imports the vendors' clients, so its ``__init__`` is not run. `TaskSuite` names one
class of that package; a stand-in for it raises when an instance is made.

Two of the three packages take most of a run's time, and do the same again and again: see `_quicken`.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from pydantic import BaseModel

from tests.benchmarks.agentdojo.suite import Benchmark, Injected
from tests.servers.cache import is_kept, kept

__all__ = ["VERSION", "installed", "load"]

RELEASE, VERSION = "0.1.35", "v1.2.2"
_REQUIRED = ("deepdiff==9.1.0", "docstring-parser==0.18.0", "email-validator==2.4.0")
_PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}"


def load(suite: str) -> Benchmark:
    """Return a suite of version `VERSION`; install the package at the first call.

    Raises:
        LookupError: AgentDojo has no suite of that name.
    """
    _enter()
    suites = import_module("agentdojo.task_suite.load_suites").get_suites(VERSION)
    if suite not in suites:
        raise LookupError(f"there is no suite {suite}")
    call = import_module("agentdojo.functions_runtime").FunctionCall
    return Benchmark(suites[suite], environments(suites[suite]), call)


def installed() -> bool:
    """Return whether `load` works without a network."""
    return is_kept(_name())


def environments(suite: Any) -> Injected:
    """Return a factory of a suite's environments with injections in them.

    AgentDojo puts the injections into the text of a YAML file, and parses that text each time with a parser
    written in Python. Here libyaml parses the text once, with a canary at each place, and an injection then
    replaces its canary in the parsed data. So an injection may hold characters that mean something in YAML.
    The suite's harmless default texts for these places are parsed as YAML.
    """
    read = import_module("agentdojo.task_suite.task_suite").read_suite_file
    text = read(suite.name, "environment.yaml", suite.data_path)
    yaml = import_module("yaml")  # langchain-core installs it, without its types
    texts = suite.get_injection_vector_defaults()
    canaries = {vector: f"<CANARY---{vector}--->" for vector in texts}
    parsed, defaults = (
        yaml.load(source, yaml.CSafeLoader)
        for source in (
            text.format(**canaries),
            "\n".join(f'"{vector}": "{default}"' for vector, default in texts.items()),
        )
    )

    def make(injections: Mapping[str, str]) -> Any:
        values = {canaries[vector]: text for vector, text in {**defaults, **injections}.items()}
        return suite.environment_type.model_validate(_replace(parsed, values))

    return Injected(make, tuple(defaults))


def _replace(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str) and "<CANARY---" in value:
        for canary, text in values.items():
            value = value.replace(canary, text)
        return value
    if isinstance(value, dict):
        return {_replace(key, values): _replace(item, values) for key, item in value.items()}
    return [_replace(item, values) for item in value] if isinstance(value, list) else value


def _name() -> str:
    return f"agentdojo-{RELEASE}-{_PYTHON}"


def _build(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *_REQUIRED], check=True)
    subprocess.run([*pip, "--no-deps", f"agentdojo=={RELEASE}"], check=True)


def _enter() -> None:
    if "agentdojo" in sys.modules:
        return
    if find_spec("agentdojo") is None:
        (packages,) = kept(_name(), _build).glob("lib/python*/site-packages")
        sys.path.append(str(packages))
    spec = find_spec("agentdojo")
    assert spec is not None
    root = next(iter(spec.submodule_search_locations or ()))
    pipelines = ModuleType("agentdojo.agent_pipeline", "imported without its agents")
    pipelines.__path__ = [str(Path(root) / "agent_pipeline")]
    ground_truth: Any = ModuleType("agentdojo.agent_pipeline.ground_truth_pipeline")
    ground_truth.GroundTruthPipeline = _LeftOut
    sys.modules |= {module.__name__: module for module in (pipelines, ground_truth)}
    _quicken(import_module("deepdiff").DeepDiff, import_module("email_validator"))


def _quicken(diff: Any, addresses: Any) -> None:
    """Have DeepDiff enter only what differs, and have each mail address validated once.

    The tests of a suite compare the environments before and after a run. Nearly all of their objects are
    equal, and DeepDiff takes 0.3 s to find that out; it reports nothing about an equal pair. Two objects that
    pickle writes in the same bytes are equal. Where the bytes of equal objects differ, DeepDiff enters them.
    """

    def only_differences(enter: Callable[..., None]) -> Callable[..., None]:
        @wraps(enter)
        def compare(self: Any, level: Any, *arguments: Any, **options: Any) -> None:
            models = isinstance(level.t1, BaseModel) and isinstance(level.t2, BaseModel)
            if not (models and pickle.dumps(level.t1) == pickle.dumps(level.t2)):
                enter(self, level, *arguments, **options)

        return compare

    diff._diff = only_differences(diff._diff)
    addresses.validate_email = cache(addresses.validate_email)


class _LeftOut:
    def __init__(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(
            "AgentDojo's own agents are left out here: see tests/benchmarks/agentdojo/package.py"
        )
