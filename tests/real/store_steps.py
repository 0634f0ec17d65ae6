"""Sequences of operations on a store, for comparing two stores: each step has the same answer in both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st

from agentguard.errors import AgentGuardError, TaskNotActive
from agentguard.model import (
    Approval,
    ApprovalStatus,
    Budget,
    Call,
    Identity,
    Label,
    LiveCredential,
    Login,
    Outcome,
    ReadEffects,
    Sensitivity,
    TaskState,
    TaskStatus,
    ToolPath,
)
from agentguard.testing import sample_task
from agentguard.testing.scenarios import AwaitedPort
from agentguard.testing.scenes import call

__all__ = ["Step", "answers", "steps"]

Step = tuple[str, tuple[Any, ...], dict[str, Any]]
"""The name of an operation and its arguments; ``wait`` moves the clock."""

NOW = 1000.0
LINEAGES: dict[str, tuple[str, ...]] = {
    "root": (),
    "parent": ("root",),
    "child": ("parent", "root"),
    "sister 4:child": ("root",),
    "öther's\x00{task}": (),
}
ids = st.sampled_from(["child", "child", "parent", "root", "sister 4:child", "öther's\x00{task}"])
calls = st.sampled_from(["c1", "c2", "1:c3"])
keys = st.sampled_from(["k1", "k1", "k1", "k2"])
tools = st.sampled_from(["get", "get", "get", "pay", "tool:get", "3:get"])
paths = st.sampled_from(ToolPath)
times = st.sampled_from([NOW + 10, NOW + 60.123456789012345, 2**53 + 1.0, NOW + 300, 1e12, float("inf")])
deadlines = st.sampled_from([1e12, float("inf"), 2**53 + 1.0, NOW + 3600.1, NOW + 3600, NOW + 60.1])
approvals = st.sampled_from(["a1", "a1", "a2"])
texts = st.sampled_from(["", "x", "a'b\"\n", "5:hello", "\ud800", "ü"])
limits = st.sampled_from([None] * 20 + [3, 3, 4, 10, 2**53, 2**53 + 2, 2**63, 10**30, 0, -1])
counts = st.sampled_from([0] * 8 + [1, 2, 9, 2**53, 2**53 + 1])
subjects = st.sampled_from(["user:ada", "user:Ada@Example.com", "user:ada@example.com", ""])
issuers = st.sampled_from(["https://idp.example", "https://other.example"])
names = st.sampled_from(["", "one", "two"])
without = st.sampled_from(["", "subject", "session", "jti"])
logins = st.builds(Login, issuer=issuers, subject=names, session=names, jti=names)
identities = st.builds(
    Identity, subject=subjects, actor=st.just("agent://a"), chain=st.sampled_from([(), ("x", "")])
)
budgets = st.builds(Budget, calls=limits, writes=limits, questions=limits)
labels = st.builds(
    Label,
    digest=st.sampled_from(["d1", "d2"]),
    source=st.sampled_from(["get", "get.field", "1"]),
    trusted=st.booleans(),
    sensitivity=st.sampled_from(Sensitivity),
)
effects = st.builds(
    ReadEffects,
    untrusted=st.booleans(),
    sensitivity=st.sampled_from(Sensitivity),
    labels=st.lists(labels, max_size=4).map(tuple),
)


@st.composite
def tasks(draw: st.DrawFn, id_: str = "") -> TaskState:
    """Return a new task; most are active."""
    id_ = id_ or draw(ids)
    return sample_task(
        id_,
        purpose=draw(texts),
        lineage=LINEAGES[id_],
        identity=draw(identities),
        deadline=draw(deadlines),
        budget=draw(budgets),
        status=draw(st.sampled_from([TaskStatus.ACTIVE] * 19 + [TaskStatus.COMPLETED])),
        calls=draw(counts),
        writes=draw(counts),
        questions=draw(counts),
        labels=draw(st.sampled_from([0, 0, 1])),
        history=draw(st.sampled_from([(), (), ("get",), ("pay", "get")])),
        untrusted=draw(st.booleans()),
        sensitivity=draw(st.sampled_from(Sensitivity)),
        words=draw(texts),
        kinds=draw(st.sampled_from([(), ("refund",)])),
        login=draw(st.none() | logins),
    )


@st.composite
def credentials(draw: st.DrawFn) -> LiveCredential:
    """Return a credential; its task need not be that of its call."""
    return LiveCredential(
        call_id=draw(calls),
        task_id=draw(ids),
        broker=draw(st.sampled_from(["b", "1:b"])),
        handle=draw(st.sampled_from(["h", "", "\x00"])),
        expires_at=draw(times),
        owner=draw(texts),
    )


questions = st.builds(
    Approval,
    id=approvals,
    call_key=keys,
    task_id=ids,
    tool=tools,
    digest=st.just("d"),
    policy_version=st.just("1"),
    expires_at=st.sampled_from([NOW + 60, NOW + 300]),
    status=st.sampled_from([ApprovalStatus.PENDING] * 19 + [ApprovalStatus.APPROVED]),
    path=paths,
    purpose=texts,
    display=st.just("{}"),
    shown_digest=st.sampled_from(["", "s"]),
)
begun = st.builds(
    Call,
    id=calls,
    key=keys,
    task_id=ids,
    tool=tools,
    path=paths,
    at=st.just(NOW),
    approval_id=st.none() | approvals,
)


def _step(name: str, *arguments: st.SearchStrategy[Any], **options: st.SearchStrategy[Any]) -> Any:
    return st.tuples(st.just(name), st.tuples(*arguments), st.fixed_dictionaries(options))


_ANY = st.one_of(
    _step("wait", st.sampled_from([0.5, 10.0, 60.0])),
    _step("create_task", tasks()),
    _step("task", ids),
    _step("begin_call", begun, st.none() | credentials()),
    _step("begin_approved", approvals, calls),
    _step("track", credentials()),
    _step("end_call", calls, st.sampled_from([*Outcome, Outcome.SUSPENDED]), effects=effects),
    _step(
        "end_call",
        calls,
        st.just(Outcome.DONE),
        revoked=st.booleans(),
        remember=st.none() | st.tuples(keys, times),
    ),
    _step("labels", ids, st.lists(st.sampled_from(["d1", "d2", "d3"]), max_size=3)),
    _step("forget", calls),
    _step("live", st.none() | ids),
    _step(
        "end_task",
        ids,
        st.sampled_from([TaskStatus.COMPLETED, TaskStatus.REVOKED]),
        st.lists(credentials(), max_size=2),
    ),
    _step("active", subjects, without=without, folded=st.booleans()),
    _step(
        "active_in",
        logins.filter(lambda login: bool(login.subject or login.session or login.jti)),
        without=without,
    ),
    _step("remember", keys, times),
    _step("known", keys),
    _step("save_approval", questions),
    _step("answer", approvals, st.sampled_from([*ApprovalStatus, ApprovalStatus.APPROVED]), texts, texts),
    _step("approval", approvals),
    _step("approval_for", keys),
    _step("rejection", ids, tools, st.sampled_from(["", "s"])),
)
_USUAL = st.one_of(
    _step("begin_call", begun, st.none() | credentials()),
    _step("begin_call", begun.map(lambda call: replace(call, approval_id=None)), st.none()),
    _step("save_approval", questions.map(lambda question: replace(question, status=ApprovalStatus.PENDING))),
    _step("answer", approvals, st.just(ApprovalStatus.APPROVED), texts, texts),
    _step("answer", approvals, st.just(ApprovalStatus.DENIED), texts, texts),
    _step("begin_approved", approvals, calls),
    _step("begin_approved", approvals, calls),
    _step("resumed", calls, calls),
    _step("resumed", calls, calls),
    _step("end_call", calls, st.sampled_from([Outcome.DONE, Outcome.SUSPENDED]), effects=effects),
)
steps: st.SearchStrategy[list[Step]] = st.builds(
    lambda family, later: [*family, *later],
    st.tuples(*(_step("create_task", tasks(name)) for name in LINEAGES)),
    st.lists(_USUAL | _USUAL | _ANY, min_size=20, max_size=50),
)


class Watch:
    """The clock of one store, and the call that was begun there last."""

    def __init__(self) -> None:
        self.now, self.call = (
            NOW,
            Call(id="c1", key="k1", task_id="root", tool="get", path=ToolPath.READ, at=NOW),
        )

    def __call__(self) -> float:
        return self.now


async def answers(store: AwaitedPort, watch: Watch, sequence: Iterable[Step]) -> list[Any]:
    """Run the steps and return each answer, or the class and the text of the error, and all that is kept."""
    results = [await _answer(store, watch, step) for step in sequence]
    return results + [await store.task(id_) for id_ in LINEAGES]


async def _answer(store: AwaitedPort, watch: Watch, step: Step) -> Any:
    name, arguments, options = step
    if name == "wait":
        watch.now += arguments[0]
        return None
    try:
        if name in _OF_THE_TEST:
            return await _OF_THE_TEST[name](store, watch, *arguments)
        if name == "begin_call":
            watch.call = arguments[0]
        result = await getattr(store, name)(*arguments, **options)
    except AgentGuardError as error:
        return type(error), str(error)
    # in no certain order
    return set(result) if name in ("live", "active", "active_in") else result


async def _recorded(store: AwaitedPort, approval_id: str) -> Approval:
    """Return a question as it is recorded, or one that was never asked."""
    facts: dict[str, Any] = {
        "call_key": "k1",
        "task_id": "root",
        "tool": "get",
        "digest": "d",
        "policy_version": "1",
    }
    recorded: Approval | None = await store.approval(approval_id)
    return recorded or Approval(id=approval_id, expires_at=NOW + 60, **facts)


async def _reply(
    store: AwaitedPort, _watch: Watch, approval_id: str, status: ApprovalStatus, approver: str, reason: str
) -> None:
    recorded = await _recorded(store, approval_id)
    await store.answer_approval(replace(recorded, status=status, approver=approver or None, reason=reason))


async def _begin_approved(store: AwaitedPort, watch: Watch, approval_id: str, call_id: str) -> None:
    recorded = await _recorded(store, approval_id)
    facts: dict[str, Any] = {"key": recorded.call_key, "task_id": recorded.task_id, "tool": recorded.tool}
    watch.call = Call(id=call_id, path=recorded.path, at=NOW, approval_id=approval_id, **facts)
    await store.begin_call(watch.call, None)


async def _resumed(store: AwaitedPort, watch: Watch, first_id: str, second_id: str) -> None:
    """Suspend the last call and resume it by one id, and then by another, which is no resumption."""
    await store.end_call(watch.call.id, Outcome.SUSPENDED)
    watch.call = replace(watch.call, id=first_id)
    await store.begin_call(watch.call, None)
    await store.begin_call(replace(watch.call, id=second_id), None)


_OF_THE_TEST: dict[str, Any] = {"answer": _reply, "begin_approved": _begin_approved, "resumed": _resumed}


def require_ended_by_another_host(store: Any, ahead: Any, now: float) -> None:
    """Require that a host whose clock is ahead ends what still runs on another host."""
    login = Login(issuer="https://issuer.example", subject="4", session="s", jti="j")
    for name in ("by subject", "by login"):
        store.create_task(replace(sample_task(name, deadline=now + 300.0), login=login))
    subject = sample_task().identity.subject
    assert set(ahead.active(subject)) == {"by subject", "by login"}
    ahead.end_task("by subject", TaskStatus.REVOKED)
    assert ahead.active_in(login) == ("by login",)
    ahead.end_task("by login", TaskStatus.REVOKED)
    for name in ("by subject", "by login"):
        with pytest.raises(TaskNotActive):
            store.begin_call(call(name, task=name), None)
