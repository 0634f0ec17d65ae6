"""Cedar policies, evaluated in this process.

policy      `CedarPolicy`: answers requests
reload      `ReloadingCedar`: rules that are replaced while the agent runs
source      Cedar files, read as rules that know their file and line
head        the tools and the resource that the head of a policy names
types       a tool's JSON Schema as a Cedar type, and its arguments as Cedar values
schema      the Cedar schema of a catalog
validation  the type check of rules against the catalog
slices      for each tool, the rules that can hold for it
lists       the lengths of lists, and the counts of their entries by a value
syntax      the syntax tree of a rule
view        what rules may look at of a request
context     the context of one request
values      a value of JSON as a value of Cedar
shapes      what rules can see of a tool's arguments and of its facts
facts       the facts of one request as Cedar values
instances   rules about tools that act on one thing in their resource
answers     the answers to questions that came already
"""

from agentguard.policies.cedar.policy import CedarPolicy
from agentguard.policies.cedar.reload import ReloadingCedar

__all__ = ["CedarPolicy", "ReloadingCedar"]
