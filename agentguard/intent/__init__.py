"""Mandates from templates, filled by the application or by the user's words.

templates   `Template` and `Parameter`: what an application writes for each kind of task
derivation  `Intent`: chooses templates, fills them, and makes a mandate of them
"""

from agentguard.intent.derivation import Derivation, Intent
from agentguard.intent.templates import Parameter, Template

__all__ = ["Derivation", "Intent", "Parameter", "Template"]
