"""The example for deepagents, with the real package, which stands in the cache and replaces no other one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real.conftest import lacking
from tests.servers.cache import is_kept, kept

ROOT = Path(__file__).parents[2]
# what deepagents imports, and this environment lacks; its client of Gemini it imports only when asked to
PACKAGES = (
    "deepagents==0.7.32", "langchain-anthropic==1.7.10", "anthropic==2.14.0", "docstring-parser==0.18.0",
    "jiter==0.19.0", "wcmatch==12.0.1", "bracex==3.2.3",
)  # fmt: skip
NAME = f"deepagents-0.7.32-py{sys.version_info.major}{sys.version_info.minor}"


def install(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *PACKAGES], check=True)


@pytest.mark.promise("judged-exactly-once")
def test_the_sub_agents_of_deepagents_are_judged_if_the_example_is_followed(tmp_path: Path) -> None:
    if not is_kept(NAME) and os.environ.get("CI") != "true":
        lacking("deepagents is not in the cache; where CI is true, this test installs it")
    paths = os.pathsep.join([str(ROOT), str(kept(NAME, install))])
    copy = shutil.copytree(ROOT / "examples", tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    run = subprocess.run(
        [sys.executable, "-W", "error", str(copy / "deep_agent.py")],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = run.stdout.splitlines()
    assert len(lines) == 4, run.stderr
    assert lines[0].startswith("<Coverage: NOT GATED: agent > task > general-purpose: get_order, ")
    assert lines[1:] == ["nobody judged:  ['4712']", "with the net:   []", "each is judged: []"]
