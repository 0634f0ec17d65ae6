"""`agentguard discover`: the settings with which a guard would get credentials for a server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from agentguard import AgentGuardError
from agentguard.cli._console import fail
from agentguard.cli.init.toml import key_of, toml
from agentguard.config.adapters import extra
from agentguard.jose import Json
from agentguard.model.credential import DETAIL_TYPE
from agentguard.text import label

if TYPE_CHECKING:  # it needs an extra
    from agentguard.credentials.oauth.discovery import DiscoveredResource, DiscoveredServer

__all__ = ["command", "fragment"]

_GRANT = "urn:ietf:params:oauth:grant-type:"
_ID_JAG = "urn:ietf:params:oauth:grant-profile:id-jag"
_SCOPES = 20  # named in a comment


def command(
    url: Annotated[str, typer.Argument(help="An MCP server or an API, as in https://api.example/mcp.")],
    name: Annotated[str | None, typer.Option(help="The name of the resource in agentguard.toml.")] = None,
) -> None:
    """Print the settings with which a guard would get credentials for a server, as a part of agentguard.toml.

    The server says who may issue its tokens (RFC 9728), and these authorization servers say what they can
    (RFC 8414). Nothing is sent but the requests for that, and no file is written. A server may name any
    issuer: paste the part only if you know the issuer and trust it with your users' tokens.

    Exit codes: 0 printed; 1 the server says nothing of itself.
    """
    try:
        with extra("issuers"):
            from agentguard.credentials.oauth.discovery import discover
        resource = discover(url)
    except AgentGuardError as error:
        fail(error)
    typer.echo("\n".join(fragment(resource, name or _name(resource.url))))


def fragment(resource: DiscoveredResource, name: str) -> Iterator[str]:
    """Yield the lines; what the servers say stands in strings and comments of one line."""
    yield f"# {_comment(resource.url)} says who may issue its tokens. Paste this into agentguard.toml only if"
    yield "# you know the issuer: a guard takes no issuer from a server. Correct what stands in <>."
    names = [name if number == 1 else f"{name}-{number}" for number in range(1, len(resource.servers) + 1)]
    for broker, server in zip(names, resource.servers, strict=True):
        yield from ("", *_broker(broker, server))
    if resource.unasked:
        yield from ("", f"# It names {resource.unasked} more authorization servers, which were not asked.")
    yield from ("", *_resource(name, resource))


def _broker(name: str, server: DiscoveredServer) -> Iterator[str]:
    if server.problem:
        yield f"# It also names {_comment(server.issuer)}, which cannot be used: {_comment(server.problem)}"
        return
    kind, remark = _kind(server)
    if remark:
        yield f"# {remark}"
    yield f"[brokers.{key_of(name)}]"
    yield f'kind = "{kind}"'
    yield f"issuer = {toml(server.issuer)}"
    yield 'client_id = "<the id of the agent\'s client there>"'
    yield 'client_key = "client.pem"  # the private key of that client'
    if kind == "identity_assertion":
        yield 'idp = "https://<the identity provider of your company>"'
        yield 'idp_client_id = "<the id of the agent\'s client there>"'
        yield 'idp_client_key = "idp-client.pem"'
    if not isinstance(server.members.get("dpop_signing_alg_values_supported"), list):
        yield "bearer = true                # it names no algorithms for DPoP: its tokens are bound to no key"
        yield 'seal = ".agentguard/seal"'
    if not server.names("authorization_details_types_supported", DETAIL_TYPE):
        yield "details = false              # it does not take our details: a token is good for every call"
    yield from _remarks(server)


def _kind(server: DiscoveredServer) -> tuple[str, str]:
    """Return the kind of broker that the server allows, and what is to be said about it."""
    if server.names("grant_types_supported", f"{_GRANT}token-exchange"):
        return "token_exchange", ""
    if server.names("authorization_grant_profiles_supported", _ID_JAG):
        return "identity_assertion", ""
    if server.names("grant_types_supported", f"{_GRANT}jwt-bearer"):
        return (
            "identity_assertion",
            "It takes assertions (RFC 7523), and does not say which.",
        )
    return "token_exchange", "It does not say that it exchanges tokens (RFC 8693): ask who runs it."


def _remarks(server: DiscoveredServer) -> Iterator[str]:
    methods = server.members.get("token_endpoint_auth_methods_supported")
    if isinstance(methods, list) and "private_key_jwt" not in methods:
        yield "# It names no private_key_jwt, by which a guard's client authenticates itself."
    if "revocation_endpoint" not in server.members:
        yield "# It has no revocation_endpoint: a JWT is revoked in the guard's store alone."


def _resource(name: str, resource: DiscoveredResource) -> Iterator[str]:
    usable = [server for server in resource.servers if not server.problem]
    parts = urlsplit(resource.url)
    if names := _texts(resource.members.get("scopes_supported")):
        yield f"# scopes that it names, for the tools: {' '.join(names[:_SCOPES])}"
    yield f"[resources.{key_of(name)}]"
    yield f"origins = [{toml(f'{parts.scheme}://{parts.netloc}')}]"
    yield "# its other paths need an audience and a broker too, each an audience of its own"
    yield f"audiences = {{ read = {toml(resource.url)} }}"
    yield f"discover = {toml(resource.url)}  # no token is asked for while it names another issuer"
    if usable:
        yield f"broker = {{ read = {toml(_broker_of(name, resource, usable[0]))} }}"
    else:
        yield "# It names no authorization server that can be used, so no broker."


def _broker_of(name: str, resource: DiscoveredResource, server: DiscoveredServer) -> str:
    number = resource.servers.index(server) + 1
    return name if number == 1 else f"{name}-{number}"


def _texts(value: Json) -> list[str]:
    return [_comment(text) for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _comment(text: str) -> str:
    """Return a text of a server for a comment: in one line, bounded."""
    return label(text)


def _name(url: str) -> str:
    """Return a name for the resource, by its host."""
    return re.sub(r"[^A-Za-z0-9]+", "-", urlsplit(url).hostname or "").strip("-") or "server"
