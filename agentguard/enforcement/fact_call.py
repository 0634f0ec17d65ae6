"""The call by which a fact is read with a credential: the READ credential of one resource.

The application has declared it, so no mandate and no policy is asked: they are about what a model wants. The
rights of user and agent count. The credential is recorded before it is minted, and revoked when the fact is
read, as that of a tool's call is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.fact_reading import Lenders
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.guarded_call import GuardedCall
from agentguard.enforcement.judgement import Judgement
from agentguard.model import NO_FACTS, AccessRequest, Arguments, FactSpec, Json, TaskState, ToolPath, ToolSpec

__all__ = ["lend_credentials"]

T = TypeVar("T")


class _FactJudgement(Judgement):
    """The judgement of the reading of a fact: what may be issued for it."""

    __slots__ = ()

    async def judge(self, flow: Flow, changed: Iterable[TaskState] = ()) -> Permit:
        """Return the permit of the reading.

        Raises:
            Denied: There is no credential for it.
        """
        assert self.request is not None  # noqa: S101  it was made with the call
        return flow.authorization.permit(self._invocation, await flow.authorization.of_fact(self.request))


class _FactCall(GuardedCall):
    """A call of no tool: the reading of one fact, for the task and the user of *request*."""

    __slots__ = ()

    def __init__(self, flow: Flow, spec: FactSpec, request: AccessRequest, key: tuple[Json, ...]) -> None:
        tool = ToolSpec(
            name=f"fact:{spec.name}", path=ToolPath.READ, resource=spec.credential, scopes=spec.scopes
        )
        arguments = Arguments.of({"key": list(key)})
        invocation = Invocation(tool.name, tool, arguments, named_task=request.task.id, unseen=True)
        super().__init__(flow, invocation)
        self._judgement = _FactJudgement(invocation, self._span)
        self._judgement.request = replace(
            request, tool=tool, arguments=arguments, approval=None, provenance={}, facts=NO_FACTS
        )


def lend_credentials(enforcement: Enforcement) -> None:
    """Let the facts of a guard that declare a credential be read with one."""
    blocking = partial(_lend, enforcement.sync)
    for flow in (enforcement.sync, enforcement.async_):
        flow.facts.lenders = Lenders(partial(_lend, flow), blocking)


async def _lend(
    flow: Flow,
    spec: FactSpec,
    request: AccessRequest,
    key: tuple[Json, ...],
    read: Callable[[], Awaitable[T]],
) -> T:
    """Read a fact within a lease of its credential.

    Raises:
        Denied: There is no credential to be had.
    """
    async with _FactCall(flow, spec, request, key) as permit:
        arguments = permit.invocation.arguments
        assert arguments is not None  # noqa: S101  the call was made with them
        lease = permit.enter(arguments.digest)
        token = lease.open()
        try:
            return await read()
        finally:
            permit.leave()
            lease.release(token)
