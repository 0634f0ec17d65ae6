"""Cedar policies, evaluated in this process."""

from agentguard.policies.cedar.policy import CedarPolicy
from agentguard.policies.cedar.reload import ReloadingCedar

__all__ = ["CedarPolicy", "ReloadingCedar"]
