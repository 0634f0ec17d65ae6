"""Sources of the agent's own identity: the platform states it, not the agent.

local           a name that the application states; with a key it signs its own tokens
file            a token file: of a Kubernetes service account, or with any OIDC token
spiffe          the SPIFFE Workload API, such as SPIRE's; the extra ``spiffe``
github_actions  a job's OIDC tokens; the extra ``issuers``
tokens          reading, caching and renewing tokens, which the others share

Import a source that needs an extra from its own module. Every source returns the actor without
waiting, and a token for one audience. An identity proves who acts. It does not say what the agent may do.
"""

from __future__ import annotations

from agentguard.identity.file import FileIdentity
from agentguard.identity.local import LocalIdentity

__all__ = ["FileIdentity", "LocalIdentity"]
