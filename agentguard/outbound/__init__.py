"""HTTP to other services.

client        one service, with time-outs, limits and a circuit breaker
destinations  which URLs a credential may travel to
"""
