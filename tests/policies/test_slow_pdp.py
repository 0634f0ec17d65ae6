"""A PDP that sends something for ever, and never an answer: the call is denied in time, on record."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from langchain_core.tools import tool

from agentguard.policies.authzen import AuthZen
from agentguard.policies.opa import Opa
from tests.conftest import Kit, Mode
from tests.doubles.loopback import interim_answers, serving, trickle_body, trickle_header


@pytest.mark.promise("service-failures-bounded")
@pytest.mark.parametrize("kind", [Opa, AuthZen])
@pytest.mark.parametrize("respond", [trickle_header, interim_answers, trickle_body])
def test_a_pdp_that_never_comes_to_its_answer_costs_one_denial_in_time(
    kit: Kit, mode: Mode, kind: Any, respond: Any
) -> None:
    @tool
    def read_orders() -> str:
        """Read the orders."""
        return "orders"

    with serving(respond) as server:
        kit.guard = kit.another(policy=kind(server.url, version="1", timeout=0.2))
        guarded = kit.wrap(read_orders)
        call: Any = {"type": "tool_call", "name": "read_orders", "id": "1", "args": {}}
        started = time.monotonic()
        with kit.guard.task("Read", subject="user:ada", mandate={"tools": "*"}):
            message = asyncio.run(guarded.ainvoke(call)) if mode.asynchronous else guarded.invoke(call)
        seconds = time.monotonic() - started
    assert message.text != "orders"
    assert kit.decisions() == ["policy_error"]
    assert seconds < 1.0
