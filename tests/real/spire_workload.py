"""A workload of SPIRE's, as the user whose uid it is given: answers, line by line, what it is told.

It becomes that user by itself, since the interpreter may lie where only root can start it.
"""

from __future__ import annotations

import os
import sys

from agentguard.errors import IdentityError
from agentguard.identity.spiffe import SpiffeIdentity

os.setgroups([])
os.setgid(65534)
os.setuid(int(sys.argv[1]))
source = SpiffeIdentity(timeout=2.0, pause=0.1)
for line in sys.stdin:
    try:
        answer = source.actor() if line == "\n" else source.token(line.strip()).reveal()
    except IdentityError as error:
        answer = f"IdentityError: {error}"
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()
source.close()
