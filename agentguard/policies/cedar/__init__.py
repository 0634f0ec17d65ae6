"""Cedar policies, evaluated in this process.

policy      `CedarPolicy`: answers requests
reload      `ReloadingCedar`: rules that are replaced while the agent runs
source      Cedar files, read as rules that know their file and line
head        the tools and the resource that the head of a policy names
types       a tool's JSON Schema as a Cedar type, and its arguments as Cedar values
schema      the Cedar schema of a catalog
validation  the type check of rules against the catalog
slices      for each tool, the rules that can hold for it
context     the context of one request
answers     the answers to questions that came already
"""

from agentguard.policies.cedar.policy import CedarPolicy
from agentguard.policies.cedar.reload import ReloadingCedar

__all__ = ["CedarPolicy", "ReloadingCedar"]
