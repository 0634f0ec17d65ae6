"""Policies that answer access requests: Cedar in process, plain Python functions, and others.

authzen         `AuthZen`: a PDP beyond this process, by AuthZEN 1.0
cedar           `CedarPolicy`: read once, type-checked against the catalog
cedar_context   what rules see of a call: the context
cedar_head      which tools and which resource the head of a policy names
cedar_reload    `ReloadingCedar`: rules that are replaced while the agent runs
cedar_schema    JSON Schema → Cedar types and values
cedar_slices    the policies that can hold for a tool, apart from all others
cedar_source    Cedar text → rules that know their file and line
cedar_suggested Cedar policies made of recorded runs
combine         `Combine`: several policies as one
explaining      the smallest changes that would turn a decision
function        `FunctionPolicy`: a function of the request
lint            gaps in policies that are no errors
opa             `Opa`: a PDP beyond this process, by OPA's data API
simulating      what other rules would say to recorded calls
suggesting      the least that recorded runs have needed
"""

from agentguard.policies.cedar.policy import CedarPolicy
from agentguard.policies.cedar.reload import ReloadingCedar
from agentguard.policies.function import FunctionPolicy

__all__ = ["CedarPolicy", "FunctionPolicy", "ReloadingCedar"]
