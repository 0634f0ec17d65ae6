"""Arguments that no rule can judge: the model is told what to correct, and nothing else."""

from typing import Any

import pytest
from langchain_core.tools import StructuredTool

from agentguard.policies import CedarPolicy
from tests.conftest import Kit, Mode, classified, tool_call

FLIGHT = {"type": "object", "required": ["number"], "properties": {"number": {"type": "string"}}}
SCHEMA = {
    "type": "object",
    "required": ["flights"],
    "properties": {"flights": {"type": "array", "items": FLIGHT}, "price": {"type": "number"}},
}
RULE = '@id("secret-rule") permit (principal, action, resource);'

MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "a key too many": ({"flights": [{"number": "s3cret", "origin": "SFO"}]}, "'origin'"),
    "an argument too many": ({"flights": [], "seat": "s3cret"}, "'seat'"),
    "decimals too many": ({"flights": [], "price": 1.23456}, "'price'"),
}


async def _told(mode: Mode, policy: CedarPolicy, args: dict[str, Any]) -> tuple[str, list[str]]:
    kit = Kit()
    guard = kit.another(policy=policy)
    book = StructuredTool.from_function(lambda **_: "ok", name="book", description="d", args_schema=SCHEMA)
    (tool,) = guard.wrap(classified(book))
    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        answer = await mode.invoke(tool, tool_call("book", **args))
    return answer.text, kit.decisions()


@pytest.mark.promise("misfit-is-told")
@pytest.mark.parametrize("case", MISFITS)
async def test_the_model_is_told_what_to_correct(case: str, mode: Mode) -> None:
    args, name = MISFITS[case]
    text, decisions = await _told(mode, CedarPolicy.from_text(RULE), args)
    assert name in text
    assert "Correct" in text
    assert not {"s3cret", "SFO", "secret-rule", "1.23456"} & set(text.replace("'", " ").split())
    assert decisions == ["policy"]


@pytest.mark.promise("misfit-is-told")
async def test_of_an_environment_that_is_missing_the_model_is_told_nothing(mode: Mode) -> None:
    policy = CedarPolicy.from_text(RULE, environment=["region"])
    text, _ = await _told(mode, policy, {"flights": []})
    assert "region" not in text
    assert "Correct" not in text
