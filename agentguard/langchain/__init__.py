"""The only rooms that know langchain and langgraph.

`shape` validates arguments, `seal` is the inside of a guarded tool, `gate` judges before it and `gates`
keeps them all;
`tools`, `middleware` and `callbacks` are the three ways to put a gate into an agent, and `coverage`
says what has none. This package imports langchain-core alone; `middleware` needs the extra
``agentguard[langchain]`` and is imported when it is asked for.
"""

from agentguard.langchain.callbacks import Tripwire
from agentguard.langchain.coverage import Coverage, coverage
from agentguard.langchain.gate import Gate, Injected
from agentguard.langchain.tools import GuardedTool, guarded

__all__ = ["Coverage", "Gate", "GuardedTool", "Injected", "Tripwire", "coverage", "guarded"]
