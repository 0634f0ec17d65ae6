"""HTTP to other services.

client        requests to one service, with time limits, size limits and a circuit breaker
destinations  which URLs a secret may travel to, and the origin and the normal form of a URL
"""
