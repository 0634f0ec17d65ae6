"""Where the agent's own identity comes from: what its platform says, never what it says itself.

    local           a name that the application states; with a key it signs its own tokens
    file            a token file: Kubernetes service accounts, any OIDC token
    spiffe          SPIFFE Workload API, such as SPIRE's; the extra ``spiffe``
    github_actions  a job's OIDC tokens; the extra ``issuers``
    tokens          what these have in common: reading, keeping and renewing tokens

Those that need an extra are imported by their own name. All give the actor at once, and a token for
one audience at a time. Identity proves who acts; it says nothing of what may be done.
"""

from __future__ import annotations

from agentguard.identity.file import FileIdentity
from agentguard.identity.local import LocalIdentity

__all__ = ["FileIdentity", "LocalIdentity"]
