"""What may be asked of GitHub for a call, and whether what was given is no more."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from agentguard.errors import ConfigurationError, IssueError
from agentguard.jose import strict_json
from agentguard.model import Grant, ToolPath
from agentguard.outbound.client import Answer

__all__ = ["given_by", "permitted", "sound", "within"]

Permissions = Mapping[str, str]

_LEVELS = {"read": 0, "write": 1, "admin": 2}
_SCOPE = re.compile(r"([a-z_]{1,64}):(read|write|admin)")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MOST = 500  # repositories of one token
_TOKEN = re.compile(r"[!-~]+")
_IMPLIED = {"metadata": "read"}  # GitHub adds it to whatever is asked of a repository


def sound(permissions: Mapping[ToolPath, Permissions], repositories: Mapping[str, Collection[str]]) -> None:
    """Hold a configuration to GitHub's terms.

    Raises:
        ConfigurationError: See `GitHubApp`.
    """
    for path, most in permissions.items():
        scopes = [f"{name}:{level}" for name, level in most.items()]
        if not scopes or not all(map(_SCOPE.fullmatch, scopes)):
            raise ConfigurationError(
                f"the permissions of {path} are none", hint='such as {"contents": "read"}'
            )
        if path is ToolPath.READ and set(most.values()) != {"read"}:
            raise ConfigurationError("the READ path would write", hint="move what writes to WRITE")
    for resource, names in repositories.items():
        if (
            isinstance(names, str)
            or not 0 < len(names) <= _MOST
            or not all(map(_REPOSITORY.fullmatch, names))
        ):
            raise ConfigurationError(
                f"the repositories of {resource} are none, more than {_MOST}, or misspelt",
                hint='list their names without their owner, such as ["website"]',
            )


def permitted(grant: Grant, permissions: Mapping[ToolPath, Permissions]) -> dict[str, str]:
    """Return the permissions that the grant's scopes name.

    Raises:
        IssueError: There are none, or one is not a scope of GitHub's, or beyond *permissions* for the
            grant's path.
    """
    most = permissions.get(grant.path)
    if most is None:
        raise IssueError(f"github: nothing is provided for the {grant.path} path")
    asked: dict[str, str] = {}
    for scope in sorted(grant.scopes):
        found = _SCOPE.fullmatch(scope)
        if found is None:
            raise IssueError("github: a scope is a permission and a level, such as contents:read")
        name, level = found.groups()
        if _LEVELS[level] > _LEVELS.get(most.get(name, ""), -1):
            raise IssueError(f"github: {scope} is not provided for on the {grant.path} path")
        asked[name] = max(level, asked.get(name, level), key=_LEVELS.__getitem__)
    if not asked:  # asked for none, GitHub gives all that the App has
        raise IssueError("github: a call without scopes is given nothing")
    return asked


def given_by(answer: Answer) -> Mapping[str, Any]:
    """Return the answer's members, among which is a token.

    Raises:
        IssueError: There is none.
    """
    try:
        given = strict_json(answer.content)
    except ValueError:
        given = None
    token = given.get("token") if isinstance(given, dict) else None
    if not (isinstance(token, str) and _TOKEN.fullmatch(token)):
        raise IssueError("github: answered without a token")
    return dict(given)


def within(given: Mapping[str, Any], permissions: Mapping[str, str], repositories: Collection[str]) -> bool:
    """Return whether the token may do no more than was asked, as far as GitHub says."""
    levels, reached = given.get("permissions"), given.get("repositories")
    if not isinstance(levels, dict) or not isinstance(reached, list):
        return False
    asked = {**_IMPLIED, **permissions}
    narrow = all(
        _LEVELS.get(str(level), 9) <= _LEVELS.get(asked.get(name, ""), -1) for name, level in levels.items()
    )
    names = {str(each.get("name")).lower() if isinstance(each, dict) else None for each in reached}
    return (
        narrow
        and given.get("repository_selection") == "selected"
        and names <= {name.lower() for name in repositories}
    )
