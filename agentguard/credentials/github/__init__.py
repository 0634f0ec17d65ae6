"""The broker for installation tokens of a GitHub App.

broker  the broker: one token for one call
terms   which permissions a call may ask for, and whether a token has more
key     the App's private key
"""

from agentguard.credentials.github.broker import GitHubApp
from agentguard.credentials.github.key import AppKey

__all__ = ["AppKey", "GitHubApp"]
