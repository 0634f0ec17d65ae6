"""What runs inside langchain and langgraph; no other room of the library imports langgraph.

The way of a call from an agent to the tool's own code, by the middleware (a guarded tool that is called
without it begins at `tools`):

    agent.invoke → langgraph's ToolNode
      middleware.wrap_tool_call         finds the tool's gate, and enters the flow: the call is judged
                                        here
        ToolNode → tools.invoke         of the guarded tool in the original's place
          gate.Entrance                 takes the middleware's permit (or enters the flow for one of its
                                        own)
            BaseTool.invoke, run        langchain's own, on the sealed tool: callbacks, tracing, errors
              seal.enter                takes the permit's one entrance, opens the lease
                the tool's own code
              seal.enter                closes the lease, clears the result of secrets
      middleware.wrap_tool_call         leaves the flow: the call ends, its credential is revoked

That is 17 frames for a synchronous call, of which langchain and langgraph have 4. There are three
entrances into the flow: `tools` (invoke, ainvoke, run, arun), `middleware` and `mcp.interceptor`. A
permit is handed over twice, both times in a ContextVar: `gate.prejudged_call` from the middleware to the
gate, and `seal.running_call` from the gate to the sealed tool.

    gate            one for each tool: parts the input, validates the arguments, is the way into the
                    sealed tool
    registry        makes the gates of a guard, and has the policies checked against the tools
    schema          validates arguments; `canonical` freezes them as JSON
    seal            the original as it can be run with a permit only; `streams` clears what it writes,
                    `results` bounds what it gives back
    injection       which arguments are filled from the graph's state; `run_state` reads them there
    tools, middleware, mcp    the entrances
    callbacks       stops a tool that no gate let through
    coverage        says which tools of an agent have no gate
    identification  what a tool is known by, and who has classified it
    definition      the digests of what a tool says of itself, which `agentguard pin` pins
    messages, runs, interrupts      what langchain and langgraph hand over, and LangGraph's interrupt

This package imports langchain-core alone. `middleware` needs the extra ``agentguard[langchain]`` and
`mcp` the extra ``agentguard[mcp]``; both are imported when they are asked for.
"""

from agentguard.langchain.callbacks import Tripwire
from agentguard.langchain.coverage import Coverage, coverage
from agentguard.langchain.gate import Gate, Injected
from agentguard.langchain.tools import GuardedTool, guarded

__all__ = ["Coverage", "Gate", "GuardedTool", "Injected", "Tripwire", "coverage", "guarded"]
