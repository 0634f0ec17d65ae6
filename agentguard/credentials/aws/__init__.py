"""The broker for sessions of an AWS role: STS opens a session, and an IAM policy revokes it.

broker      the broker: one session for one call
policy      the session's policy, name and tags; the policy that denies revoked sessions
revocation  writes the denying policies to the role
api         calls to AWS, with time limits and explicit credentials only
"""

from agentguard.credentials.aws.api import AwsConnection
from agentguard.credentials.aws.broker import AUDIENCE, AwsRole
from agentguard.credentials.aws.policy import Statement

__all__ = ["AUDIENCE", "AwsConnection", "AwsRole", "Statement"]
