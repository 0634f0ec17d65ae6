"""Each example runs as it stands, with warnings as errors, and shows what it is about."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}")  # what every JWT begins with

SHOWN = {
    "quickstart": ["refunded EUR 40 for order 4711", "denied  escalation  delete_account  mandate"],
    "wrap_any_tool": ["ToolNode: Denied", "executor: I may not", "no task:  no_task"],
    "approval_by_interrupt": ["model:    The account is gone.", "again:    ", "done, approved"],
    "policy_in_python": ["EUR 40 ", "EUR 400 ", "denied:   Refunds end at 1000 euros."],
    "sub_agent": [
        "agent > ask_reader: refund_order: gated by middleware",
        "permit get_order by agent://reader called by ['agent://support']",
        "deny refund_order by agent://reader",
    ],
    "protect_a_resource": ["200 order 4711 for user://alice", "403 insufficient_scope", "401 DPoP"],
    "post_with_body": ["200 refunded EUR 40 for 4711, for user://alice", "403 insufficient_scope"],
    "test_your_agent": ["3 passed"],
    "test_your_approvals": ["3 passed"],
    "streamed_answer": [
        'ada {"tool": "order 1: a kettle"}',
        'bob {"tool": "Denied: This is outside the current',
    ],
    "langgraph_server": [
        "bob: order 2: a kettle",
        "ada: Denied: This is outside the current task",
        "ada: Denied: This call belongs to no task",
    ],
    "known_recipient": [
        "paid 20 to FR14-ADA",
        "paid 30 to DE02-BOB",
        "person:   {'amount': 30, 'recipient': 'XX66-EVE'} -> no",
        "recipient by ['user'] -> permit",
        "recipient by ['address_book.account'] -> permit",
    ],
    "facts": [
        "4711 40.0 -> refunded 40.0 for 4711",
        "4711 40.01 -> Denied: This is not permitted",
        "4712 1.0 -> Denied: This is not permitted",
        "4713 1.0 -> Denied: This is not permitted",
        "4714 1.0 -> Denied: It is not known whether",
    ],
    "support_desk": [
        "Denied: Identify the user by email first.",
        "order A2 is cancelled",
        "Denied: This order belongs to somebody else.",
        "item I1 is exchanged for I2",
        "I3, rather.                 Denied: ",
    ],
    "conversation": [
        "tool: Denied: ",
        "human: Then pay 20 to FR14-ADA.",
        "tool: paid 20 to FR14-ADA",
    ],
    "what_was_done": [
        "Denied: This is not permitted here.",
        "refunded 60 for 1001\nDenied: This order was refunded before.",
        "Denied: A task refunds at most 100. Ask for less.\nrefunded 40 for 1002",
        "refunded 1 for 1003\nDenied: No more refunds for this user today.",
    ],
    "mcp_tools": [
        "order 4711 for user://alice",
        "tool  Denied: This is outside",
        "no credential was presented",
    ],
    "legacy_key": [
        "long-lived and never handed out",
        "evil.example:443 is no origin of orders",
        "result:     paid",
        "refund:     This is not permitted here.",
    ],
}
WITH_SERVERS = {  # run by tests/real, against real ones
    "deep_agent": "test_deepagents.py",
    "openbao_postgres": "test_openbao.py",
    "spiffe_identity": "test_end_to_end.py",
    "token_exchange": "test_token_exchange.py",
    "tracing": "test_jaeger.py",
}

SERVICES = {  # run as processes
    "service": "guard/test_service.py",
    "approval_over_http": "guard/test_approval_over_http.py",
    "api_apart": "resource/test_apart.py",
    "workers/asgi_app": "service/example.py",
    "workers/sync_app": "service/example.py",
    "workers/celery_tasks": "service/example.py",
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns(".*", "__pycache__"))
    )


def test_every_example_is_run() -> None:
    files = {str(path.relative_to(EXAMPLES).with_suffix("")) for path in EXAMPLES.rglob("*.py")}
    assert {file for file in files if not file.endswith(".conf")} == {*SHOWN, *WITH_SERVERS, *SERVICES}
    for name, file in WITH_SERVERS.items():
        assert f'{name}.py"' in (Path(__file__).parents[1] / "real" / file).read_text("utf-8")
    for name, file in SERVICES.items():
        assert f'{name}.py"' in (Path(__file__).parents[1] / file).read_text("utf-8")


@pytest.mark.parametrize(
    "name",
    # an example that is a test is run by a pytest of its own
    [pytest.param(name, marks=[pytest.mark.process] * name.startswith("test_")) for name in SHOWN],
)
def test_an_example_shows_what_it_is_about(name: str, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = copy / f"{name}.py"
    if name.startswith("test_"):
        apart = ["-q", "-c", os.devnull, "-p", "no:cacheprovider", "-p", "no:asyncio"]
        subprocess.run([sys.executable, "-W", "error", "-m", "pytest", *apart, str(file)], check=False)
    else:
        runpy.run_path(str(file), run_name="__main__")
    out, err = capfd.readouterr()
    for line in SHOWN[name]:
        assert line in out, out
    assert err == ""
    assert not TOKEN.search(out)


@pytest.mark.parametrize("name", [*SHOWN, *WITH_SERVERS, *SERVICES])
def test_an_example_has_at_most_sixty_lines(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) <= 60
