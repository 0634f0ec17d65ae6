"""A policy in Python beside the file's Cedar: it narrows, and the file's rules are still read anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import AccessRequest, Decision, Denied, Effect, Guard
from agentguard.errors import DenialCode
from tests.conftest import Mode

POLICY = """
@id("small") permit (principal, action == Action::"pay", resource) when { context.args.amount <= 100 };
@id("asked") permit (principal, action == Action::"pay", resource) when { context has approval };
"""


class Account:
    """What the policy in Python knows: how much there is left, and what it was asked."""

    def __init__(self) -> None:
        self.left, self.asked = 50, 0

    def __call__(self, request: AccessRequest) -> bool:
        self.asked += 1
        amount = request.arguments.values["amount"]
        return bool(amount <= self.left)


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def guard(tmp_path: Path, account: Account) -> Iterator[Guard]:
    (tmp_path / "agentguard.toml").write_text('policy.cedar = ["policy.cedar"]\n[store]\nkind = "memory"\n')
    (tmp_path / "policy.cedar").write_text(POLICY)
    with Guard.from_file(
        tmp_path / "agentguard.toml", beside=account_policy(account), approver=lambda request: True
    ) as guard:
        yield guard


def account_policy(account: Account) -> Any:
    def within_the_account(request: AccessRequest) -> bool:
        return account(request)

    return within_the_account


async def pay(guard: Guard, mode: Mode, amount: int) -> str:
    @guard.tool(path="write")
    def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    with guard.task("t", subject="alice", mandate={"tools": "*"}):
        return str(await mode.invoke(pay, {"amount": amount}))


@pytest.mark.promise("python-beside-narrows")
async def test_a_call_needs_the_permit_of_both(mode: Mode, guard: Guard, account: Account) -> None:
    assert await pay(guard, mode, 40) == "paid 40"
    with pytest.raises(Denied) as denied:
        await pay(guard, mode, 60)
    assert denied.value.code is DenialCode.POLICY
    account.left = 1_000
    assert await pay(guard, mode, 60) == "paid 60"
    assert await pay(guard, mode, 500) == "paid 500"  # by the person whom Cedar has asked


@pytest.mark.promise("python-beside-narrows")
async def test_the_policy_in_python_permits_nothing_that_the_file_does_not(
    mode: Mode, tmp_path: Path, guard: Guard, account: Account
) -> None:
    account.left = 1_000
    (tmp_path / "policy.cedar").write_text('@id("none") forbid (principal, action, resource);')
    assert guard.reload()
    with pytest.raises(Denied):
        await pay(guard, mode, 40)


async def test_the_files_rules_are_read_anew(
    mode: Mode, tmp_path: Path, guard: Guard, account: Account
) -> None:
    account.left = 1_000
    (tmp_path / "policy.cedar").write_text(POLICY.replace("permit", "allow"))
    assert not guard.reload()  # the former rules stay
    assert await pay(guard, mode, 40) == "paid 40"
    (tmp_path / "policy.cedar").write_text(POLICY.splitlines()[1].replace("100", "10"))
    assert guard.reload()
    assert await pay(guard, mode, 10) == "paid 10"
    with pytest.raises(Denied):
        await pay(guard, mode, 40)


async def test_a_policy_in_python_that_fails_denies(mode: Mode, tmp_path: Path) -> None:
    (tmp_path / "agentguard.toml").write_text('policy.cedar = ["policy.cedar"]\n[store]\nkind = "memory"\n')
    (tmp_path / "policy.cedar").write_text(POLICY)

    def failing(request: AccessRequest) -> bool:
        raise KeyError(request.tool.name)

    with (
        Guard.from_file(tmp_path / "agentguard.toml", beside=failing) as guard,
        pytest.raises(Denied) as denied,
    ):
        await pay(guard, mode, 40)
    assert "KeyError" in denied.value.reason


def test_a_policy_object_and_another_policy_than_the_files_stand_beside_each_other(tmp_path: Path) -> None:
    (tmp_path / "agentguard.toml").write_text('[store]\nkind = "memory"\n')
    permit = Decision(effect=Effect.PERMIT, policy_ids=("other",))

    def other(request: AccessRequest) -> Decision:
        return permit

    with Guard.from_file(tmp_path / "agentguard.toml", policy=other, beside=lambda request: True) as guard:

        @guard.tool(path="read")
        def look() -> str:
            """Look."""
            return "seen"

        with guard.task("t", subject="alice", mandate={"tools": "*"}) as task:
            assert look.invoke({}) == "seen"
            (record, _) = guard.enforcement.ports.audit.records(task.id)
            assert record["policies"][0] == "other"
