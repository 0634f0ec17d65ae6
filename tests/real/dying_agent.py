"""An agent that is killed: when its login is recorded and no more, or in the middle of its call.

``python -m tests.real.dying_agent prepared|issued STORE``, with the platform's key as its input.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from langchain_core.tools import tool

import agentguard
from agentguard import ToolPath
from agentguard.credentials.openbao import OpenBao
from agentguard.model import Grant
from agentguard.stores.sqlite import SqliteStore
from tests.conftest import classified
from tests.real.reports import Platform, Reports
from tests.real.test_openbao import guarded


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")


def die_instead(_self: OpenBao, _grant: Grant) -> NoReturn:
    die()


@tool
def read_report(id: int) -> str:
    """Read a report."""
    assert agentguard.credential("reports-db").password
    die()


def main(when: str, store: str) -> None:
    if when == "prepared":
        OpenBao.issue = die_instead  # type: ignore[method-assign,assignment]  # to be killed at this very moment
    address, database = os.environ["AGENTGUARD_TEST_OPENBAO"], os.environ["AGENTGUARD_TEST_POSTGRES"]
    reports = Reports(address, "none", database, Platform.of(sys.stdin.buffer.read()))
    guard = guarded(reports, SqliteStore(store))
    (wrapped,) = guard.wrap([classified(read_report, path=ToolPath.READ.value, resource="reports-db")])
    with guard.task("Read the report", subject="alice", mandate={"tools": ["read_report"]}):
        wrapped.invoke({"id": 1})


if __name__ == "__main__":
    main(*sys.argv[1:])
