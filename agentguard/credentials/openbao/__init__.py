"""Dynamic secrets of OpenBao or HashiCorp Vault."""

from agentguard.credentials.openbao.broker import OpenBao

__all__ = ["OpenBao"]
