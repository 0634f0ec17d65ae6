"""Mandates from templates: `templates` is what an application writes, `derivation` what is made of it."""

from agentguard.intent.derivation import Derivation, Intent
from agentguard.intent.templates import Parameter, Template

__all__ = ["Derivation", "Intent", "Parameter", "Template"]
