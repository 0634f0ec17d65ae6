"""Policies: each answers an access request with a decision.

cedar     Cedar policies, evaluated in this process; type-checked against the catalog's tools
function  `FunctionPolicy`: a Python function of the request
combine   `Combine`: several policies as one
authzen   `AuthZen`: a policy decision point (PDP) beyond this process, by OpenID AuthZEN 1.0
opa       `Opa`: an Open Policy Agent beyond this process, by its data API
_remote   what `authzen` and `opa` share: requests with their limits, and the reading of answers
_question the question that they ask

For a new input of rules: add a row to the table in `agentguard.model.inputs`, for a field that is filled
elsewhere (see the docstring of `agentguard`). Tools for authors of policies are in `agentguard.analysis`.
"""

from agentguard.policies.cedar.policy import CedarPolicy
from agentguard.policies.cedar.reload import ReloadingCedar
from agentguard.policies.function import FunctionPolicy

__all__ = ["CedarPolicy", "FunctionPolicy", "ReloadingCedar"]
