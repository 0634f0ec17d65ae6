"""Lint beside facts and recorded calls: what nobody asks for, and what no call has met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard.audit import JsonLinesAudit
from agentguard.cli.lint import findings

CONFIG = """
policy.cedar = ["policy.cedar"]
[store]
kind = "memory"
[tools.refund]
path = "write"
args = { order_id = "string", amount = "integer" }
[facts.order]
kind = "sql"
url = "sqlite:///none.db"
query = "SELECT status FROM orders WHERE id = ?"
tools = { refund = "order_id" }
type = { status = "string" }
optional = true
"""
POLICY = """
@id("small") permit (principal, action == Action::"refund", resource) when { context.args.amount <= 100 };
@id("huge") permit (principal, action == Action::"refund", resource) when { context.args.amount > 1000 };
@id("asked") permit (principal, action == Action::"refund", resource) when { context has approval };
"""
ASKED = POLICY.replace("> 1000", '> 1000 && context.facts has order && context.facts.order.status == "open"')


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "agentguard.toml").write_text(CONFIG)
    (tmp_path / "policy.cedar").write_text(POLICY)
    return tmp_path / "agentguard.toml"


def texts(config: Path, records: Any = ()) -> list[str]:
    return [finding.text for finding in findings(config, None, records)]


def test_a_fact_that_no_rule_looks_at_is_told(config: Path) -> None:
    assert "fact order: no rule looks at it" in texts(config)
    (config.parent / "policy.cedar").write_text(ASKED)
    assert not [text for text in texts(config) if text.startswith("fact")]


def recorded(config: Path, *amounts: int) -> list[dict[str, Any]]:
    """Return the records of refunds that were made by these rules."""
    log = JsonLinesAudit(config.parent / "log.jsonl")
    with Guard.from_file(config, audit=log, record_requests=True, approver=lambda _: True) as guard:

        @guard.tool(path="write")
        def refund(order_id: str, amount: int) -> str:
            """Refund."""
            return "done"

        with guard.task("t", subject="ada", mandate={"tools": "*"}) as task:
            for amount in amounts:
                refund.invoke({"order_id": "1", "amount": amount})
            return list(log.records(task.id))


def test_a_rule_that_no_recorded_call_meets_is_told(config: Path) -> None:
    records = recorded(config, 50)
    idle = [text for text in texts(config, records) if "applies to no call" in text]
    assert [text.partition('"')[2].partition('"')[0] for text in idle] == ["huge"]
    assert not [text for text in texts(config, recorded(config, 50, 5000)) if "applies to no call" in text]


def test_a_rule_that_only_an_approval_meets_is_met(config: Path) -> None:
    idle = [text for text in texts(config, recorded(config, 500)) if "applies to no call" in text]
    assert [text.partition('"')[2].partition('"')[0] for text in idle] == ["small", "huge"]


def test_without_records_and_with_records_of_other_arguments_no_rule_is_judged(config: Path) -> None:
    assert not [text for text in texts(config) if "applies to no call" in text]
    records = recorded(config, 50)
    for record in records:
        if isinstance(record.get("request"), dict):
            record["request"] = {"arguments": 5}
    assert len([text for text in texts(config, records) if "applies to no call" in text]) == 3
