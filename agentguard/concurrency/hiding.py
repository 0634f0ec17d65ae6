"""Hide this process from the other processes of its user.

The import of this module hides the command ``agentguard exec``, whose environment may open a vault. The
package imports it before anything else, since the rest takes most of a second. Until then, which is as long
as Python takes to start, ``/proc`` shows the environment to the user's other processes.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import PurePath

__all__ = ["hide_process"]

_PR_SET_DUMPABLE = 4


def hide_process() -> None:
    """Hide this process's memory and environment from the user's other processes (Linux, until an exec)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


if sys.argv[1:2] == ["exec"] and PurePath(sys.argv[0]).stem == "agentguard":
    hide_process()
