"""Installation tokens of a GitHub App."""

from agentguard.credentials.github.broker import GitHubApp
from agentguard.credentials.github.key import AppKey

__all__ = ["AppKey", "GitHubApp"]
