"""The judgement of one call, by the store or by what this process remembers of the task.

Where the store is a `ports.ConditionalStore`, a call is judged by what is remembered, and the store begins it
only if that is still so. Otherwise it is judged anew by the store's answer. So no call runs on what was over
before the call came, and neither a denial nor a question comes of what is remembered alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.evaluation import Evaluation
from agentguard.enforcement.flow import Flow
from agentguard.enforcement.look import Look
from agentguard.enforcement.operations import stored
from agentguard.errors import ChoiceExhausted, Denied
from agentguard.model import NO_FACTS, AccessRequest, Basis, Call, LiveCredential, TaskState
from agentguard.telemetry import CallSpan

__all__ = ["BasisChanged", "Judgement"]

COMPARISONS = 2
"""How often a call is begun on the condition that nothing has changed. Calls beside it change its task, and a
rule may make calls too. After that it begins by what the store has answered a moment ago."""


class BasisChanged(Exception):
    """What a call was judged by is not so any more: nothing was begun. *tasks* are as they are now."""

    def __init__(self, tasks: Iterable[TaskState]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)


class Judgement:
    """Judges one call, and begins it.

    `request` is what was judged last, if it could be made. `share` says which task has used how many of its
    choice bits, where the store has had no room for those of the call.
    """

    __slots__ = ("_basis", "_comparisons", "_invocation", "_span", "request", "share")

    def __init__(self, invocation: Invocation, span: CallSpan) -> None:
        self._invocation, self._span = invocation, span
        self.request: AccessRequest | None = None
        self._basis: Basis | None = None
        self._comparisons, self.share = 0, ""

    async def judge(self, flow: Flow, changed: Iterable[TaskState] = ()) -> Permit | Evaluation:
        """Judge the call. *changed* are the tasks of an earlier judgement, as the store has answered.

        Raises:
            Denied: The call is not permitted.
        """
        operations, recollection = flow.operations, flow.enforcement.recollection
        task_id = self._invocation.task_id
        is_compared = self._comparisons < COMPARISONS  # else what is remembered would not be checked
        if changed or recollection is None or task_id is None or not is_compared:
            return await self._judge(flow, Look(operations, changed))
        look = recollection.look(operations, task_id)
        if look is None:
            return await self._judge(flow, Look(operations))
        try:
            judged: Permit | Evaluation | Denied = await self._judge(flow, look)
        except Denied as denied:
            judged = denied.with_traceback(None)
        if not isinstance(judged, Permit):
            return await self._confirm(judged, flow)
        return judged

    async def request_without_facts(self, flow: Flow) -> AccessRequest | None:
        """Return the request for which facts are to be read; None if the mandate rules the call out.

        Raises:
            Denied: The call cannot be judged at all.
        """
        requests = flow.authorization.requests
        request = await requests.of_call(self._invocation, self._span, None, None)
        return None if requests.is_outside(request) else request

    async def read_facts(self, flow: Flow, request: AccessRequest | None) -> None:
        """Read the facts by which the call is judged then."""
        if request is not None:
            self.request = replace(request, facts=await flow.facts.of(request))

    async def begin(self, flow: Flow, call: Call, credential: LiveCredential | None) -> None:
        """Begin the call as the store allows it.

        Raises:
            BasisChanged: What the call was judged by is not so any more.
            ChoiceExhausted: There is no room for the call's choice. From now on it is judged as one that
                needs none.
            Denied: The store refuses the call, or failed.
        """
        try:
            await self._begin(flow, call, credential)
        except ChoiceExhausted as error:
            self.share = str(error)
            raise

    async def _begin(self, flow: Flow, call: Call, credential: LiveCredential | None) -> None:
        operations, basis = flow.operations, self._basis
        if basis is None or operations.begin_if_unchanged is None or self._comparisons >= COMPARISONS:
            await stored(operations.begin_call(call, credential))
        else:
            self._comparisons += 1
            changed = await stored(operations.begin_if_unchanged(call, credential, basis))
            if changed is not None:
                if flow.enforcement.recollection is not None:
                    flow.enforcement.recollection.see(*changed)
                raise BasisChanged(changed)
        if (recollection := flow.enforcement.recollection) is not None:
            if basis is not None:
                recollection.begin(basis, call)
            elif self.request is not None:
                recollection.forget((call.task_id, *self.request.task.lineage))

    def approve(self) -> None:
        """Have the call begun as it was judged with its approval, by what was read after the answer."""
        self._basis = None

    async def _judge(self, flow: Flow, look: Look) -> Permit | Evaluation:
        authorization, invocation = flow.authorization, self._invocation
        # facts are read once for a call: reading one may be a call, which changes what the next is judged by
        facts = NO_FACTS if self.request is None else self.request.facts
        request = self.request = await authorization.requests.of_call(invocation, self._span, look, facts)
        self._basis = look.basis(request.task)
        try:
            evaluation = await authorization.judge(invocation, request, self._span, self.share)
            if evaluation.question:
                return evaluation
            return authorization.permit(invocation, evaluation)
        except Denied as denied:
            return authorization.observed(invocation, request, denied)

    async def _confirm(self, judged: Evaluation | Denied, flow: Flow) -> Permit | Evaluation:
        """Return what is judged by the store, of which *judged* is what is judged by what was remembered.

        The policy is asked once more only if something has changed.

        Raises:
            Denied: The call is not permitted.
        """
        look = Look(flow.operations)
        if self._basis is None or not await look.confirms(self._basis):
            return await self._judge(flow, look)
        if isinstance(judged, Denied):
            raise judged
        return judged
