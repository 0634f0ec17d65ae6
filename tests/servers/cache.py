"""What is installed once and kept outside the tree: packages, and what was built from source."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Run", "is_kept", "kept", "venv"]

_log = logging.getLogger(__name__)

Run = Callable[..., str]
"""Runs a command to its end: `Server.run`, which a signal stops."""


def kept(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder *name* of the cache, and have it filled by *build* if it is not complete yet.

    The name carries the version. Of several runs at once, one builds and the others wait for it. What a
    run that was killed has left behind is built again.
    """
    cache = _cache()
    # a server may be run by another user than the one who installs it
    cache.mkdir(parents=True, exist_ok=True)
    folder, complete = cache / name, cache / f"{name}.complete"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            began = time.monotonic()
            _log.info("installing %s", name)
            build(folder)
            complete.touch()
            _log.info("%s took %.0f s", name, time.monotonic() - began)
    return folder


def is_kept(name: str) -> bool:
    """Return whether the folder *name* of the cache is complete."""
    return (_cache() / f"{name}.complete").exists()


def _cache() -> Path:
    return Path(os.environ.get("AGENTGUARD_CACHE") or "~/.cache/agentguard").expanduser()


def venv(requirement: str, run: Run) -> Path:
    """Return an environment that holds the PyPI package *requirement*, ``name==version``."""

    def build(folder: Path) -> None:
        run(sys.executable, "-m", "venv", str(folder))
        pip = str(folder / "bin" / "pip")
        run(pip, "install", "--quiet", "--disable-pip-version-check", requirement)

    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    return kept(f"{requirement.replace('==', '-')}-{version}", build)
