"""The broker for dynamic database credentials of OpenBao or HashiCorp Vault (one API), and signing by it.

broker   the broker: makes one database role for each call
session  logs in with the workload's identity, and sends requests
logins   the logins that this process has made, and how each is revoked
transit  signs tokens with a key that stays in OpenBao
"""

from agentguard.credentials.openbao.broker import OpenBao
from agentguard.credentials.openbao.session import OpenBaoSession
from agentguard.credentials.openbao.transit import TransitSigner

__all__ = ["OpenBao", "OpenBaoSession", "TransitSigner"]
