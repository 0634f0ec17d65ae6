"""Make the request that is judged: who would do what in which task, and where the arguments came from.

Nothing here has a side effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial

from agentguard.enforcement.activation import left_task
from agentguard.enforcement.call import Invocation
from agentguard.enforcement.calls_here import CallsHere
from agentguard.enforcement.counting import Counting
from agentguard.enforcement.fact_reading import FactReading
from agentguard.enforcement.look import Look
from agentguard.enforcement.operations import Operations, stored
from agentguard.enforcement.routing import Routes
from agentguard.enforcement.setup import Options, Ports
from agentguard.errors import DenialCode, Denied, safe_text
from agentguard.model import (
    NO_FACTS,
    AccessRequest,
    Arguments,
    CallKey,
    Facts,
    Label,
    Sensitivity,
    TaskState,
    ToolPath,
    ToolSpec,
)
from agentguard.model.looks import Looks
from agentguard.model.mandate import ANY
from agentguard.ports.looks import looks_of
from agentguard.provenance.arguments import NOWHERE, provenance_of, value_digests
from agentguard.provenance.inside import places_in
from agentguard.provenance.records import needed_digests, resolved
from agentguard.telemetry import CallSpan

__all__ = ["AccessRequests", "unclassified"]


def unclassified(tool: str) -> Denied:
    """Return the denial of a call whose tool the catalog does not know."""
    return Denied.of(DenialCode.UNKNOWN_TOOL, f"{tool} is not classified in the catalog")


class AccessRequests:
    """Makes the requests of one guard, on one path."""

    def __init__(
        self,
        ports: Ports,
        options: Options,
        routes: Routes,
        operations: Operations,
        calls: CallsHere,
        facts: FactReading,
    ) -> None:
        self._calls, self.facts = calls, facts
        self._ports, self._options, self._routes = ports, options, routes
        self._environment = dict(options.environment)
        self._operations, self._counting = operations, Counting(ports, operations)

    async def of_call(
        self, invocation: Invocation, span: CallSpan, look: Look | None = None, facts: Facts | None = NO_FACTS
    ) -> AccessRequest:
        """Return who would do what in which task, and where the arguments came from, as *look* says.

        Without *look*, the store is asked. *facts* were read for this call already; with None, none are read.

        Raises:
            Denied: The call cannot be judged at all.
        """
        if invocation.problem is not None:
            raise invocation.problem
        arguments = invocation.arguments
        if arguments is None or (invocation.spec is None and not self._options.observe):
            raise unclassified(invocation.tool)
        look = look or Look(self._operations)
        task = await self._task(invocation, look)
        # nothing is known of an unclassified tool: its call counts as the worst
        spec = invocation.spec or ToolSpec(
            name=invocation.tool,
            path=ToolPath.ESCALATION,
            untrusted=True,
            sensitivity=Sensitivity.RESTRICTED,
            clearance=Sensitivity.PUBLIC,
        )
        span.describe(**{"task.id": task.id, "path": str(spec.path)})
        resumes = None
        if invocation.call_id and invocation.thread_id is not None:
            resumes = CallKey(invocation.key(task.id, arguments.digest, ""), task.id, spec.name, spec.path)
        return await self.of_tool(spec, arguments, task, look, resumes, facts)

    async def of_tool(
        self,
        spec: ToolSpec,
        arguments: Arguments,
        task: TaskState,
        look: Look | None = None,
        resumes: CallKey | None = None,
        facts: Facts | None = NO_FACTS,
    ) -> AccessRequest:
        """Return the request of a task for one tool with these arguments.

        The facts and numbers are asked only for what the mandate does not rule out. What the suspended call
        *resumes* has done does not count against itself.

        Raises:
            Denied: The store does not tell where the arguments came from.
        """
        labels: dict[str, list[Label]] = {}
        looks = self._looks(spec)
        places = places_in(arguments.values, looks, spec.declared) if looks else NOWHERE
        if digests := value_digests(task, arguments, places):
            for label in await self._labels(task, digests, look or Look(self._operations)):
                labels.setdefault(label.digest, []).append(label)
        resource = self._ports.catalog.resource(spec.resource)
        route = None if resource is None else self._routes.find(resource, spec.path)
        provenance = provenance_of(spec, arguments, task, labels, places, tools=self._tools(task))
        request = AccessRequest(
            identity=task.identity,
            tool=spec,
            arguments=arguments,
            task=task,
            environment=self._environment,
            legacy=route is not None and route.legacy,
            provenance=provenance.arguments,
            at=self._options.clock(),
            distinctions=arguments.rule_distinctions,
            choice=provenance.choice,
        )
        counts = bool(self._ports.catalog.counted or task.counted)
        if facts is None or not (spec.facts or counts) or self.is_outside(request):
            return request
        if spec.facts and facts.missing(fact.name for fact in self.facts.needed(spec)):
            facts = await self.facts.of(request)
        if spec.facts:
            request = replace(request, facts=facts)
        return await self._counting.of(request, resumes) if counts else request

    def _tools(self, task: TaskState) -> int:
        """Return how many tools the task may call."""
        names = task.mandate.tools
        return len(self._ports.catalog) if ANY in names else len(names)

    def is_outside(self, request: AccessRequest) -> bool:
        """Return whether the mandate of the task rules the call out."""
        mandate = request.task.mandate
        is_taken = partial(self._ports.catalog.is_taken, mandate.tools)
        return mandate.objection(request.tool, request.arguments, is_taken) is not None

    async def _labels(self, task: TaskState, digests: Collection[str], look: Look) -> Iterable[Label]:
        """Return the labels of values, trusted as what stood beside these vouches for them."""
        labels = await look.labels(task.root_id, digests)
        if not any(label.record for label in labels):
            return labels
        beside = await look.labels(task.root_id, needed_digests(labels))
        return resolved(labels, beside, self._ports.catalog.tool)

    def _looks(self, spec: ToolSpec) -> Looks:
        """Return the places inside of the arguments at which rules look, or may look on record."""
        if self._options.record_requests:
            return spec.looks
        return looks_of(self._ports.policy, spec)

    async def _task(self, invocation: Invocation, look: Look) -> TaskState:
        task_id = invocation.task_id
        if task_id is None:
            raise await self._none_active()
        state = await self._known(look, task_id)
        config_task = invocation.named_task
        if config_task is not None and config_task not in (state.id, *state.lineage):
            reason = (
                f"task {task_id} is active in this context, and the run's config names task {config_task}"
            )
            raise Denied.of(DenialCode.TASK_MISMATCH, reason)
        if (ended := state.ended(self._options.clock())) is not None:
            raise Denied.of(DenialCode.TASK_ENDED, f"task {task_id} is {ended}")
        if self._calls.is_unended(state):
            reason = f"task {task_id} is over, and its end is yet to be stored"
            raise Denied.of(DenialCode.TASK_ENDED, reason)
        try:
            actor = self._ports.identity.actor()
        except Exception as error:  # noqa: BLE001  an agent without an identity acts for nobody
            raise Denied.of(DenialCode.NO_IDENTITY, f"no identity: {safe_text(error)}") from None
        state = await self._within_family(state, look)
        if actor != state.identity.actor and actor not in state.identity.chain:
            return replace(state, identity=state.identity.delegate(actor))
        return state

    async def family_state(self, task_id: str) -> TaskState:
        """Return a task as rules see it.

        Raises:
            Denied: The store does not know it, or fails.
        """
        look = Look(self._operations)
        return await self._within_family(await self._known(look, task_id), look)

    async def _within_family(self, state: TaskState, look: Look) -> TaskState:
        for ancestor_id in state.lineage:
            state = state.within(await self._known(look, ancestor_id))
        return state

    async def _none_active(self) -> Denied:
        """Return the denial of a call without a task; work that a task has left behind makes such calls."""
        task_id = left_task()
        state = None if task_id is None else await stored(self._operations.task(task_id))
        if state is not None and (ended := state.ended(self._options.clock())) is not None:
            reason = f"task {state.id} was active in this context, and is {ended}"
            return Denied.of(DenialCode.TASK_ENDED, reason)
        return Denied.of(DenialCode.NO_TASK, "no task is active in this context or in the run's config")

    @staticmethod
    async def _known(look: Look, task_id: str) -> TaskState:
        state = await look.task(task_id)
        if not isinstance(state, TaskState):
            raise Denied.of(DenialCode.TASK_ENDED, f"task {task_id} is unknown to the store")
        return state
