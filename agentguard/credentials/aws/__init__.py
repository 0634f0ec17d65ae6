"""Sessions of an AWS role (STS), and their revocation (IAM)."""

from agentguard.credentials.aws.broker import AUDIENCE, AwsRole
from agentguard.credentials.aws.policy import Statement

__all__ = ["AUDIENCE", "AwsRole", "Statement"]
