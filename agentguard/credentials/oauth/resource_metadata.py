"""Which authorization server a protected resource names, compared with the broker's (RFC 9728).

An MCP server publishes there who may issue its tokens. A token that another authorization server has issued
for it is of no use there, or is taken for what it is not (a mix-up). So the broker mints only where the
resource itself names the broker's issuer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from agentguard.concurrency.drive import Operation, drive
from agentguard.credentials.oauth.token_broker import TokenBroker
from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import Json, strict_json
from agentguard.model import Credential, Grant
from agentguard.outbound.client import Answer, Limits, Outbound
from agentguard.outbound.destinations import is_confidential_url
from agentguard.outbound.services import AsksServices
from agentguard.text import label

__all__ = ["DiscoveringBroker", "fetch_resource_metadata", "servers_in"]

FRESH = 300.0
"""Seconds for which metadata that named the broker's issuer is not fetched again."""
_WELL_KNOWN = "/.well-known/oauth-protected-resource"
_MOST = 3  # names of other servers in a message


class DiscoveringBroker(AsksServices):
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
        self.revoke, self.arevoke = broker.revoke, broker.arevoke

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

    def check(self) -> None:
        """Ask the resource who issues its tokens, and the issuer whether it knows the client.

        Raises:
            IssueError: The resource names another authorization server, or none; or as the broker's `check`.
            IdentityError: The agent cannot prove its identity to the issuer.
        """
        drive(self._require_issuer(self._http.ask.sync))
        self._broker.check()

    @property
    def services(self) -> tuple[Outbound, ...]:
        """The authorization server and the resource."""
        return (*self._broker.services, self._http)

    def __repr__(self) -> str:
        return f"<DiscoveringBroker {self._broker!r} of {self._resource}>"

    def close(self) -> None:
        """Close the connections, and the broker."""
        self._http.close()
        self._broker.close()

    async def _require_issuer(self, ask: Operation) -> None:
        if self._clock() < self._fresh_until:
            return
        servers = servers_in(await fetch_resource_metadata(ask, self._resource), self._resource)
        if self.issuer not in servers:
            names = ", ".join(map(label, servers[:_MOST])) or "none"
            reason = f"its metadata names other authorization servers than {self.issuer}: {names}"
            raise _error(self._resource, reason)
        self._fresh_until = self._clock() + FRESH


async def fetch_resource_metadata(ask: Operation, resource: str) -> Mapping[str, Json]:
    """Return what the resource at the URL *resource*, without a slash at its end, says of itself (RFC 9728).

    Raises:
        IssueError: It says nothing, or what it says is another resource's (section 3.3).
    """
    parts = urlsplit(resource)
    origin = f"{parts.scheme}://{parts.netloc}"
    for url in dict.fromkeys((f"{origin}{_WELL_KNOWN}{parts.path}", f"{origin}{_WELL_KNOWN}")):
        answer: Answer = await ask("GET", url, repeatable=True, headers={"Accept": "application/json"})
        if answer.status == 200:
            return _members(answer.content, resource)
    raise _error(resource, "it publishes no metadata (RFC 9728)")


def servers_in(metadata: Mapping[str, Json], resource: str) -> list[str]:
    """Return the authorization servers that a resource names.

    Raises:
        IssueError: They are not a list.
    """
    servers = metadata.get("authorization_servers", [])
    if not isinstance(servers, list):
        raise _error(resource, "its authorization_servers are not a list")
    return [server for server in servers if isinstance(server, str)]


def _members(content: bytes, resource: str) -> Mapping[str, Json]:
    try:
        metadata = strict_json(content)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise _error(resource, "its metadata is not a JSON object")
    name = metadata.get("resource")
    if not isinstance(name, str) or name.rstrip("/") != resource:
        raise _error(resource, "its metadata is another resource's")
    return metadata


def _error(resource: str, reason: str) -> IssueError:
    return IssueError(f"{resource}: {reason}")
