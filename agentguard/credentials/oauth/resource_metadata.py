"""Which authorization server a protected resource names, compared with the broker's (RFC 9728).

An MCP server publishes there who may issue its tokens. A token that another authorization server has issued
for it is of no use there, or is taken for what it is not (a mix-up). So the broker mints only where the
resource itself names the broker's issuer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from agentguard.concurrency.drive import Operation, drive
from agentguard.credentials.oauth.token_broker import TokenBroker
from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import strict_json
from agentguard.model import Credential, Grant
from agentguard.outbound.client import Answer, Limits, Outbound
from agentguard.outbound.destinations import is_confidential_url
from agentguard.text import label

__all__ = ["DiscoveringBroker"]

FRESH = 300.0
"""Seconds for which metadata that named the broker's issuer is not fetched again."""
_WELL_KNOWN = "/.well-known/oauth-protected-resource"
_MOST = 3  # names of other servers in a message


class DiscoveringBroker:
    """A `Broker` that mints by *broker*, while the resource at the URL *resource* names the broker's issuer.

    The metadata is fetched from the origin of *resource*, and from no place that the server names. A redirect
    is not followed. The first of the two places in RFC 9728 section 3.1 that answers counts.

    Raises:
        ConfigurationError: *resource* is not an https URL, or has a query or a fragment.
    """

    def __init__(
        self,
        broker: TokenBroker,
        resource: str,
        http: Outbound | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if "?" in resource or "#" in resource or not is_confidential_url(resource):
            raise ConfigurationError(
                "discover is the https URL of an MCP server", hint="leave out query and fragment"
            )
        self.issuer, self.paths, self.traits = broker.issuer, broker.paths, broker.traits
        self._broker, self._resource, self._clock = broker, resource.rstrip("/"), clock
        self._http = http or Outbound(resource, resource, limits=Limits(timeout=2.0))
        self._fresh_until = 0.0
        self.revoke, self.arevoke, self.check = broker.revoke, broker.arevoke, broker.check

    def issue(self, grant: Grant) -> Credential:
        """Mint as the broker does.

        Raises:
            IssueError: The resource names another authorization server, or none, or the broker cannot mint.
            IdentityError: The agent cannot prove its identity to the issuer.
        """
        drive(self._require_issuer(self._http.ask.sync))
        return self._broker.issue(grant)

    async def aissue(self, grant: Grant) -> Credential:
        """Do the same as `issue`, without blocking the event loop."""
        await self._require_issuer(self._http.ask.async_)
        return await self._broker.aissue(grant)

    def close(self) -> None:
        """Close the connections, and the broker."""
        self._http.close()
        self._broker.close()

    async def _require_issuer(self, ask: Operation) -> None:
        if self._clock() < self._fresh_until:
            return
        servers = self._servers(await self._fetch(ask))
        if self.issuer not in servers:
            names = ", ".join(map(label, servers[:_MOST])) or "none"
            raise self._error(f"its metadata names other authorization servers than {self.issuer}: {names}")
        self._fresh_until = self._clock() + FRESH

    async def _fetch(self, ask: Operation) -> bytes:
        parts = urlsplit(self._resource)
        origin = f"{parts.scheme}://{parts.netloc}"
        for url in dict.fromkeys((f"{origin}{_WELL_KNOWN}{parts.path}", f"{origin}{_WELL_KNOWN}")):
            answer: Answer = await ask("GET", url, repeatable=True, headers={"Accept": "application/json"})
            if answer.status == 200:
                return answer.content
        raise self._error("it publishes no metadata (RFC 9728)")

    def _servers(self, content: bytes) -> list[str]:
        """Return the authorization servers that metadata names, if it is this resource's (section 3.3)."""
        try:
            metadata = strict_json(content)
        except ValueError:
            metadata = None
        if not isinstance(metadata, dict):
            raise self._error("its metadata is not a JSON object")
        resource, servers = metadata.get("resource"), metadata.get("authorization_servers", [])
        if not isinstance(resource, str) or resource.rstrip("/") != self._resource:
            raise self._error("its metadata is another resource's")
        if not isinstance(servers, list):
            raise self._error("its authorization_servers are not a list")
        return [server for server in servers if isinstance(server, str)]

    def _error(self, reason: str) -> IssueError:
        return IssueError(f"{self._resource}: {reason}")
