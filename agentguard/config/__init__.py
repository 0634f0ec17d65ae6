"""agentguard.toml: `load` reads it, `build` makes of it the parts of a guard.

    settings    what may be written, and what it means
    loading     text → Settings, each mistake with its line and its hint
    locate      where in the text a key stands
    building    Settings → Parts, by the embedded adapters

A package, since reading and building share nothing but the settings.
"""

from agentguard.config.build import Parts, build
from agentguard.config.load import load
from agentguard.config.settings import Settings

__all__ = ["Parts", "Settings", "build", "load"]
