"""HTTP to other services.

client        requests to one service, with time limits, size limits and a circuit breaker
connections   one httpx client for threads, and one for each event loop
deadline      connections of the synchronous path that keep a deadline, whatever the peer sends
destinations  which URLs a secret may travel to, and the origin and the normal form of a URL
"""
