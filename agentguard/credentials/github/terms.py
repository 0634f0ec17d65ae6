"""Which permissions the broker may ask GitHub for, and whether a token has more than that."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import strict_json
from agentguard.model import Grant, ToolPath
from agentguard.outbound.client import Answer

__all__ = ["check_configuration", "is_within", "members_of", "permissions_for"]

Permissions = Mapping[str, str]

_LEVELS = {"read": 0, "write": 1, "admin": 2}
_SCOPE = re.compile(r"([a-z_]{1,64}):(read|write|admin)")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MAX_REPOSITORIES = 500  # of one token
_TOKEN = re.compile(r"[!-~]+")
_IMPLIED = {"metadata": "read"}  # GitHub adds this to every token for repositories


def check_configuration(
    permissions: Mapping[ToolPath, Permissions], repositories: Mapping[str, Collection[str]]
) -> None:
    """Check the arguments of `GitHubApp`.

    Raises:
        ConfigurationError: See `GitHubApp`.
    """
    for path, levels in permissions.items():
        scopes = [f"{name}:{level}" for name, level in levels.items()]
        if not scopes or not all(map(_SCOPE.fullmatch, scopes)):
            raise ConfigurationError(f"{path} has no valid permissions", hint='such as {"contents": "read"}')
        if path is ToolPath.READ and set(levels.values()) != {"read"}:
            raise ConfigurationError("the READ path has a permission to write", hint="move it to WRITE")
    for resource, names in repositories.items():
        if (
            isinstance(names, str)
            or not 0 < len(names) <= _MAX_REPOSITORIES
            or not all(map(_REPOSITORY.fullmatch, names))
        ):
            raise ConfigurationError(
                f"{resource} has no repositories, more than {_MAX_REPOSITORIES}, or a misspelt one",
                hint='list their names without their owner, such as ["website"]',
            )


def permissions_for(grant: Grant, permissions: Mapping[ToolPath, Permissions]) -> dict[str, str]:
    """Return the permissions that the grant's scopes name.

    Raises:
        IssueError: The grant has no scope, a scope is not one of GitHub's, or a scope is beyond
            *permissions* for the grant's path.
    """
    limits = permissions.get(grant.path)
    if limits is None:
        raise IssueError(f"github: there are no permissions for the {grant.path} path")
    levels: dict[str, str] = {}
    for scope in sorted(grant.scopes):
        match = _SCOPE.fullmatch(scope)
        if match is None:
            raise IssueError("github: a scope is a permission and a level, such as contents:read")
        name, level = match.groups()
        if _LEVELS[level] > _LEVELS.get(limits.get(name, ""), -1):
            raise IssueError(f"github: {scope} is beyond the permissions of the {grant.path} path")
        levels[name] = max(level, levels.get(name, level), key=_LEVELS.__getitem__)
    if not levels:  # without permissions in the request, GitHub gives all that the App has
        raise IssueError("github: a call without scopes is given nothing")
    return levels


def members_of(answer: Answer) -> Mapping[str, Any]:
    """Return the members of an answer with a token.

    Raises:
        IssueError: The answer has no token.
    """
    try:
        members = strict_json(answer.content)
    except ValueError:
        members = None
    token = members.get("token") if isinstance(members, dict) else None
    if not (isinstance(token, str) and _TOKEN.fullmatch(token)):
        raise IssueError("github: answered without a token")
    return dict(members)


def is_within(members: Mapping[str, Any], permissions: Permissions, repositories: Collection[str]) -> bool:
    """Return whether the token has only these permissions and repositories, as far as GitHub says."""
    levels, entries = members.get("permissions"), members.get("repositories")
    if not isinstance(levels, dict) or not isinstance(entries, list):
        return False
    limits = {**_IMPLIED, **permissions}
    has_no_more = all(
        _LEVELS.get(str(level), 9) <= _LEVELS.get(limits.get(name, ""), -1) for name, level in levels.items()
    )
    names = {str(entry.get("name")).lower() if isinstance(entry, dict) else None for entry in entries}
    return (
        has_no_more
        and members.get("repository_selection") == "selected"
        and names <= {name.lower() for name in repositories}
    )
