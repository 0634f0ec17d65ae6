"""Open Policy Agent as a policy decision point beyond this process, by its REST data API."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping

import httpx

from agentguard.errors import AgentGuardError, ConfigurationError
from agentguard.model import AccessRequest, Decision, Effect, Obligation
from agentguard.model.arguments import Json
from agentguard.policies._bearer import TokenSource
from agentguard.policies._question import question, with_approval
from agentguard.policies._remote import (
    TEXT,
    Remote,
    RemoteOperations,
    content,
    of_a_deny,
    read_obligations,
)
from agentguard.policies.combine import merge_obligations

__all__ = ["Opa", "OpaError"]

_PATH = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_FIELDS = frozenset({"allow", "policies", "reason", "advice", "obligations"})
# if a built-in function fails, the whole answer is an error: else OPA would skip the rule, which may deny
_QUERY = "provenance=true&strict-builtin-errors=true"


class OpaError(AgentGuardError):
    """OPA gave no answer that counts, so the guard denies. The error holds nothing of the question."""


class Opa(Remote):
    """Asks the OPA at *url* for the document *path*, and denies whatever it does not clearly permit.

    ``input`` has ``subject``, ``action``, ``resource`` and ``context``, the same as for `AuthZen`; **the
    values of the tool's arguments are sent**, as ``input.resource.properties``. Credentials are not. A call
    that would be permitted with ``input.context.approval`` needs a person; that is a second question.

    The document is an object of these fields and no others, of which ``allow`` alone is required::

        {"allow": bool, "policies": [id], "reason": str, "advice": str,
         "obligations": [{"type": kind, "properties": {...}}]}

    Without ``policies``, the document itself is what determined the answer. An undefined document is a deny.
    The guard denies for an obligation that it does not know. Those of a deny are executed too
    (``session_termination``). The id under which OPA logs the decision becomes
    `Decision.decision_id`.

    *version* names the rules in force at OPA. If the rules come in bundles, the revisions of the bundles are
    added to each decision's `policy_version`, so that an approval asked under another revision does not hold.
    Change *version* with rules that come in another way. *timeout*, in seconds, is for each of: waiting for
    one of *limit* places, and each question. The places of the synchronous path, and those of each event
    loop, are counted apart, and so are those of each subject.

    *token* is the source of a bearer token, by which the guard authenticates itself at the PDP. For mutual
    TLS, give an `ssl.SSLContext` with a certificate as *verify*.

    Raises:
        ConfigurationError: The url is neither https nor of loopback, or has more than a place in it; or
            the path is not names with slashes between them.
    """

    def __init__(
        self,
        url: str,
        *,
        version: str,
        path: str = "agentguard/decision",
        timeout: float = 1.0,
        limit: int = 16,
        verify: ssl.SSLContext | bool = True,
        token: TokenSource | None = None,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(
            "opa",
            url,
            error=OpaError,
            version=version,
            timeout=timeout,
            limit=limit,
            verify=verify,
            transport=transport,
            async_transport=async_transport,
            token=token,
        )
        if not _PATH.fullmatch(path):
            raise ConfigurationError(
                f"{path!r} is no path of an OPA document", hint="as in agentguard/decision"
            )
        self._path = path
        self._where = f"{self._url}/v1/data/{path}?{_QUERY}"

    async def _decide(self, request: AccessRequest, operations: RemoteOperations) -> Decision:
        body = question(request)
        first = await self._ask(operations, body)
        if first.permitted or first.ends_session or request.approval is not None:
            return first
        second = await self._ask(operations, with_approval(body), person=True)
        return second if second.permitted else first

    async def _ask(
        self, operations: RemoteOperations, body: Mapping[str, Json], *, person: bool = False
    ) -> Decision:
        answer = content(await operations.ask("POST", self._where, json={"input": body}, repeatable=True))
        undefined = {"allow": False, "reason": f"{self._path} is undefined at {self._url}"}
        result = answer.get("result", undefined)
        if not isinstance(result, dict) or not isinstance(result.get("allow"), bool):
            raise ValueError("allow is not a boolean")
        if not _FIELDS.issuperset(result):
            raise ValueError("the result has fields that mean nothing here")
        permitted: bool = result["allow"]
        obliged = (read_obligations if permitted else of_a_deny)(result.get("obligations", []))
        if person and permitted:
            obliged = [Obligation(kind="approve"), *obliged]
        verb = "permitted" if permitted else "denied"
        return Decision(
            effect=Effect.PERMIT if permitted else Effect.DENY,
            policy_ids=_ids(result) or (f"{self._url} {self._path}",),
            reason=_text(result, "reason")[:TEXT] or f"{verb} by {self._path} at {self._url}",
            advice=_text(result, "advice")[:TEXT],
            obligations=merge_obligations(obliged) if permitted else tuple(obliged),
            policy_version=self.version + _revisions(answer),
            decision_id=_text(answer, "decision_id"),
            applicable="result" in answer,
        )


def _ids(result: Mapping[str, Json]) -> tuple[str, ...]:
    ids = result.get("policies", [])
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise ValueError("the policies are not a list of ids")
    return tuple(ids)


def _text(document: Mapping[str, Json], name: str) -> str:
    text = document.get(name, "")
    if not isinstance(text, str):
        raise ValueError(f"{name} is no text")
    return text


def _revisions(answer: Mapping[str, Json]) -> str:
    """Return the revisions of the bundles that the rules came from, or nothing where there are none."""
    provenance = answer.get("provenance", {})
    if not isinstance(provenance, dict):
        raise ValueError("the provenance is no object")
    revisions = {name: provenance[name] for name in ("revision", "bundles") if provenance.get(name)}
    return f" {json.dumps(revisions, sort_keys=True)}" if revisions else ""
