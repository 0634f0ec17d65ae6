"""``python -m tests.servers [--only NAME,…] [--without NAME,…] -- COMMAND…``."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
from types import FrameType

from tests.servers import NAMES, ServerError, running

PATIENCE = 30.0  # seconds that the command has to end after a signal


def main() -> int:
    """Return how COMMAND has ended; 1 where a server did not start."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.servers", description="real servers around COMMAND"
    )
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--without", default="", help="those of them that COMMAND does not need")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args()
    names, without = options.only.split(","), set(filter(None, options.without.split(",")))
    if unknown := {*names, *without} - set(NAMES):
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    logging.basicConfig(level=logging.INFO, format="servers: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not shutil.which(options.command[0]):
        parser.error(f"no such command: {options.command[0]}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with running([name for name in names if name not in without]) as variables:
            return _command(options.command, variables)
    except ServerError as error:
        logging.error("%s", error)
        return 1


def _command(command: list[str], variables: dict[str, str]) -> int:
    with subprocess.Popen(command, env={**os.environ, **variables}) as child:
        try:
            status = child.wait()
        except BaseException:
            child.terminate()
            try:
                child.wait(PATIENCE)
            finally:
                child.kill()
            raise
    return status if status >= 0 else 128 - status


def _leave(number: int, _frame: FrameType | None) -> None:
    # once is enough: what stops the servers must not be interrupted
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


sys.exit(main())
