"""`python -m tests.benchmarks [--json OUT] [--rounds N] [--calls N] [--at-once N ...] [--profile KIND]`.

Prints what a guarded call costs, as ratios to the same call without a guard; or, with `--profile`, where its
time goes. A call that was denied, or did not run, ends the benchmark with an error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.benchmarks.cases import AT_ONCE
from tests.benchmarks.figures import Figures, measure
from tests.benchmarks.profile import profile, profile_table
from tests.benchmarks.tables import tables

__all__ = ["main"]

WIDTH = 165  # of a table where the output is no terminal


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures here")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument(
        "--calls", type=int, default=64, help="of a tool, in one round; an agent makes an eighth"
    )
    parser.add_argument(
        "--at-once", type=int, nargs="+", default=AT_ONCE, metavar="N", help="asynchronous calls at a time"
    )
    parser.add_argument("--profile", choices=("tool", "agent"), help="print where the time goes, by stage")
    options = parser.parse_args(arguments)
    figures: Figures
    if options.profile is None:
        figures = measure(options.rounds, options.calls, options.at_once)
        _console().print(*tables(figures))
    else:
        figures = profile(options.profile, options.calls, options.rounds)
        _console().print(profile_table(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


if __name__ == "__main__":
    main()
