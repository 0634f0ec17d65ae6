"""agentguard.toml: `load` reads the file, and `build` makes the parts of a guard from it.

settings          the tables and keys of the file, except those of the next three modules
adapter_settings  ``[identity]``, ``[brokers.NAME]`` and ``[signals.NAME]``, each by its kind
pdps              ``[pdps.NAME]``: policy decision points that are other services
tasks             ``[tasks.NAME]``: templates of mandates
tables            what all settings classes share
load              from the file's text to `Settings`; each error has its line and a hint
positions         in which line of the text a key stands
build             from `Settings` to `Parts`
adapters          from settings to identity sources, brokers and transmitters
oauth             from settings to the brokers of authorization servers
tls               from named files to the certificates that a connection trusts
"""

from agentguard.config.build import Parts, build
from agentguard.config.load import load
from agentguard.config.settings import Settings

__all__ = ["Parts", "Settings", "build", "load"]
