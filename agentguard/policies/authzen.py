"""A policy decision point (PDP) beyond this process, by the OpenID AuthZEN Authorization API 1.0."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import httpx

from agentguard.errors import AgentGuardError, ConfigurationError
from agentguard.model import AccessRequest, Decision, Effect, Obligation
from agentguard.model.arguments import Json
from agentguard.outbound.client import Answer
from agentguard.outbound.destinations import Origin, is_confidential_url, origin_of
from agentguard.policies._bearer import TokenSource
from agentguard.policies._question import PdpUsers, question, with_approval
from agentguard.policies._remote import (
    TEXT,
    Remote,
    RemoteOperations,
    content,
    of_a_deny,
    read_obligations,
)
from agentguard.policies.combine import merge_obligations

__all__ = ["AuthZen", "AuthZenError", "PdpUsers"]

log = logging.getLogger("agentguard")

_METADATA, _EVALUATION = "/.well-known/authzen-configuration", "/access/v1/evaluation"
_NOT_FOUND = 404
_GONE = frozenset({_NOT_FOUND, 405, 410})
_FRESH = 300.0  # seconds for which the metadata hold


_USERS = PdpUsers()


class AuthZenError(AgentGuardError):
    """The PDP gave no answer that counts, so the guard denies. The error holds nothing of the question."""


_UNANSWERED = Decision(effect=Effect.DENY, reason="the PDP has answered a question with an error")


@dataclass(frozen=True, slots=True)
class _Endpoints:
    evaluation: str
    evaluations: str | None
    until: float


class AuthZen(Remote):
    """Asks the PDP whose identifier is *url*, and denies whatever it does not clearly permit.

    The question is whether the subject (for whom the agent acts; by its id and type of *users*) may do the
    action (the tool's name) to the resource. The type and the id of the resource are the tool's resource; for
    a tool without resource they are ``tool`` and the tool's name. **The values of the tool's arguments are
    sent to the PDP**, as properties of the resource, since not every PDP lets rules see the properties of an
    action. Credentials are not sent. The context has ``agent``, ``task``, ``history``, ``path``,
    ``clearance``, ``provenance`` (of the task, and of each argument in ``args``), ``environment``,
    ``legacy``, the time as ``at``, and ``approval`` once a person has approved. A call that would be
    permitted with ``context.approval`` needs a person. Both questions are one batch if the PDP's metadata
    offers it.

    From the answer's context, ``obligations`` are taken over with their types as kinds, also of a deny; the
    guard denies for a kind that it does not know. A deny that ends the session (``session_termination``) asks
    no person. ``policy_ids`` or ``id`` name what determined the answer, by default the PDP
    itself. ``reason_admin`` and ``reason_user`` become reason and advice.

    *version* names the rules in force at the PDP. AuthZEN does not tell it, so change it with the rules.
    *timeout*, in seconds, is for each of: waiting for one of *limit* places, the metadata once, and each
    question. The places of the synchronous path, those of each event loop, and those of each subject are
    counted apart.

    *token* is the source of a bearer token, by which the guard authenticates itself at the PDP. For mutual
    TLS, give an `ssl.SSLContext` with a certificate as *verify*.

    The PDP need not publish metadata. Without them, or without an endpoint in them, it is asked at the
    standard's default path below *url*. Metadata are read anew after 300 seconds, and for the next question
    if an endpoint answers 404, 405 or 410. The arguments and the token go nowhere but to the scheme, host and
    port of *url*, or to one of *origins*, such as ``https://eval.pdp.example``.

    An error in one item of a batch makes that item a deny. If the first question has an error and a person's
    approval would permit the call, a person is asked.

    Raises:
        ConfigurationError: The url is neither https nor of loopback, or has more than a place in it, or
            one of *origins* is no such origin.
    """

    def __init__(
        self,
        url: str,
        *,
        version: str,
        origins: Iterable[str] = (),
        users: PdpUsers = _USERS,
        timeout: float = 1.0,
        limit: int = 16,
        verify: ssl.SSLContext | bool = True,
        token: TokenSource | None = None,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(
            "authzen",
            url,
            error=AuthZenError,
            version=version,
            timeout=timeout,
            limit=limit,
            verify=verify,
            transport=transport,
            async_transport=async_transport,
            token=token,
        )
        self._users = users
        self._origins = {_origin_of(self._url), *map(_named_origin, origins)} - {None}
        self._endpoints: _Endpoints | None = None

    @property
    def example(self) -> str:
        """A subject of which the PDP has a name, whom nobody is called."""
        return self._users.name.replace("{id}", "agentguard-doctor")

    async def _decide(self, request: AccessRequest, operations: RemoteOperations) -> Decision:
        endpoints = await self._current(operations)
        body = question(request, users=self._users)
        if request.approval is not None:
            return self._decision(await self._post(operations, endpoints.evaluation, body))
        if endpoints.evaluations is not None:
            first, second = await self._batch(operations, endpoints.evaluations, body)
        else:
            first = second = self._decision(await self._post(operations, endpoints.evaluation, body))
            if not first.permitted and not first.ends_session:
                answer = await self._post(operations, endpoints.evaluation, with_approval(body))
                second = self._decision(answer, person=True)
        ask_a_person = second.permitted and not first.permitted and not first.ends_session
        return second if ask_a_person else first

    async def _current(self, operations: RemoteOperations) -> _Endpoints:
        """Return the endpoints. Old ones serve where the metadata cannot be read anew just now."""
        endpoints = self._endpoints
        if endpoints is not None and time.monotonic() < endpoints.until:
            return endpoints
        try:
            current: _Endpoints = await operations.share("metadata", lambda: self._discover(operations))
        except (AuthZenError, ValueError, TimeoutError) as error:
            if endpoints is None:
                raise
            log.warning("the PDP's metadata cannot be read anew: %s", type(error).__name__)
            current = replace(endpoints, until=time.monotonic() + _FRESH)
        self._endpoints = current
        return current

    async def _batch(
        self, operations: RemoteOperations, url: str, body: Mapping[str, Json]
    ) -> tuple[Decision, Decision]:
        common = {name: value for name, value in body.items() if name != "context"}
        contexts = [{"context": variant["context"]} for variant in (body, with_approval(body))]
        options = {"evaluations_semantic": "permit_on_first_permit"}
        answer = await self._post(operations, url, {**common, "evaluations": contexts, "options": options})
        items = answer.get("evaluations")
        if not isinstance(items, list) or len(items) > len(contexts):
            raise ValueError("the batch was not answered one by one")
        missing = [{"decision": False}] * (len(contexts) - len(items))
        first, second = (
            _UNANSWERED if _is_error(item) else self._decision(item, person=person)
            for item, person in zip(items + missing, (False, True), strict=True)
        )
        if first is _UNANSWERED and not second.permitted:
            raise ValueError(_UNANSWERED.reason)
        return first, second

    async def _discover(self, operations: RemoteOperations) -> _Endpoints:
        parts = urlsplit(self._url)
        where = f"{parts.scheme}://{parts.netloc}{_METADATA}{parts.path}"
        until = time.monotonic() + _FRESH
        answer: Answer = await operations.ask("GET", where, repeatable=True)
        if answer.status == _NOT_FOUND:
            return _Endpoints(self._url + _EVALUATION, None, until)
        metadata = content(answer)
        identifier = metadata.get("policy_decision_point")
        if not isinstance(identifier, str) or identifier.rstrip("/") != self._url:
            raise ValueError("the metadata are those of another PDP")
        urls = [metadata.get(f"access_{name}_endpoint") for name in ("evaluation", "evaluations")]
        if urls[0] is None and "access_evaluation_endpoint" in metadata:
            raise ValueError("the metadata's evaluation endpoint is no URL")
        for url in urls:
            if url is not None:
                self._require_origin(url)
        return _Endpoints(urls[0] or self._url + _EVALUATION, urls[1], until)

    def _require_origin(self, url: Json) -> None:
        """Raise ValueError for an endpoint to which the arguments and the token may not go.

        The message does not name it, since a URL may hold a password.
        """
        if not is_confidential_url(url):
            raise ValueError("an endpoint is neither https nor of loopback")
        if set("@?#") & set(url):
            raise ValueError("an endpoint has a user, a query or a fragment")
        if _origin_of(url) not in self._origins:
            raise ValueError("an endpoint is at another origin than the PDP, which `origins` does not name")

    async def _post(
        self, operations: RemoteOperations, url: str, body: Mapping[str, Json]
    ) -> dict[str, Json]:
        id = os.urandom(16).hex()
        answer: Answer = await operations.ask(
            "POST", url, json=body, headers={"X-Request-ID": id}, repeatable=True
        )
        if answer.status in _GONE:
            self._endpoints = None  # it may have moved: the next question reads the metadata anew
        if answer.headers.get("x-request-id", id) != id:
            raise ValueError("the answer is to another request")
        return content(answer)

    def _decision(self, answer: object, *, person: bool = False) -> Decision:
        if not isinstance(answer, dict) or not isinstance(answer.get("decision"), bool):
            raise ValueError("the decision is not a boolean")
        context = {} if answer.get("context") is None else answer["context"]
        if not isinstance(context, dict):
            raise ValueError("the context is no object")
        if "error" in context:
            raise ValueError(_UNANSWERED.reason)
        permitted: bool = answer["decision"]
        required = [Obligation(kind="approve")] if person and permitted else []
        required += (read_obligations if permitted else of_a_deny)(context.get("obligations", []))
        verb = "permitted" if permitted else "denied"
        return Decision(
            effect=Effect.PERMIT if permitted else Effect.DENY,
            policy_ids=_ids(context) or (self._url,),
            reason=_reason(context.get("reason_admin")) or f"{verb} by {self._url}",
            advice=_reason(context.get("reason_user")),
            obligations=merge_obligations(required) if permitted else tuple(required),
            policy_version=self.version,
        )


def _origin_of(url: str) -> Origin | None:
    """Return the scheme, host and port to which a request for *url* would go, or None."""
    try:
        return origin_of(httpx.URL(url))
    except httpx.InvalidURL:
        return None


def _named_origin(text: str) -> Origin:
    origin = _origin_of(text) if is_confidential_url(text) else None
    if origin is None or set("@?#") & set(text) or text.count("/") != 2:
        raise ConfigurationError(
            "an origin of the PDP is neither https nor of loopback, or has more than a place in it",
            hint='write the scheme, the host and the port, as in "https://eval.pdp.example"',
        )
    return origin


def _is_error(item: object) -> bool:
    """Return whether an item of a batch says that its question could not be answered."""
    context = item.get("context") if isinstance(item, dict) else None
    return isinstance(context, dict) and "error" in context


def _ids(context: Mapping[str, Json]) -> tuple[str, ...]:
    ids = context.get("policy_ids", [context.get("id")])
    return tuple(id for id in ids if isinstance(id, str)) if isinstance(ids, list) else ()


def _reason(reason: Json) -> str:
    """Return a reason, shortened; of several reasons (by status or language), the first by name."""
    if isinstance(reason, dict) and reason:
        reason = reason[min(reason)]
    return reason[:TEXT] if isinstance(reason, str) else ""
