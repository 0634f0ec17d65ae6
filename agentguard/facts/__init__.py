"""Sources of facts: adapters for `ports.FactSource`.

function    `FunctionFact`: a function of the application, of the key or of the request
sql         `SqlFact`: a query with bound parameters
idle        `IdleConnections`: connections for it that are used again
http        `HttpFact`: an endpoint of one service, with the READ credential that the guard gives it
tool        `ToolFact`: a READ tool of the catalog, called through the guard
types       a JSON Schema of agentguard.toml as a type
"""

from agentguard.facts.function import FunctionFact, fact_of
from agentguard.facts.http import HttpFact
from agentguard.facts.idle import IdleConnections
from agentguard.facts.sql import SqlFact
from agentguard.facts.tool import ToolFact
from agentguard.facts.types import type_of

__all__ = ["FunctionFact", "HttpFact", "IdleConnections", "SqlFact", "ToolFact", "fact_of", "type_of"]
