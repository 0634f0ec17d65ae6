"""Policies that answer access requests: Cedar in process, and plain Python functions.

cedar           `CedarPolicy`: parsed once, type-checked against the catalog
cedar_schema    JSON Schema → Cedar types and values
cedar_source    Cedar text → rules that know their file and line
function        `FunctionPolicy`: a function of the request
lint            gaps in policies that are no errors
"""

from agentguard.policies.cedar import CedarPolicy
from agentguard.policies.function import FunctionPolicy

__all__ = ["CedarPolicy", "FunctionPolicy"]
