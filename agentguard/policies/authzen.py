"""A policy decision point (PDP) beyond this process, by the OpenID AuthZEN Authorization API 1.0."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx

from agentguard._drive import Asked, drive, lift
from agentguard.errors import AgentGuardError, ConfigurationError
from agentguard.flight import Shared, SingleFlight
from agentguard.jose import strict_json
from agentguard.model import AccessRequest, ApprovalStatus, Decision, Effect, Obligation
from agentguard.model.arguments import Json
from agentguard.outbound import Answer, Outbound
from agentguard.policies.combine import merged

__all__ = ["AuthZen", "AuthZenError"]

_OK, _TEXT, _LIMIT = 200, 500, 65_536  # status, characters, bytes
_METADATA = "/.well-known/authzen-configuration"


class AuthZenError(AgentGuardError):
    """The PDP gave no answer that counts; the guard denies. It says nothing of what was asked."""


@dataclass(frozen=True, slots=True)
class _Endpoints:
    evaluation: str
    evaluations: str | None


class _Io(NamedTuple):
    """What differs between the two paths."""

    ask: Asked
    share: Shared
    enter: Asked
    leave: Callable[[], None]


class AuthZen:
    """Asks the PDP whose identifier is *url*, and denies whatever it does not clearly permit.

    The question is whether the subject (type ``identity``: for whom the agent acts) may do the action
    (the tool's name) to the resource (its type and id the tool's resource, or else ``tool`` and the
    tool's name). **The values of the tool's arguments are sent to the PDP**, as properties of the
    resource, for not every PDP lets rules see those of an action. Credentials are not sent. The context
    has ``agent``, ``task``, ``path``, ``provenance``, ``environment``, ``legacy``, and ``approval`` once a
    person has approved. A call that would be permitted with ``context.approval`` needs a person; both
    questions are one batch where the PDP's metadata offers it.

    Of the answer's context, ``obligations`` are carried over with their types as kinds, of which the
    guard refuses those that it does not know; ``policy_ids`` or ``id`` name what determined the answer,
    the PDP itself otherwise; ``reason_admin`` and ``reason_user`` become reason and advice.

    *version* names the rules in force at the PDP, which AuthZEN does not tell: change it with them.
    *timeout*, in seconds, is for each of: waiting for one of *limit* places (those of the synchronous
    path, and those of each event loop, are counted apart), the metadata once, and each question.

    Raises:
        ConfigurationError: The url is neither https nor of loopback.
    """

    def __init__(
        self,
        url: str,
        *,
        version: str,
        timeout: float = 1.0,
        limit: int = 16,
        entropy: Callable[[int], bytes] = os.urandom,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url, self._timeout, self._limit, self._entropy = url.rstrip("/"), timeout, limit, entropy
        if not _private(self._url):
            raise ConfigurationError("the PDP's url is neither https nor of loopback", mend="use https")
        self.version = f"{self._url} {version}"
        self._http = Outbound(
            "authzen",
            self._url,
            error=AuthZenError,
            timeout=timeout,
            limit=_LIMIT,
            verify=verify,
            transport=transport,
            async_transport=async_transport,
        )
        self._flight = SingleFlight(timeout=timeout)
        self._endpoints: _Endpoints | None = None
        self._places = threading.BoundedSemaphore(limit)
        # a semaphore belongs to the event loop that waits for it
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    def close(self) -> None:
        """Close the synchronous connections; asynchronous ones end with their event loop."""
        self._http.close()

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request.

        Raises:
            AuthZenError: The PDP gave no answer that counts.
        """
        places = self._places
        enter = lift(lambda: places.acquire(timeout=self._timeout))
        return drive(
            self._limited(request, _Io(self._http.ask.sync, self._flight.share.sync, enter, places.release))
        )

    async def adecide(self, request: AccessRequest) -> Decision:
        """Answer the request.

        Raises:
            AuthZenError: The PDP gave no answer that counts.
        """
        places = self._loops.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._limit))

        async def enter() -> bool:
            try:
                async with asyncio.timeout(self._timeout):
                    return await places.acquire()
            except TimeoutError:
                return False

        http, share = self._http.ask.asynchronous, self._flight.share.asynchronous
        return await self._limited(request, _Io(http, share, enter, places.release))

    async def _limited(self, request: AccessRequest, io: _Io) -> Decision:
        if not await io.enter():
            raise AuthZenError("authzen: too many questions at once")
        try:
            return await self._decide(request, io)
        except (ValueError, TimeoutError) as error:
            reason = str(error) if type(error) is ValueError else type(error).__name__
        finally:
            io.leave()
        # outside of the handler, so that the error has no context, which would hold the answer
        raise AuthZenError(f"authzen: {reason}")

    async def _decide(self, request: AccessRequest, io: _Io) -> Decision:
        endpoints = self._endpoints
        if endpoints is None:
            endpoints = self._endpoints = await io.share("metadata", lambda: self._discover(io))
        question = _question(request)
        if request.approval is not None:
            return self._decision(await self._post(io, endpoints.evaluation, question))
        asking = {**question, "context": {**question["context"], "approval": {"approvers": 1}}}
        if endpoints.evaluations is not None:
            first, second = await self._batch(io, endpoints.evaluations, question, asking)
        else:
            first = self._decision(await self._post(io, endpoints.evaluation, question))
            second = first
            if not first.permitted:
                second = self._decision(await self._post(io, endpoints.evaluation, asking), person=True)
        return second if second.permitted and not first.permitted else first

    async def _batch(
        self, io: _Io, url: str, question: Mapping[str, Json], asking: Mapping[str, Json]
    ) -> tuple[Decision, Decision]:
        common = {name: value for name, value in question.items() if name != "context"}
        contexts = [{"context": each["context"]} for each in (question, asking)]
        options = {"evaluations_semantic": "permit_on_first_permit"}
        answer = await self._post(io, url, {**common, "evaluations": contexts, "options": options})
        items = answer.get("evaluations")
        if not isinstance(items, list) or len(items) > len(contexts):
            raise ValueError("the batch was not answered one by one")
        missing = [{"decision": False}] * (len(contexts) - len(items))
        first, second = items + missing
        return self._decision(first), self._decision(second, person=True)

    async def _discover(self, io: _Io) -> _Endpoints:
        parts = urlsplit(self._url)
        where = f"{parts.scheme}://{parts.netloc}{_METADATA}{parts.path}"
        metadata = _object(await io.ask("GET", where, repeatable=True))
        if metadata.get("policy_decision_point") != self._url:
            raise ValueError("the metadata are those of another PDP")
        urls = [metadata.get(f"access_{name}_endpoint") for name in ("evaluation", "evaluations")]
        for url in urls:
            if url is not None and not _private(url):
                raise ValueError("an endpoint is neither https nor of loopback")
        if urls[0] is None:
            raise ValueError("the metadata name no evaluation endpoint")
        return _Endpoints(urls[0], urls[1])

    async def _post(self, io: _Io, url: str, body: Mapping[str, Json]) -> dict[str, Json]:
        id = self._entropy(16).hex()
        answer: Answer = await io.ask("POST", url, json=body, headers={"X-Request-ID": id}, repeatable=True)
        if answer.headers.get("x-request-id", id) != id:
            raise ValueError("the answer is to another request")
        return _object(answer)

    def _decision(self, answer: object, *, person: bool = False) -> Decision:
        if not isinstance(answer, dict) or not isinstance(answer.get("decision"), bool):
            raise ValueError("the decision is not a boolean")
        context = answer.get("context") or {}
        if not isinstance(context, dict) or "error" in context:
            raise ValueError("the context is no object, or tells of an error")
        permitted: bool = answer["decision"]
        approve = [Obligation(kind="approve")] if person else []
        verb = "permitted" if permitted else "denied"
        return Decision(
            effect=Effect.PERMIT if permitted else Effect.DENY,
            policy_ids=_ids(context) or (self._url,),
            reason=_told(context.get("reason_admin")) or f"{verb} by {self._url}",
            advice=_told(context.get("reason_user")),
            obligations=merged([*approve, *_obligations(context)]) if permitted else (),
            policy_version=self.version,
        )


def _question(request: AccessRequest) -> dict[str, Any]:
    task, tool, who, approval = request.task, request.tool, request.identity, request.approval
    context: dict[str, Json] = {
        "agent": who.actor,
        "task": {
            "id": task.id,
            "purpose": task.purpose,
            "history": list(task.history),
            "calls": task.calls,
            "writes": task.writes,
        },
        "path": str(tool.path),
        "provenance": {"untrusted": task.untrusted},
        "environment": dict(request.environment),
        "legacy": request.legacy,
    }
    if approval is not None and approval.status is ApprovalStatus.APPROVED:
        named = {} if approval.approver is None else {"approver": approval.approver}
        context["approval"] = {"approvers": 1, **named}
    properties: dict[str, Json] = {"actor": who.actor, "chain": list(who.chain)}
    return {
        "subject": {"type": "identity", "id": who.subject, "properties": properties},
        "action": {"name": tool.name},
        "resource": {
            "type": tool.resource or "tool",
            "id": tool.resource or tool.name,
            "properties": request.arguments.values,
        },
        "context": context,
    }


def _obligations(context: Mapping[str, Json]) -> list[Obligation]:
    given = context.get("obligations", [])
    if not isinstance(given, list):
        raise ValueError("the obligations are not a list")
    return [_obligation(each) for each in given]


def _obligation(given: Json) -> Obligation:
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(kind, str) or not isinstance(given.get("properties", {}), dict):
        raise ValueError("an obligation has no type, or its properties are no object")
    return Obligation(kind=kind, parameters=given.get("properties", {}))


def _ids(context: Mapping[str, Json]) -> tuple[str, ...]:
    ids = context.get("policy_ids", [context.get("id")])
    return tuple(each for each in ids if isinstance(each, str)) if isinstance(ids, list) else ()


def _told(reason: Json) -> str:
    """Return a reason, or of several (by status or language) the first by name, shortened."""
    if isinstance(reason, dict) and reason:
        reason = reason[min(reason)]
    return reason[:_TEXT] if isinstance(reason, str) else ""


def _object(answer: Answer) -> dict[str, Json]:
    if answer.status != _OK:
        raise ValueError(f"answered {answer.status}")
    body = strict_json(answer.content)
    if not isinstance(body, dict):
        raise ValueError("the answer is no JSON object")
    return body


def _private(url: object) -> bool:
    """Whether nobody on the way can read or change what is sent there."""
    if not isinstance(url, str):
        return False
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    try:
        return parts.scheme == "http" and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"
