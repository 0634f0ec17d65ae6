"""What a protected resource and its authorization servers say of themselves, for an operator to choose from.

A guard takes none of it: who issues credentials is said by agentguard.toml alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import NamedTuple
from urllib.parse import urlsplit

from agentguard.concurrency.drive import drive
from agentguard.credentials.oauth.resource_metadata import fetch_resource_metadata, servers_in
from agentguard.credentials.oauth.server import metadata_urls
from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import Json, htu, strict_json
from agentguard.outbound.client import Answer, Limits, Outbound
from agentguard.outbound.destinations import is_confidential, is_confidential_url

__all__ = ["MOST", "DiscoveredResource", "DiscoveredServer", "discover"]

MOST = 3
"""How many authorization servers of a resource are asked."""
_LIMITS = Limits(timeout=5.0, attempts=1)


class DiscoveredServer(NamedTuple):
    """An authorization server that a resource names; without *members*, *problem* says why."""

    issuer: str
    members: Mapping[str, Json]
    problem: str = ""

    def names(self, member: str, value: str) -> bool:
        """Return whether a list of its metadata has a value."""
        values = self.members.get(member)
        return isinstance(values, list) and value in values


class DiscoveredResource(NamedTuple):
    """A resource at `url`, what it says of itself, and the authorization servers that were asked."""

    url: str
    members: Mapping[str, Json]
    servers: tuple[DiscoveredServer, ...]
    unasked: int = 0


def discover(url: str, open_: Callable[[str], Outbound] | None = None) -> DiscoveredResource:
    """Ask the resource at *url* (RFC 9728), and the authorization servers that it names (RFC 8414).

    No credential is sent, no redirect is followed, and nothing is asked that is not reached by https. Only a
    resource of this machine is asked by http, and so are the servers that it names: no other one has this
    machine's own services asked.

    Raises:
        ConfigurationError: *url* is not an https URL, or has a query or a fragment.
        IssueError: The resource does not answer, or says nothing of itself.
    """
    if not _is_plain(url):
        raise ConfigurationError(
            f"{url!r} is not the https URL of a server", hint="leave out query and fragment"
        )
    open_ = open_ or (lambda place: Outbound(place, place, limits=_LIMITS))
    resource = url.rstrip("/")
    with closing(open_(resource)) as http:
        members = drive(fetch_resource_metadata(http.ask.sync, resource))
    issuers = list(dict.fromkeys(servers_in(members, resource)))
    servers = tuple(_ask(issuers[:MOST], open_, from_here=_is_here(resource)))
    return DiscoveredResource(resource, members, servers, len(issuers) - len(servers))


def _ask(
    issuers: Iterable[str], open_: Callable[[str], Outbound], *, from_here: bool
) -> Iterator[DiscoveredServer]:
    for issuer in issuers:
        if not _is_plain(issuer):
            yield DiscoveredServer(issuer, {}, "it is not an https URL without query and fragment")
            continue
        if _is_here(issuer) and not from_here:
            yield DiscoveredServer(issuer, {}, "it is on this machine, where the resource is not")
            continue
        try:
            with closing(open_(issuer)) as http:
                yield DiscoveredServer(issuer, drive(_members(issuer, http)))
        except IssueError as error:
            yield DiscoveredServer(issuer, {}, str(error))


async def _members(issuer: str, http: Outbound) -> Mapping[str, Json]:
    for url in metadata_urls(issuer):
        headers = {"Accept": "application/json"}
        answer: Answer = await http.ask.sync("GET", url, repeatable=True, headers=headers)
        if answer.status != 200:
            continue
        try:
            members = strict_json(answer.content)
        except ValueError:
            members = None
        if not isinstance(members, dict) or members.get("issuer") != issuer:
            raise IssueError(f"{issuer}: its metadata is no JSON object, or another issuer's")
        return members
    raise IssueError(f"{issuer}: publishes no metadata (RFC 8414)")


def _is_here(url: str) -> bool:
    return is_confidential("http", urlsplit(url).hostname)


def _is_plain(url: str) -> bool:
    try:
        return "?" not in url and "#" not in url and is_confidential_url(htu(url))
    except ValueError:
        return False
